"""Figures and tables. They are drawn without pyplot, which would keep every figure in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pipeline.config import VARIANTS
from pipeline.data.dataset import ImageDataset
from pipeline.evaluation import Integers
from pipeline.results import RunResult
from pipeline.statistics import Comparison, Outcome, compare, corrected, sentence
from pipeline.training import History

# Okabe and Ito's palette (2008), which colour-blind readers tell apart; dashes serve print in grey.
STYLES = dict(
    zip(
        VARIANTS,
        [("#0072B2", "-"), ("#E69F00", "--"), ("#009E73", "-."), ("#CC79A7", ":")],
        strict=True,
    )
)


class Pair(NamedTuple):
    """Two variants to compare, and what the first has that the second lacks."""

    treatment: str
    control: str
    subject: str


class Effect(NamedTuple):
    """A comparison, with its result in numbers and in a sentence."""

    pair: Pair
    comparison: Comparison
    sentence: str


COMPARISONS = (
    Pair("bn", "base", "BatchNorm"),
    Pair("dropout", "bn", "Dropout on top of BatchNorm"),
    Pair("dropout", "base", "BatchNorm with Dropout"),
)
ACCURACY = Outcome("validation accuracy", "points", scale=100)


def comparison_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """One row per run: the last epoch's metrics, seconds in all, size, and registered version."""
    return pd.DataFrame(
        {
            "run": result.config.run_name,
            "val_accuracy": result.history[-1]["val_accuracy"],
            "val_loss": result.history[-1]["val_loss"],
            "train_accuracy": result.history[-1]["train_accuracy"],
            "train_loss": result.history[-1]["train_loss"],
            "seconds": result.seconds,
            "parameters": result.parameters,
            "model": result.registered.uri if result.registered else "",
            "run_id": result.run_id,
        }
        for result in results
    )


def format_table(table: pd.DataFrame) -> str:
    """The columns of `comparison_table` that fit a terminal, rounded for reading."""
    shown = pd.DataFrame(
        {
            "run": table["run"],
            "accuracy": table["val_accuracy"].map("{:.1%}".format),
            "loss": table["val_loss"].map("{:.3f}".format),
            "seconds": table["seconds"].map("{:.1f}".format),
            "parameters": table["parameters"].map("{:,}".format),
            "model version": table["model"],
        }
    )
    return str(shown.to_string(index=False))


def effects(results: Sequence[RunResult]) -> list[Effect]:
    """What each addition does to the validation accuracy, paired seed by seed, Holm-corrected.

    Only comparisons both of whose variants are among `results`, which hold the same seeds for each.
    """
    accuracy: dict[str, list[float]] = {}
    for result in results:
        values = accuracy.setdefault(result.config.variant, [])
        values.append(result.history[-1]["val_accuracy"])
    made = [pair for pair in COMPARISONS if {pair.treatment, pair.control} <= accuracy.keys()]
    family = corrected(
        [compare(accuracy[pair.treatment], accuracy[pair.control], ACCURACY) for pair in made]
    )
    return [
        Effect(pair, comparison, sentence(pair.subject, comparison, ACCURACY))
        for pair, comparison in zip(made, family, strict=True)
    ]


def learning_curves(history: History, title: str) -> Figure:
    """Loss and accuracy of one run by epoch, in training and in validation."""
    figure, panels = _panels(title)
    for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
        for split, style in (("train", "--"), ("val", "-")):
            values = [epoch[f"{split}_{metric}"] for epoch in history]
            label = {"train": "training", "val": "validation"}[split]
            axes.plot(range(1, len(values) + 1), values, f".{style}", color="#0072B2", label=label)
        axes.legend()
    return figure


def comparison_curves(results: Sequence[RunResult], title: str) -> Figure:
    """Validation loss and accuracy by epoch: a line per run, a thick one per variant."""
    figure, panels = _panels(title)
    for axes, metric in zip(panels, ("val_loss", "val_accuracy"), strict=True):
        for variant, (colour, dashes) in STYLES.items():
            runs = [
                [epoch[metric] for epoch in result.history]
                for result in results
                if result.config.variant == variant
            ]
            if not runs:
                continue
            epochs = range(1, len(runs[0]) + 1)
            label = f"{variant} ({len(runs)} seed{'s' * (len(runs) > 1)})"
            axes.plot(
                epochs, np.mean(runs, axis=0), f".{dashes}", color=colour, linewidth=2, label=label
            )
            if len(runs) > 1:
                axes.plot(epochs, np.transpose(runs), color=colour, linewidth=0.6, alpha=0.5)
        axes.legend()
    return figure


def confusion_figure(confusion: Integers, data: ImageDataset, title: str) -> Figure:
    """The confusion matrix as a picture, its classes ordered by superclass.

    Confusions within a superclass so fall into the squares along the diagonal.
    """
    superclass_of = np.array(data.superclass_of)
    order = np.argsort(superclass_of, kind="stable")
    fractions = confusion[np.ix_(order, order)] / confusion.sum(axis=1)[order, None]
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots()
    # The square root of the fraction: rare confusions show beside a bright diagonal.
    image = axes.imshow(fractions, cmap="cividis", norm=PowerNorm(0.5, vmin=0, vmax=1))
    figure.colorbar(image, label="fraction of the true class")
    edges = np.flatnonzero(np.diff(superclass_of[order])) + 0.5
    sizes = np.bincount(superclass_of)
    centres = np.cumsum(sizes) - sizes / 2 - 0.5
    for line in (axes.axhline, axes.axvline):
        for edge in edges:
            line(edge, color="white", linewidth=0.3)
    axes.set_xticks(centres, data.superclass_names, rotation=90)
    axes.set_yticks(centres, data.superclass_names)
    axes.set_xlabel("predicted class, by superclass")
    axes.set_ylabel("true class, by superclass")
    axes.set_title(title)
    return figure


def _panels(title: str) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2)
    for axes, label in zip(panels, ("loss (nats per image)", "accuracy (fraction)"), strict=True):
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure, panels
