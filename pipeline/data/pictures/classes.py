"""The names of classes, and the labels that stand for them.

`Subset`, `random_split` and `ConcatDataset` are looked through for the names. What a user's own
class does to labels can't be known: names behind it are not used, but must agree.
"""

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Number
from reprlib import repr as shortened
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets.vision import StandardTransform

from pipeline.errors import InputError, shortlist

Names = Sequence[str] | Mapping[int, str] | Mapping[str, int]


def by_label(argument: str, values: Any) -> list[Any]:
    """Return what a user gives for each label, in the order of the labels.

    A mapping, or a pandas Series, may be from labels, like `id2label`, or to labels, like
    `class_to_idx`.

    Raises InputError, which calls it `argument`, for what has no such order.
    """
    if hasattr(values, "items"):
        keys, contents = zip(*values.items(), strict=True) if len(values) else ((), ())
        for labels, others in ((keys, contents), (contents, keys)):
            with suppress(TypeError):  # they are no numbers
                found = dict(zip(map(_number, labels), others, strict=True))
                if sorted(found) == list(range(len(values))):
                    return [found[label] for label in sorted(found)]
        raise InputError(
            f"{argument} is {shortened(values)}; a mapping must have each label from 0 once"
        )
    if hasattr(values, "tolist"):  # an array
        values = values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, set, frozenset)):
        raise InputError(
            f"{argument} is {shortened(values)}; it must be a list, in the order of the labels"
        )
    return list(values)


def numbers_by_label(argument: str, numbers: Any) -> tuple[int, ...]:
    """Return the numbers that a user gives, in the order of the labels.

    Raises InputError as `by_label`, and for what is no whole number.
    """
    given = by_label(argument, numbers)
    try:
        return tuple(int(operator.index(one)) for one in given)
    except TypeError:
        raise InputError(f"{argument} is {shortened(given)}; it must be whole numbers") from None


def names_by_label(argument: str, names: Any) -> tuple[str, ...]:
    """Return the names that a user gives, in the order of the labels; of several the first.

    Raises InputError as `by_label`, and for a name that is neither text nor a number.
    """
    firsts = [_first(one) for one in by_label(argument, names)]
    for one in firsts:
        if not isinstance(one, (str, bytes, Number)):
            raise InputError(f"{argument} has the name {shortened(one)}; each must be text")
    return tuple(map(_text, firsts))


def class_names(data: object, split: str, named: bool) -> list[str]:
    """Return the names of a data set's classes; none if they are unknown.

    Raises InputError for joined data sets of different classes, and if labels don't number the data
    set's own names, unless the user has `named` the classes.
    """
    # Nobody knows what another class's own `__getitem__` does to labels, or names that were put on.
    method = (
        None
        if "classes" in getattr(data, "__dict__", {})
        else getattr(type(data), "__getitem__", None)
    )
    if isinstance(data, Subset) and method is Subset.__getitem__:
        return class_names(data.dataset, split, named)
    if isinstance(data, ConcatDataset) and method is ConcatDataset.__getitem__:
        all_parts = [class_names(part, split, named) for part in data.datasets]
        parts = [names for names in all_parts if names]
        for names in parts[1:]:
            if names != parts[0]:
                raise InputError(
                    f"{split} joins data sets of different classes, {shortlist(parts[0])} and"
                    f" {shortlist(names)}; all must have the same"
                )
        return parts[0] if parts else []
    own = _own(data)
    changed_by = _renumbering(data, own)
    if changed_by and not named:
        raise InputError(
            f"the {changed_by} of {split} numbers the classes differently from its `classes`; pass"
            " class_names, in the order of the labels"
        )
    return [] if changed_by else _as_text(own)


class NamedLabels(NamedTuple):
    """A data set with names of classes: the label of each, as far as it is known.

    listed: whether labels are the places in its `classes`.
    """

    labels: list[tuple[str, int]]
    listed: bool


