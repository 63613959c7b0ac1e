"""Which images of each class make a smaller split, or are held out. Labels are integers `[N]`."""

from numbers import Real

import numpy as np
from numpy.typing import NDArray

from pipeline.config import check_seed
from pipeline.errors import InputError

VALIDATION = 0.2  # the share of a data set that has no validation images of its own
HOLDOUT_STEP = 10  # hold out one in this many images of a class


def first_of_each_class(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Choose `count` images, bool `[N]`: the first ones of each class, and at least one of each.

    Classes keep their shares, rounded by the method of Sainte-Laguë. A larger choice contains all
    smaller ones. `count` is at least the number of classes.
    """
    place, size = _places(labels, np.arange(len(labels)))
    turn = np.where(place == 0, 0, (place + 0.5) / size)
    chosen = np.zeros(len(labels), np.bool_)
    chosen[np.argsort(turn, kind="stable")[:count]] = True
    return chosen


def tenth_of_each_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose every tenth image of each class in random order, bool `[N]`, beginning with the first.

    Of a class of one image none is chosen.
    """
    place, size = _random_places(labels, seed)
    chosen: NDArray[np.bool_] = (place % HOLDOUT_STEP == 0) & (size > 1)
    return chosen


def for_validation(labels: NDArray[np.int64], validation: float, seed: int) -> NDArray[np.bool_]:
    """Choose the share `validation` of each class at random, bool `[N]`, to the nearest image.

    At least one image of each class is chosen, and one is not; of a class of one image none is.

    Raises InputError for a share that is not between 0 and 1, and if no class has two images.
    """
    number = isinstance(validation, Real) and not isinstance(validation, bool)
    if not (number and 0 < validation < 1):
        raise InputError(
            f"validation is {validation!r}; it must be the share of images to validate on, between"
            f" 0 and 1, such as {VALIDATION}"
        )
    check_seed("seed", seed)
    place, size = _random_places(labels, seed)
    chosen: NDArray[np.bool_] = place < np.clip(np.rint(validation * size), 1, size - 1)
    if not chosen.any():
        raise InputError("no class has two images, one to train and one to validate on; add some")
    return chosen


def check_not_chosen(validation: float, seed: int, reason: str) -> None:
    """Raise InputError, for the `reason`, if a user asks for other validation images there."""
    if (validation, seed) != (VALIDATION, 0):
        raise InputError(
            f"validation is {validation} and seed {seed}, and {reason} already; leave both out"
        )


def _random_places(
    labels: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`_places` in random order, the same everywhere: PCG64's raw output never changes."""
    return _places(labels, np.random.PCG64(seed).random_raw(len(labels)))


def _places(
    labels: NDArray[np.int64], priority: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each image's place by priority in its class, from 0, and how many images that class has."""
    order = np.lexsort((priority, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place, size = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(first, counts)
    size[order] = np.repeat(counts, counts)
    return place, size
