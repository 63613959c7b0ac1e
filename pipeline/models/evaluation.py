"""Evaluate a classifier's probabilities: plain arrays in, metrics and tables out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.dataset import ImageDataset

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model is worth. metrics: fractions from 0 to 1, `loss` in nats.

    confusion: `[classes, classes]`, images by true class (row) and predicted class (column).
    per_class and confusions: tables, the worst class and the most frequent confusion first; of
    classes without an image nothing is known.
    """

    metrics: dict[str, float]
    confusion: Integers
    per_class: pd.DataFrame
    confusions: pd.DataFrame


def evaluate(probabilities: Floats, data: ImageDataset) -> Evaluation:
    """Evaluate probabilities `[N, classes]` predicted for the validation split of `data`.

    What needs superclasses, or more classes than five, is left out where there are none.
    """
    # It takes a second to import, which a command that is refused need not wait for.
    from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

    # In double precision each row sums to 1 closely enough for scikit-learn.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    labels = data.validation.labels.numpy()
    classes = np.arange(len(data.class_names))
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, labels=classes)
    metrics = {
        "loss": log_loss(labels, probabilities, labels=classes),
        "accuracy": accuracy_score(labels, predicted),
    }
    if len(classes) > TOP:
        top = top_k_accuracy_score(labels, probabilities, k=TOP, labels=classes)
        metrics[f"top{TOP}_accuracy"] = top
    if data.superclass_of:  # of the superclass that contains the predicted class
        superclass_of = np.array(data.superclass_of)
        right = accuracy_score(superclass_of[labels], superclass_of[predicted])
        metrics["superclass_accuracy"] = right
    metrics["calibration_error"] = calibration_error(probabilities, labels)
    return Evaluation(
        metrics={name: float(value) for name, value in metrics.items()},
        confusion=confusion,
        per_class=_per_class(confusion, data),
        confusions=_confusions(confusion, data),
    )


def calibration_error(probabilities: Floats, labels: Integers) -> float:
    """Expected calibration error, 15 equal bins (Guo et al. 2017, arXiv:1706.04599, equation 3).

    The mean gap between confidence and accuracy over bins of the highest probability, weighted by
    the number of images in each.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open below and closed above, as in the paper: 1.0 belongs to the last one.
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(int)
    difference = np.bincount(bins, weights=confidence) - np.bincount(bins, weights=right)
    return float(np.abs(difference).sum() / len(labels))


def _per_class(confusion: Integers, data: ImageDataset) -> pd.DataFrame:
    images = pd.Series(confusion.sum(axis=1))
    table = pd.DataFrame({"class": data.class_names, "images": images})
    if data.superclass_of:
        names = [data.superclass_names[coarse] for coarse in data.superclass_of]
        table.insert(1, "superclass", names)
    table["accuracy"] = confusion.diagonal() / np.maximum(images, 1)
    return table[images > 0].sort_values(["accuracy", "class"], ignore_index=True)


def _confusions(confusion: Integers, data: ImageDataset, most: int = 50) -> pd.DataFrame:
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    true, predicted = np.unravel_index(order, wrong.shape)
    names = np.array(data.class_names)
    count = wrong[true, predicted]
    return pd.DataFrame(
        {
            "class": names[true],
            "taken_for": names[predicted],
            "images": count,
            "fraction_of_class": count / confusion.sum(axis=1)[true],
        }
    )
