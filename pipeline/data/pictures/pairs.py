"""Pairs of a picture and its class: torchvision's data sets, and what is made of them.

Data sets in the attributes of others, as in `Subset` or a user's own class, are read alike, too:
torchvision's own loader neither turns a picture nor keeps transparency.
"""

import operator
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from pipeline.data.pictures.classes import check_labels, class_names, sources, within
from pipeline.data.pictures.pixels import GREY, converted, read_file
from pipeline.errors import InputError

LOADERS = "torchvision.datasets.folder"
DATASETS = "torchvision.datasets.vision"
FEW_PIXELS = 0.01  # of a picture: a coloured mark in a grey one, which a crop may remove


class Pictures(Protocol):
    """A map-style data set of pairs: a PIL image, and its label from 0."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Pairs:
    """The pictures of the split `name`, and the names of its classes; none if they are unknown.

    channels: what the user asks for, if anything. named: whether the user has named the classes.
    sources: the data sets that name classes, also where these names are not used.

    Raises InputError if labels don't number the data set's own names, unless the user has.
    """

    def __init__(self, name: str, data: Pictures, channels: int | None, named: bool) -> None:
        self.name = name
        self.channels = channels
        self.classes = class_names(data, name, named)
        self.sources = sources(data)
        self.colours = _Colours()
        self.data = _reading_alike(data, channels, self.colours)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[str, Image.Image, int]]:
        """Yield each picture's name, the picture as `converted` gives it, and its class.

        Raises InputError for an item that is not a PIL image and an int.
        """
        return map(self._read, range(len(self)))

    def _read(self, index: int) -> tuple[str, Image.Image, int]:
        label: Any
        item = self.data[index]
        picture, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        name = getattr(picture, "filename", "") or f"{self.name} image {index}"
        if not isinstance(picture, Image.Image):
            raise InputError(
                f"{name} is a {type(picture).__name__}; it must be a PIL image and its label:"
                " leave out transforms such as ToTensor"
            )
        try:
            number = operator.index(label)
        except TypeError:
            kind = type(label).__name__
            raise InputError(f"the label of {name} is a {kind}; it must be a class's int") from None
        try:
            return name, self.colours.keeps(converted(picture, self.channels)), number
        except InputError as error:
            raise InputError(f"cannot read {name}: {error}") from None

    def check_colours(self) -> None:
        """Raise InputError if a transform has removed the colours of all pictures."""
        if self.colours.read and not self.colours.kept:
            raise InputError(
                f"the {self.name} pictures are grey after a transform and coloured before, as"
                " predictions see them; pass channels=1, or leave out what makes them grey"
            )


def check_classes(training: Pairs, validation: Pairs, named: bool) -> None:
    """Raise InputError if a class may have other labels in one data set than in another.

    If both splits name their classes, labels are matched by name. named: whether the user has named
    them.
    """
    splits = {pairs.name: pairs.sources for pairs in (training, validation)}
    if training.classes and validation.classes:
        for name, found in splits.items():
            check_labels({name: found})
        return
    check_labels(splits)
    if not named and (training.classes or validation.classes):
        known = "training" if training.classes else "validation"
        raise InputError(
            f"only {known} names its classes; pass class_names, in the order of the labels"
        )


class _Colours:
    """Whether any picture had colours when it was read, and could show them in the end."""

    def __init__(self) -> None:
        self.read = self.kept = False

    def reads(self, picture: Image.Image) -> Image.Image:
        """Return a picture that was read."""
        self.read = self.read or _has_colours(picture)
        return picture

    def keeps(self, picture: Image.Image) -> Image.Image:
        """Return a picture that becomes pixels; one of 1 or 2 channels can't show colours."""
        self.kept = self.kept or picture.mode in GREY or _has_colours(picture)
        return picture


def _has_colours(picture: Image.Image) -> bool:
    pixels = np.atleast_3d(np.asarray(picture))
    coloured = (pixels[..., 1:3] != pixels[..., :1]).any(-1)
    return bool(coloured.mean() > FEW_PIXELS) and picture.mode not in GREY


def _reading_alike(
    data: Any, channels: int | None, colours: _Colours, done: dict[int, Any] | None = None
) -> Any:
    """A copy of a data set, and of those that it wraps, that reads files as the project does.

    colours: gets to know those of the pictures that are read. done: the copies so far, by the id.
    """
    done = {} if done is None else done
    if id(data) in done:
        return done[id(data)]
    done[id(data)] = data
    changes: dict[str, Any] = {}
    for name, values in within(data).items():
        copies = [_reading_alike(value, channels, colours, done) for value in values]
        if any(new is not old for new, old in zip(copies, values, strict=True)):
            value = vars(data)[name]
            if hasattr(value, "_fields"):  # a named tuple
                changes[name] = type(value)(*copies)
            else:
                changes[name] = copies if isinstance(value, (list, tuple)) else copies[0]
    if getattr(getattr(data, "loader", None), "__module__", "") == LOADERS:
        # torchvision's is RGB, too.
        changes["loader"] = lambda path: colours.reads(read_file(Path(path), channels or 3))
    elif any(kind.__module__ == DATASETS for kind in type(data).__mro__):
        if getattr(data, "transform", None) is not None:
            changes["transform"] = _OfConverted(data.transform, channels, colours)
        joint = getattr(data, "transforms", None)
        if getattr(joint, "transform", None) is not None:
            changes["transforms"] = copy(joint)
            changes["transforms"].transform = changes["transform"]
    if changes:
        done[id(data)] = copy(data)
        vars(done[id(data)]).update(changes)
    return done[id(data)]


class _OfConverted(NamedTuple):
    """A transform of pictures that are converted before: it may change their size or channels."""

    transform: Callable[[Any], Any]
    channels: int | None
    colours: _Colours

    def __call__(self, picture: Any) -> Any:
        if not isinstance(picture, Image.Image):
            return self.transform(picture)
        picture = self.colours.reads(converted(picture, self.channels))
        result = self.transform(picture)
        without_alpha = {"LA": 1, "RGBA": 3}
        if picture.mode in without_alpha and getattr(result, "mode", "") in ("L", "RGB"):
            return self.transform(converted(picture, without_alpha[picture.mode]))
        return result
