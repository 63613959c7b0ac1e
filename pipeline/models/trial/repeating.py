"""Whether a run can be repeated and continued to the same bits, tried on a few images."""

from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.dataset import Split
from pipeline.errors import DivergedError, InputError, shortlist
from pipeline.training.history import TIMES
from pipeline.training.loop import Training
from pipeline.training.spec import RunSpec
from pipeline.training.state import TrainingState, pack, unpack

EPOCHS = 2  # that are trained, repeated and continued
DRAW = (
    "draw random numbers from the global generators of torch, NumPy or Python, which are seeded,"
    " and keep state in the network, criterion or optimizer"
)
KEEP = (
    "keep what changes in buffers, or in attributes that are numbers, tensors, arrays, lists or"
    " dictionaries"
)


class Snapshots(NamedTuple):
    """The states after the first epoch, as a checkpoint holds it, and after the last one.

    None if there was no such epoch: a schedule may be for one epoch only, and so few images may let
    the loss become infinite.
    """

    middle: TrainingState | None
    last: TrainingState | None


def train_epochs(spec: RunSpec, state: TrainingState | None = None) -> Snapshots:
    """Train the first two epochs on a few images, or go on from `state`."""
    middle = last = None
    # A schedule after each batch has no more steps than the run takes.
    images = 2 * min(2, spec.steps_per_epoch) - leaves_one_over(spec)
    data = replace(
        spec.data,
        training=few(spec.data.training, images),
        validation=few(spec.data.validation, 2),
        test=None,
    )
    epochs = spec.config.epochs if spec.has_schedule else max(spec.config.epochs, EPOCHS)
    short = replace(spec.changed(batch_size=2, epochs=epochs), data=data)
    with redirect_stderr(StringIO()), suppress(DivergedError):
        training = Training(short, spec.steps_per_epoch)
        if state:
            training.load(state)
        for _ in training.epochs():
            last = training.state()
            if len(training.history) == EPOCHS:
                break
            middle = _saved(last)
    return Snapshots(middle, last)


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


def check_repeated(spec: RunSpec, first: Snapshots) -> None:
    """Raise InputError, naming the place, unless training again gives the same state."""
    if place := _differs(first.last, train_epochs(spec).last):
        raise InputError(f"{place} differs with the same seed; {DRAW}")


def check_continued(spec: RunSpec, first: Snapshots, unsaved: Sequence[str]) -> None:
    """Raise InputError unless going on from the middle gives the same state.

    unsaved: attributes that change in training and are not saved, which may be why.
    """
    if first.middle is None or first.last is None or len(first.last.history) < EPOCHS:
        return
    if place := _differs(first.last, train_epochs(spec, first.middle).last):
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


def leaves_one_over(spec: RunSpec) -> bool:
    """Whether the last batch of an epoch has one image, with which some layers fail."""
    return len(spec.data.training) % spec.config.batch_size == 1


def few(split: Split, count: int) -> Split:
    """Images from all over a split: it may be sorted by class. Some twice if there are fewer."""
    rows = torch.linspace(0, len(split) - 1, count).long()
    return Split(split.images[rows], split.labels[rows])
