"""Which images of each class make a smaller split, or are held out. Labels are integers `[N]`."""

import numpy as np
from numpy.typing import NDArray

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


def share_of_each_class(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose a share of the images of each class at random, bool `[N]`, to the nearest number.

    At least one image of each class is chosen and one is not; of a class of one image none is.
    """
    place, size = _random_places(labels, seed)
    chosen: NDArray[np.bool_] = place < np.clip(np.rint(share * size), 1, size - 1)
    return chosen


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
