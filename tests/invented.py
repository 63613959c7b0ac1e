"""Finished runs with invented numbers, for tests of what is made of them."""

import json
from collections.abc import Mapping, Sequence

from torch import nn

from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.data import synthetic
from pipeline.runs.run_result import RunResult

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
    **tags: str,
) -> RunResult:
    """A run of three epochs of 10 s, that ends with the accuracy `reached`."""
    history = [
        {
            "train_loss": 2.0,
            "train_accuracy": reached + 0.02,
            "val_loss": 2.0 - reached,
            "val_accuracy": (reached if held_out is None else held_out) * share,
            "epoch_seconds": 10.0,
            "images_per_second": 1000.0,
        }
        for share in (0.5, 0.9, 1.0)
    ]
    if config.validation == "holdout":
        history[-1] |= {"test_loss": 2.0 - reached, "test_accuracy": reached}
    name = f"{config.run_name}-{config.lr:g}"
    recorded = {
        "precision": "fp32",
        "data_digest": "0",
        "device": "cpu",
        "threads": "2",
        "ablation": of.name,
        "settings": json.dumps(of.values(config.variant)),
        "criterion": of.criterion.__name__,
        "optimizer": "Adam",
        "other_weights": "",
        "learning": "ok",
    }
    return RunResult(name, "0", config, 1000, "", history, recorded | tags)


def study(accuracies: Accuracies, of: Ablation = TUTORIAL, **settings: object) -> list[RunResult]:
    """A run of each accuracy. settings: of the configuration."""
    return [
        result(Config(variant=variant, seed=seed, **settings), value, of=of)  # type: ignore[arg-type]
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
