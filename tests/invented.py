"""Finished runs with invented numbers, for tests of what is made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.data import synthetic
from pipeline.runs.identity import Identity
from pipeline.runs.record import RunRecord
from pipeline.training.history import Epoch

Accuracies = Mapping[str, Sequence[float]]  # by variant, one for each seed

TUTORIAL = load_ablation(AUTO)


def network(num_classes: int, **settings: object) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def ablation(variants: Mapping[str, Mapping[str, object]], **others: object) -> Ablation:
    """An ablation of a network that takes any settings; of `words`, those of its own are kept."""
    named = {name for settings in variants.values() for name in settings}
    words = {n: word for n, word in others.pop("words", {}).items() if n in named}  # type: ignore[attr-defined]
    data = {"synthetic": synthetic.generate}
    return Ablation(network, variants, data, words=words, name="own", **others)  # type: ignore[arg-type]


def result(
    config: Config,
    reached: float,
    held_out: float | None = None,
    of: Ablation = TUTORIAL,
    **facts: Any,
) -> RunRecord:
    """A run of three epochs of 10 s, that ends with the accuracy `reached`.

    facts: fields of its record, or of its identity.
    """
    history = [
        Epoch(
            train_loss=2.0,
            train_accuracy=reached + 0.02,
            val_loss=2.0 - reached,
            val_accuracy=(reached if held_out is None else held_out) * share,
            lr=config.lr,
            epoch_seconds=10.0,
            images_per_second=1000.0,
        )
        for share in (0.5, 0.9, 1.0)
    ]
    if config.validation == "holdout":
        last = replace(history[-1], test_loss=2.0 - reached, test_accuracy=reached)
        history = [*history[:-1], last]
    return record(config, of, history=tuple(history), **facts)


def record(config: Config, of: Ablation = TUTORIAL, **facts: Any) -> RunRecord:
    """A finished run. facts: fields of its record, or of its identity."""
    known: dict[str, Any] = {
        **asdict(config),
        "ablation": of.name,
        "precision": "fp32",
        "data_digest": "0",
        "device": "cpu",
        "threads": 2,
        "images": "8x8 pixels",
        "names_digest": "0",
        "code_digest": "0",
        "torch": "2",
    }
    names = {one.name for one in fields(Identity)}
    known |= {name: facts.pop(name) for name in names & facts.keys()}
    identity = Identity(**{name: known[name] for name in names})
    given: dict[str, Any] = {
        "run_id": f"{config.run_name}-{config.lr:g}",
        "experiment_id": "0",
        "network": "CNNNetwork",
        "criterion": of.criterion.__name__,
        "optimizer": "Adam",
        "schedule": "none",
        "augmentation": "none",
        "num_classes": 100,
        "num_parameters": 1000,
        "other_weights": {},
        "total_images": 50_000,
        "validation_digest": "0",
        "validation_scheme": "train=False split",
        "learning": "ok",
    }
    settings = facts.pop("settings", None)
    settings = of.values(config.variant) if settings is None else settings
    return RunRecord(identity=identity, config=config, settings=settings, **given | facts)


def study(accuracies: Accuracies, of: Ablation = TUTORIAL, **settings: object) -> list[RunRecord]:
    """A run of each accuracy. settings: of the configuration."""
    return [
        result(Config(variant=variant, seed=seed, **settings), value, of=of)  # type: ignore[arg-type]
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def assert_labels_fit(figures: Mapping[str, Figure]) -> None:
    """No name of an axis is cut off at the edge of its picture."""
    for name, figure in figures.items():
        figure.draw_without_rendering()
        for label in (one for axes in figure.axes for one in (axes.xaxis.label, axes.yaxis.label)):
            (left, low), (right, high) = label.get_window_extent().get_points()
            inside = min(left, low) >= 0 and right <= figure.bbox.x1 and high <= figure.bbox.y1
            assert inside or not label.get_text(), (name, label.get_text())
