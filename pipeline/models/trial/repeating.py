"""Whether a run can be repeated and continued to the same bits, tried on a few images."""

from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset, Split
from pipeline.errors import DivergedError, InputError, shortlist
from pipeline.training.building.parts import has_schedule, steps_of
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.loop import train_network
from pipeline.training.state import TrainingState, pack, unpack

CPU = torch.device("cpu")
EPOCHS = 2  # that are trained, repeated and continued
TIMES = ("epoch_seconds", "images_per_second")
DRAW = (
    "draw random numbers from the global generators of torch, NumPy or Python, which are seeded,"
    " and keep state in the network, criterion or optimizer"
)
KEEP = (
    "keep what changes in buffers, or in attributes that are numbers, tensors, arrays, lists or"
    " dictionaries"
)


class Trained(NamedTuple):
    """The states after the first epoch, as a checkpoint holds it, and after the last one.

    None if there was no such epoch: a schedule may be for one epoch only, and so few images may let
    the loss become infinite.
    """

    middle: TrainingState | None
    last: TrainingState | None


def train_epochs(config: Config, data: ImageDataset, state: TrainingState | None = None) -> Trained:
    """Train the first two epochs on a few images, or go on from `state`."""
    middle = last = None

    def save(state: TrainingState) -> None:
        nonlocal middle, last
        last = state
        if len(state.history) == EPOCHS:
            raise _EnoughError
        middle = _saved(state)

    # A schedule after each batch has no more steps than the run takes.
    images = 2 * min(2, steps_of(config, data)) - leaves_one_over(config, data)
    small = replace(
        data,
        training=few(data.training, images),
        validation=few(data.validation, 2),
        test=None,
    )
    epochs = config.epochs if has_schedule(config, data) else max(config.epochs, EPOCHS)
    short = replace(config, batch_size=2, epochs=epochs)
    with redirect_stderr(StringIO()), suppress(_EnoughError, DivergedError):
        train_network(short, small, CPU, precision_of(config), state, save, steps_of(config, data))
    return Trained(middle, last)


class _EnoughError(Exception):
    """Ends the training of a trial."""


def _saved(state: TrainingState) -> TrainingState:
    """What a checkpoint of the state holds. Raises InputError if it can't be saved."""
    try:
        return unpack(pack(state, ""), "")
    except Exception:  # whatever pickle and the user's classes raise
        empty = TrainingState([], {}, {}, {}, {}, {})
        for part in ("network", "criterion", "optimizer", "scheduler"):
            for name, value in getattr(state, part).items():
                try:
                    one: dict[str, Any] = {part: {name: value}}
                    unpack(pack(empty._replace(**one), ""), "")
                except Exception:
                    raise InputError(
                        f"{name} in the {part}'s state can't be saved; a state may hold tensors,"
                        " numbers, strings, and lists and dictionaries of these"
                    ) from None
        raise


def check_repeated(config: Config, data: ImageDataset, first: Trained) -> None:
    """Raise InputError, naming the place, unless training again gives the same state."""
    if place := _differs(first.last, train_epochs(config, data).last):
        raise InputError(f"{place} differs with the same seed; {DRAW}")


def check_continued(
    config: Config, data: ImageDataset, first: Trained, unsaved: Sequence[str]
) -> None:
    """Raise InputError unless going on from the middle gives the same state.

    unsaved: attributes that change in training and are not saved, which may be why.
    """
    if first.middle is None or first.last is None or len(first.last.history) < EPOCHS:
        return
    if place := _differs(first.last, train_epochs(config, data, first.middle).last):
        cause = f" (not saved: {shortlist(unsaved)})" if unsaved else ""
        raise InputError(
            f"{place} differs if it is stopped after an epoch and continued{cause}; {KEEP}"
        )


def _differs(one: TrainingState | None, other: TrainingState | None) -> str:
    """Name the first place where two states differ; empty if nothing does."""
    if one is None or other is None:
        return "" if one is other else "the loss"
    return _difference(_comparable(one), _comparable(other))


def _comparable(state: TrainingState) -> dict[str, Any]:
    """What must be the same, in the order in which to look for a difference."""
    learned = [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in state.history]
    parts = ("criterion", "network", "optimizer", "scheduler")
    return {
        "": state.attributes,
        "requires_grad": state.frozen,
        **{part: getattr(state, part) for part in parts},
        "metric": learned,
    }


def _difference(one: Any, other: Any, place: str = "") -> str:
    """Name the first place where two nested values differ in any bit; empty if they do not."""
    if type(one) is not type(other):
        return place
    if isinstance(one, dict):
        for key in (*one, *other):
            if key not in one or key not in other:
                return _named(place, key)
    if isinstance(one, dict | list | tuple):
        if len(one) != len(other):
            return place
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        found = (_difference(one[key], other[key], _named(place, key)) for key in keys)
        return next(filter(None, found), "")
    if isinstance(one, Tensor):
        one, other = one.to_dense(), other.to_dense()  # sparse ones can't be compared
    if isinstance(one, Tensor | np.ndarray):
        same = one.shape == other.shape and bool(
            ((one == other) | ((one != one) & (other != other))).all()
        )
    else:
        same = one == other or (one != one and other != other)
    return "" if same else place


def _named(place: str, key: object) -> str:
    """The place of what a key leads to: an index says nothing, a path is read with dots."""
    if isinstance(key, int):
        return place
    words = (place, *(map(str, key) if isinstance(key, tuple) else (str(key),)))
    return ".".join(filter(None, words))


def precision_of(config: Config) -> str:
    """The precision of the run, on its own device; it is tried on the CPU."""
    return choose_precision(config.precision, choose_device(config.device))


def leaves_one_over(config: Config, data: ImageDataset) -> bool:
    """Whether the last batch of an epoch has one image, with which some layers fail."""
    return len(data.training) % config.batch_size == 1


def few(split: Split, count: int) -> Split:
    """Images from all over a split: it may be sorted by class. Some twice if there are fewer."""
    rows = torch.linspace(0, len(split) - 1, count).long()
    return Split(split.images[rows], split.labels[rows])
