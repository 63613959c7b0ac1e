"""Read pictures into the arrays of a data set."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checks import check_memory
from pipeline.data.dataset import size_of
from pipeline.data.pictures.classes import Names
from pipeline.data.pictures.folder import Folder
from pipeline.data.pictures.pairs import Pairs
from pipeline.errors import InputError, shortlist

MAX_NAMED = 3  # pictures that can't be read, in one line


def read(
    training: Folder | Pairs, validation: Folder | Pairs, resize: str, class_names: Names | None
) -> tuple[
    NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], Names | None
]:
    """Read the pictures of both splits; return the first arguments of `from_arrays`.

    resize: the advice if their sizes differ; gets the first one's width and height by these names.
    class_names: the user's; by default those of the splits, if these name each class.

    Raises InputError, which counts those that can't be read; for pictures of several sizes or too
    many for the free memory; and for classes that differ.
    """
    places = _places(training.classes, validation.classes)
    count, first = len(training) + len(validation), len(training)
    images, labels = np.empty((0, 1, 1, 1), np.uint8), np.empty(count, np.int64)
    unreadable = []
    for row, (name, picture, label) in enumerate(chain(training, validation)):
        labels[row] = label
        if isinstance(picture, InputError):
            unreadable.append(f"{name}: {picture}")
            continue
        pixels = np.atleast_3d(np.asarray(picture))
        if not len(images):
            check_memory(count * pixels.nbytes)
            images = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            height, width, _ = shape = images.shape[1:]
            only_channels = pixels.shape[:2] == (height, width)
            advice = "pass channels=3 to read all as RGB" if only_channels else resize
            raise InputError(
                f"{name} is {size_of(pixels.shape)}, and the first image {size_of(shape)};"
                f" {advice.format(width=width, height=height)}"
            )
        images[row] = pixels
    if unreadable:
        what = f"{len(unreadable)} of {count} pictures: " if len(unreadable) > 1 else ""
        raise InputError(f"cannot read {what}{shortlist(unreadable, MAX_NAMED, '; ')}")
    if places:
        labels[first:] = [_in_training(label, places) for label in labels[first:].tolist()]
    names = training.classes or validation.classes
    if class_names is None and len(names) > labels.max(initial=-1):
        used = set(labels[:first].tolist())
        unused = [name for label, name in enumerate(names) if label not in used]
        if unused and first:
            raise InputError(
                f"no training image is of class {unused[0]!r}; every class must have at least one:"
                " number the others from 0 by a target_transform, and pass class_names"
            )
        class_names = names
    return images[:first], labels[:first], images[first:], labels[first:], class_names


def _places(training: list[str], validation: list[str]) -> list[int]:
    """Where in the classes of training those of validation are; nothing if they are the same."""
    if not (training and validation) or training == validation:
        return []
    lacking = [name for name in validation if name not in training]
    if lacking:
        raise InputError(
            "training must have all classes of validation; it has no"
            f" {shortlist(lacking)}, only {shortlist(training)}"
        )
    places = [training.index(name) for name in validation]
    if places != sorted(places):
        raise InputError(
            f"the classes of training are {shortlist(training)}, and those of validation"
            f" {shortlist(validation)}; they must be in the same order"
        )
    return places


def _in_training(label: int, places: list[int]) -> int:
    if not 0 <= label < len(places):
        raise InputError(
            f"a validation label is {label}; with {len(places)} classes, labels must be from 0 to"
            f" {len(places) - 1}"
        )
    return places[label]
