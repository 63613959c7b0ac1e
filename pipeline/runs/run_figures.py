"""The figures of one run: learning curves, and the confusion matrix of an evaluation."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from pipeline.data.dataset import ImageDataset
    from pipeline.training.history import History

MAX_LABELS = 60  # on an axis of the confusion matrix; with more, only some are shown
LABELS = {"loss": "loss (nats per image)", "accuracy": "accuracy (%)"}


def as_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def learning_curves(history: "History", title: str) -> Figure:
    """Training and validation loss and accuracy of one run, by epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, style in (("train", "--"), ("val", "-")):
            scale = 100 if metric == "accuracy" else 1
            values = [getattr(epoch, f"{split}_{metric}") * scale for epoch in history]
            label = {"train": "training", "val": "validation"}[split]
            axes.plot(range(1, len(values) + 1), values, f".{style}", color="#0072B2", label=label)
        label_epochs(axes, metric)
        axes.legend()
    return figure


def confusion_figure(confusion: npt.NDArray[np.int64], data: "ImageDataset", title: str) -> Figure:
    """Plot the confusion matrix, with its classes ordered by superclass, if there are any.

    Confusions within a superclass then fall into squares along the diagonal.
    """
    group_of = np.array(data.superclass_of or range(data.num_classes))
    names = data.superclass_names or data.class_names
    order = np.argsort(group_of, kind="stable")
    images = np.maximum(confusion.sum(axis=1), 1)  # a class may have none
    fractions = confusion[np.ix_(order, order)] / images[order, None]
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots()
    # The square root makes rare confusions visible next to a bright diagonal.
    image = axes.imshow(fractions, cmap="cividis", norm=PowerNorm(0.5, vmin=0, vmax=1))
    figure.colorbar(image, label="fraction of the true class")
    edges = np.flatnonzero(np.diff(group_of[order])) + 0.5
    sizes = np.bincount(group_of)
    centres = np.cumsum(sizes) - sizes / 2 - 0.5
    for line in (axes.axhline, axes.axvline):
        for edge in edges:
            line(edge, color="white", linewidth=0.3)
    by = ", by superclass" if data.superclass_of else ""
    shown = slice(None, None, -(-len(names) // MAX_LABELS))
    axes.set_xticks(centres[shown], names[shown], rotation=90)
    axes.set_yticks(centres[shown], names[shown])
    axes.set_xlabel(f"predicted class{by}")
    axes.set_ylabel(f"true class{by}")
    axes.set_title(title)
    return figure


def label_epochs(axes: Axes, metric: str) -> None:
    """Label the axes of a plot by epoch."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(LABELS[metric])
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