def sources(data: object) -> list[NamedLabels]:
    """Return the data sets with names of classes in a data set, also behind a user's own class."""
    found: list[NamedLabels] = []
    waiting, seen = [data], {id(data)}
    for one in waiting:
        own = _own(one)
        if not own:
            inner = [value for values in within(one).values() for value in values]
            waiting += [value for value in inner if id(value) not in seen]
            seen.update(map(id, inner))
            continue
        labels = []
        transform = getattr(one, "target_transform", None) or int
        for name, label in zip(_as_text(own), _labels(one, own), strict=True):
            with suppress(Exception):  # whatever it raises for a number, it is not known
                labels.append((name, operator.index(transform(label))))
        found.append(NamedLabels(labels, listed=not _renumbering(one, own)))
    return found


def within(data: object) -> dict[str, list[Any]]:
    """Return the attributes of a data set that hold others, with these."""
    found = {}
    for name, value in getattr(data, "__dict__", {}).items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(map(_is_data, values)):
            found[name] = list(values)
    return found


def _is_data(one: object) -> bool:
    """Whether it may be a data set: not a dictionary, nor a table of pandas."""
    is_table = callable(getattr(type(one), "items", None))
    return hasattr(one, "__dict__") and hasattr(type(one), "__getitem__") and not is_table


def check_labels(splits: dict[str, list[NamedLabels]]) -> None:
    """Raise InputError if a class has other labels in one data set than in another.

    A `target_transform` may make one class of several, or several of one: such a class must have
    one label that is the same in each split.
    """
    labels: dict[str, tuple[int, str]] = {}
    names: dict[int, tuple[str, str]] = {}
    for split, found in splits.items():
        for name, label in (pair for source in found if source.listed for pair in source.labels):
            other, there = labels.setdefault(name, (label, split))
            if other != label:
                raise _differing(f"class {name!r} has label", other, there, label, split)
            former, there = names.setdefault(label, (name, split))
            if former != name:
                raise _differing(f"label {label} is class", repr(former), there, repr(name), split)
    first: tuple[str, dict[str, set[int]]] | None = None
    for split, found in splits.items():
        numbers: dict[str, set[int]] = defaultdict(set)
        for name, label in (pair for source in found for pair in source.labels):
            numbers[name].add(label)
        there, known = first = first or (split, numbers)
        for name, ours in numbers.items():
            theirs = known.get(name, ours)
            if not ours & theirs:
                raise _differing(f"class {name!r} has label", min(theirs), there, min(ours), split)


def _number(label: Any) -> int:
    """A label, which in JSON's keys is text."""
    is_text = isinstance(label, str) and label.isdecimal()
    return int(label) if is_text else operator.index(label)


def _differing(what: str, one: object, there: str, other: object, here: str) -> InputError:
    both = f"both {one} and {other}" if there == here else f"{one} in {there} and {other}"
    return InputError(
        f"{what} {both} in {here}; give all the same classes and target_transform, or a class of"
        " your own that numbers them an attribute `classes`"
    )


def _own(data: object) -> list[Any]:
    classes: Any = getattr(data, "classes", ())
    if hasattr(classes, "tolist"):  # a NumPy array
        classes = classes.tolist()
    return list(classes) if isinstance(classes, (list, tuple)) else []


def _labels(data: object, classes: list[Any]) -> list[Any]:
    """The labels of its `classes`, before a target_transform."""
    numbers = getattr(data, "class_to_idx", None)
    if isinstance(numbers, Mapping) and all(isinstance(name, str) for name in classes):
        return [numbers.get(name, place) for place, name in enumerate(classes)]
    return list(range(len(classes)))


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
    return "class_to_idx" if _labels(data, classes) != places else ""


def _as_text(classes: list[Any]) -> list[str]:
    """Each class's name, the first if it has several; ImageNet has two of the name `crane`."""
    names = [_text(_first(one)) for one in classes]
    counts = Counter(names)
    return [f"{n} ({label})" if counts[n] > 1 else n for label, n in enumerate(names)]


def _first(names: Any) -> Any:
    return names[0] if isinstance(names, (tuple, list)) and names else names


def _text(name: Any) -> str:
    # What is not UTF-8 is refused later, like any name that can't be stored.
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)
