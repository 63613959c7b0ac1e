"""Pairs of a picture and its class: torchvision's data sets, and what is made of them.

`Subset`, `random_split` and `ConcatDataset` are looked through: for the names of the classes, and
for how files are read. torchvision's own loader neither turns a picture nor keeps transparency.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets.vision import StandardTransform

from pipeline.data.pictures.pixels import converted, read_file
from pipeline.errors import InputError

LOADERS = "torchvision.datasets.folder"
DATASETS = "torchvision.datasets.vision"


class Pictures(Protocol):
    """A map-style data set of pairs: a PIL image, and its label from 0."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Pairs:
    """The pictures of the split `name`, and the names of its classes; none if they are unknown.

    channels: what the user asks for, if anything. named: whether the user has named the classes.
    numbers: the label of each of the data set's own classes, as far as that is known.

    Raises InputError if labels don't number the data set's own names, unless the user has.
    """

    def __init__(self, name: str, data: Pictures, channels: int | None, named: bool) -> None:
        self.name = name
        self.channels = channels
        self.classes = _class_names(data, name, named)
        self.numbers = _numbers(data)
        self.data = _reading_alike(data, channels)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> tuple[str, Image.Image, int]:
        """Return a picture's name, the picture as `converted` gives it, and its class.

        Raises InputError for an item that is not a PIL image and an int.
        """
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
            return name, converted(picture, self.channels), number
        except InputError as error:
            raise InputError(f"cannot read {name}: {error}") from None


def _class_names(data: object, split: str, named: bool) -> list[str]:
    # Nobody knows what another class's own `__getitem__` does to labels, or names that were put on.
    method = (
        None
        if "classes" in getattr(data, "__dict__", {})
        else getattr(type(data), "__getitem__", None)
    )
    if isinstance(data, Subset) and method is Subset.__getitem__:
        return _class_names(data.dataset, split, named)
    if isinstance(data, ConcatDataset) and method is ConcatDataset.__getitem__:
        all_parts = [_class_names(part, split, named) for part in data.datasets]
        parts = [names for names in all_parts if names]
        for names in parts[1:]:
            if names != parts[0]:
                raise InputError(
                    f"{split} joins data sets of different classes, {', '.join(parts[0])} and"
                    f" {', '.join(names)}; all must have the same"
                )
        return parts[0] if parts else []
    classes: Any = getattr(data, "classes", ())
    if hasattr(classes, "tolist"):  # a NumPy array
        classes = classes.tolist()
    own = list(classes) if isinstance(classes, (list, tuple)) else []
    changed_by = _renumbering(data, own)
    if changed_by and not named:
        raise InputError(
            f"the {changed_by} of {split} numbers the classes differently from its `classes`; pass"
            " class_names, in the order of the labels"
        )
    return [] if changed_by else _as_text(own)


def check_classes(training: Pairs, validation: Pairs, named: bool) -> None:
    """Raise InputError if a class may have other labels in validation than in training.

    If both name their classes, labels are matched by name. named: whether the user has named them.
    """
    if training.classes and validation.classes:
        return
    if not named and (training.classes or validation.classes):
        known = "training" if training.classes else "validation"
        raise InputError(
            f"only {known} names its classes; pass class_names, in the order of the labels"
        )
    one, other = training.numbers, validation.numbers
    for name in one:
        if one[name] != other.get(name, one[name]):
            raise InputError(
                f"class {name!r} has label {one[name]} in training and {other[name]} in validation;"
                " give both the same classes and target_transform"
            )


def _numbers(data: object) -> dict[str, int]:
    while isinstance(data, Subset):
        data = data.dataset
    if isinstance(data, ConcatDataset):
        return {k: v for part in data.datasets for k, v in _numbers(part).items()}
    classes: Any = getattr(data, "classes", ())
    classes = classes.tolist() if hasattr(classes, "tolist") else classes
    names = _as_text(list(classes)) if isinstance(classes, (list, tuple)) else []
    transform = getattr(data, "target_transform", None) or int
    found = {}
    for place, name in enumerate(names):
        with suppress(Exception):  # whatever it raises for a number, it is not known
            found[name] = operator.index(transform(place))
    return found


def _renumbering(data: object, classes: list[Any]) -> str:
    """What makes labels other numbers than the places in `classes`; nothing if they are these."""
    places = list(range(len(classes)))
    joint = getattr(data, "transforms", None)
    if classes and joint is not None and not isinstance(joint, StandardTransform):
        return "transforms"
    transform = getattr(data, "target_transform", None)
    if classes and transform is not None:
        try:
            if [operator.index(transform(place)) for place in places] != places:
                return "target_transform"
        except Exception:  # whatever it raises for a number, it is not known to keep it
            return "target_transform"
    numbers = getattr(data, "class_to_idx", None)
    if isinstance(numbers, Mapping) and all(isinstance(name, str) for name in classes):
        known = [numbers.get(name, place) for place, name in enumerate(classes)]
        return "class_to_idx" if known != places else ""
    return ""


def _as_text(classes: list[Any]) -> list[str]:
    """Each class's name, the first if it has several; ImageNet has two of the name `crane`."""
    firsts = [one[0] if isinstance(one, (tuple, list)) and one else one for one in classes]
    names = [one.decode() if isinstance(one, bytes) else str(one) for one in firsts]
    counts = Counter(names)
    return [f"{n} ({label})" if counts[n] > 1 else n for label, n in enumerate(names)]


def _reading_alike(data: Any, channels: int | None) -> Any:
    """A copy of a data set, and of those that it wraps, that reads files as the project does."""
    if not isinstance(data, Dataset):
        return data
    changes: dict[str, Any] = {}
    for name, value in getattr(data, "__dict__", {}).items():
        if isinstance(value, Dataset):
            changes[name] = _reading_alike(value, channels)
        elif isinstance(value, (list, tuple)) and any(isinstance(one, Dataset) for one in value):
            changes[name] = [_reading_alike(one, channels) for one in value]
    if getattr(getattr(data, "loader", None), "__module__", "") == LOADERS:
        # torchvision's is RGB, too.
        changes["loader"] = lambda path: read_file(Path(path), channels or 3)
    elif any(kind.__module__ == DATASETS for kind in type(data).__mro__):
        if getattr(data, "transform", None) is not None:
            changes["transform"] = _OfConverted(data.transform, channels)  # type: ignore[attr-defined]
        joint = getattr(data, "transforms", None)
        if getattr(joint, "transform", None) is not None:
            changes["transforms"] = copy(joint)
            changes["transforms"].transform = changes["transform"]
    if not changes:
        return data
    data = copy(data)
    vars(data).update(changes)
    return data


class _OfConverted(NamedTuple):
    """A transform of pictures that are converted before: it may change their size or channels."""

    transform: Callable[[Any], Any]
    channels: int | None

    def __call__(self, picture: Any) -> Any:
        if not isinstance(picture, Image.Image):
            return self.transform(picture)
        picture = converted(picture, self.channels)
        result = self.transform(picture)
        without_alpha = {"LA": 1, "RGBA": 3}
        if picture.mode in without_alpha and getattr(result, "mode", "") in ("L", "RGB"):
            return self.transform(converted(picture, without_alpha[picture.mode]))
        return result
