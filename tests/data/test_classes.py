"""The classes of torchvision's data sets keep their names, or one line says why they can't."""

import random
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split
from torchvision.datasets import EMNIST, ImageFolder, wrap_dataset_for_transforms_v2

from pipeline.data.arrays import from_torchvision
from pipeline.errors import InputError

ANIMALS = ["cat", "dog", "emu"]


def refused(line: str) -> Any:
    """Expect an InputError that is this line; `…` stands for anything."""
    return pytest.raises(InputError, match=f"^{re.escape(line).replace('…', '.*')}$")


class Labelled(Dataset[Any]):
    """A picture for each label."""

    def __init__(self, labels: Any, **attributes: Any) -> None:
        self.labels = list(labels)
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return Image.new("L", (4, 4), index), self.labels[index]


def animals(**attributes: Any) -> Labelled:
    return Labelled([0, 1, 2, 0, 1, 2], classes=ANIMALS, **attributes)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., ImageFolder]:
    """Torchvision's data set of a folder, of two images of each class."""

    def make(*classes: str, **options: Any) -> ImageFolder:
        root = tmp_path / "-".join(classes)
        for name in classes:
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(2):
                Image.new("L", (4, 4), ord(name[0])).save(root / name / f"{number}.png")
        return ImageFolder(str(root), **options)

    return make


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "Subset": lambda data: Subset(data, range(6)),
    "Subset of a Subset": lambda data: Subset(Subset(data, [5, 4, 3, 2, 1, 0]), range(6)),
    "random_split": lambda data: random_split(data, [1.0])[0],
    "ConcatDataset": lambda data: ConcatDataset([data, data]),
    "ConcatDataset with one unnamed": lambda data: ConcatDataset([Labelled([0]), data]),
    "all of them": lambda data: ConcatDataset([Subset(data, [0]), *random_split(data, [3, 3])]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_data_sets_keep_the_names_of_their_classes(wrapper: str) -> None:
    data = from_torchvision(WRAPPERS[wrapper](animals()), WRAPPERS[wrapper](animals()))
    assert data.class_names == tuple(ANIMALS)


def test_names_that_the_user_puts_on_a_subset_are_kept() -> None:
    named: Any = Subset(animals(), range(6))
    named.classes = ["Katze", "Hund", "Emu"]
    assert from_torchvision(named, named).class_names == ("Katze", "Hund", "Emu")


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (np.array(ANIMALS), ANIMALS),
        (np.array(ANIMALS, "S"), ANIMALS),
        (tuple(ANIMALS), ANIMALS),
        (
            [("tench", "Tinca tinca"), ("crane",), ("goldfish", "Carassius")],
            ["tench", "crane", "goldfish"],
        ),
        (
            [("crane",), ("tench", "Tinca tinca"), ("crane", "lifter")],
            ["crane (0)", "tench", "crane (2)"],
        ),
        (
            np.array([["tench", "Tinca"], ["crane", "Grus"], ["emu", "D."]]),
            ["tench", "crane", "emu"],
        ),
        ([7, 8, 9], ["7", "8", "9"]),
        (None, ["0", "1", "2"]),
        (lambda: ANIMALS, ["0", "1", "2"]),
        ({"emu": 2, "dog": 1, "cat": 0}, ["0", "1", "2"]),
        ([], ["0", "1", "2"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_classes_of_any_type_are_named(classes: Any, names: list[str]) -> None:
    data = Labelled([0, 1, 2], classes=classes)
    assert from_torchvision(data, data).class_names == tuple(names)


def test_given_names_are_used() -> None:
    names = ["Katze", "Hund", "Emu"]
    for data in (animals(), Labelled([0, 1, 2]), Subset(animals(), range(6))):
        assert from_torchvision(data, data, class_names=names).class_names == tuple(names)
    with refused("a training label is 2; with 2 classes, labels must be from 0 to 1"):
        from_torchvision(animals(), animals(), class_names=["Katze", "Hund"])
    digest = from_torchvision(animals(), animals(), None, class_names=names).digest
    assert from_torchvision(animals(), animals(), digest).digest == digest


# Classes of training and validation


def test_a_subset_does_not_hide_that_classes_differ(folder: Callable[..., ImageFolder]) -> None:
    cats_and_emus = Subset(folder(*ANIMALS), [0, 1, 4, 5])
    validation = folder("cat", "emu")
    with refused(
        "no training image is of class 'dog'; every class must have at least one: number the"
        " others from 0 by a target_transform, and pass class_names"
    ):
        from_torchvision(cats_and_emus, validation)
    # What the line advises works.
    numbered = folder(*ANIMALS, target_transform={0: 0, 2: 1}.get)
    data = from_torchvision(Subset(numbered, [0, 1, 4, 5]), validation, class_names=["cat", "emu"])
    assert data.training.labels.tolist() == data.validation.labels.tolist() == [0, 0, 1, 1]
    assert data.training.images[:, 0, 0, 0].tolist() == [ord(c) for c in "ccee"]


@pytest.mark.parametrize("names", [None, ["Katze", "Hund", "Emu"]])
def test_labels_of_fewer_validation_classes_are_matched_by_name(
    names: Any, folder: Callable[..., ImageFolder]
) -> None:
    wrapped = Subset(folder(*ANIMALS), range(6))
    data = from_torchvision(wrapped, Subset(folder("cat", "emu"), range(4)), class_names=names)
    assert data.validation.labels.tolist() == [0, 0, 2, 2]
    assert data.class_names == tuple(names or ANIMALS)


@pytest.mark.parametrize(
    ("validation", "line"),
    [
        (
            ["cat", "fox", "emu"],
            "training must have all classes of validation; it has no fox, only cat, dog, emu",
        ),
        ([*ANIMALS, "fox"], "training must have all classes of validation; it has no fox, …"),
        (
            ["dog", "cat", "emu"],
            "the classes of training are cat, dog, emu, and those of validation dog, cat, emu; they"
            " must be in the same order",
        ),
    ],
)
@pytest.mark.parametrize("names", [None, ANIMALS])
def test_other_classes_in_validation_are_refused(
    validation: list[str], line: str, names: Any
) -> None:
    other = Labelled([0, 1, 2], classes=validation)
    for one, two in ((animals(), other), (Subset(animals(), range(6)), Subset(other, range(3)))):
        with refused(line):
            from_torchvision(one, two, class_names=names)


def test_a_label_beyond_the_names_of_validation_is_refused() -> None:
    with refused("a validation label is 2; with 2 classes, labels must be from 0 to 1"):
        from_torchvision(animals(), Labelled([0, 1, 2], classes=["cat", "emu"]))


def test_joined_data_sets_of_different_classes_are_refused() -> None:
    joined: Any = ConcatDataset([animals(), Labelled([0, 1], classes=["dog", "emu"])])
    for names in (None, ANIMALS):
        with refused(
            "training joins data sets of different classes, cat, dog, emu and dog, emu; all must"
            " have the same"
        ):
            from_torchvision(joined, animals(), class_names=names)


class Own(Dataset[Any]):
    """As users write it, to transform one part of a data set."""

    def __init__(self, *inner: Any, **attributes: Any) -> None:
        self.inner, self.renumber = inner[0], int
        self.others = inner[1:]
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        picture, label = self.inner[index]
        return picture, self.renumber(label)


class Plain:
    """The same, of no base class."""

    __init__ = Own.__init__
    __len__ = Own.__len__
    __getitem__ = Own.__getitem__


OWN: dict[str, Callable[[Any], Any]] = {
    "a class": Own,
    "a plain class": Plain,
    "a class around a Subset": lambda data: Own(Subset(data, range(len(data)))),
    "a Subset of a class": lambda data: Subset(Own(data), range(len(data))),
    "joined classes": lambda data: ConcatDataset([Plain(data), Own(data)]),
    "a class in a list": lambda data: Own(data, Own(data)),
}
DIFFER = (
    "; give all the same classes and target_transform, or a class of your own that numbers them an"
    " attribute `classes`"
)


@pytest.mark.parametrize("names", [None, ANIMALS])
@pytest.mark.parametrize("wrapper", OWN)
def test_a_users_own_class_does_not_hide_that_classes_differ(wrapper: str, names: Any) -> None:
    wrap = OWN[wrapper]
    for classes, line in (
        (["cat", "emu"], "class 'emu' has label 2 in training and 1 in validation"),
        (["cat", "fox", "emu"], "label 1 is class 'dog' in training and 'fox' in validation"),
    ):
        other = Labelled(range(len(classes)), classes=classes)
        for one, two in ((wrap(animals()), wrap(other)), (animals(), wrap(other))):
            with refused(line + DIFFER):
                from_torchvision(one, two, class_names=names)
    same = from_torchvision(wrap(animals()), wrap(animals()), class_names=names)
    assert same.class_names == tuple(names or "012")
    assert set(same.validation.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("names", [None, ANIMALS])
def test_a_users_own_class_does_not_hide_that_joined_classes_differ(names: Any) -> None:
    fewer = Labelled([0, 1], classes=["cat", "emu"])
    mixed: Any
    for mixed in (
        ConcatDataset([animals(), Own(fewer)]),
        ConcatDataset([Own(animals()), Plain(fewer)]),
    ):
        with refused(f"class 'emu' has label both 2 and 1 in training{DIFFER}"):
            from_torchvision(mixed, animals(), class_names=names)
        with refused(f"class 'emu' has label …2 …and 1 in validation{DIFFER}"):
            from_torchvision(animals(), mixed, class_names=names)


def test_a_users_own_class_may_number_classes_itself() -> None:
    fewer = Labelled([0, 1], classes=["cat", "emu"])
    # What the line advises works: with the names, and with the labels.
    for classes in (["cat", "emu"], ANIMALS):
        renumber = {0: 0, 1: classes.index("emu")}.get
        data = from_torchvision(animals(), Own(fewer, classes=classes, renumber=renumber))
        assert data.class_names == tuple(ANIMALS)
        assert data.validation.labels.tolist() == [0, 2]
    # It may leave out classes, if it does so on both sides.
    pets: Any = [Own(Subset(animals(), [0, 2, 3, 5]), renumber={0: 0, 2: 1}.get) for _ in range(2)]
    assert (
        from_torchvision(*pets, class_names=["cat", "emu"]).training.labels.tolist() == [0, 1] * 2
    )
    # A data set that holds itself is no endless search.
    selfish = Own(animals())
    selfish.others = (selfish,)
    assert from_torchvision(selfish, selfish).num_classes == 3


def test_a_class_may_be_what_a_joined_data_set_has_in_common(
    folder: Callable[..., ImageFolder],
) -> None:
    photos = folder(*ANIMALS, target_transform=lambda _: 0)
    sketches = folder(*ANIMALS, target_transform=lambda _: 1)
    joined: Any = ConcatDataset([photos, sketches])
    validation: Any
    for validation in (joined, ConcatDataset([sketches, photos]), photos, sketches):
        data = from_torchvision(joined, validation, class_names=["photo", "sketch"])
        assert data.training.labels.tolist() == [0] * 6 + [1] * 6


# Names that are not those of the labels


@pytest.mark.parametrize(
    "transform",
    [
        {0: 2, 1: 1, 2: 0}.get,
        lambda label: min(label, 1),
        lambda label: label + 1,
        lambda label: (label + random.random() > 1) or "?",
        lambda label: label.item(),
    ],
    ids=["permutes", "merges", "shifts", "is no number", "fails"],
)
@pytest.mark.parametrize("wrapper", ["none", *WRAPPERS])
def test_a_target_transform_makes_names_untrue(
    transform: Callable[[Any], Any], wrapper: str
) -> None:
    wrap = WRAPPERS.get(wrapper, lambda data: data)
    changed = wrap(animals(target_transform=transform))
    for split, sets in (
        ("training", (changed, animals())),
        ("validation", (animals(), changed)),
    ):
        with refused(
            f"the target_transform of {split} numbers the classes differently from its `classes`;"
            " pass class_names, in the order of the labels"
        ):
            from_torchvision(*sets)
    named = from_torchvision(changed, changed, class_names=["a", "b", "c"])
    assert named.class_names == ("a", "b", "c")


def test_a_class_has_one_label_in_training_and_validation_also_if_the_user_names_it(
    folder: Callable[..., ImageFolder],
) -> None:
    def merged(label: int) -> int:
        return [0, 0, 1][label]

    training = folder(*ANIMALS, target_transform=merged)
    names = ["pet", "bird"]
    assert from_torchvision(training, training, class_names=names).class_names == ("pet", "bird")
    for validation, line in (
        (
            folder("cat", "emu", target_transform=merged),
            "class 'emu' has label 1 in training and …",
        ),
        (folder(*ANIMALS), "class 'dog' has label 0 in training and 1 in validation; …"),
    ):
        with refused(line):
            from_torchvision(training, validation, class_names=names)


def test_transforms_of_both_picture_and_label_may_make_names_untrue() -> None:
    changed = animals()
    vars(changed)["transforms"] = lambda picture, label: (picture, 2 - label)
    with refused(
        "the transforms of training numbers the classes differently from its `classes`; pass"
        " class_names, in the order of the labels"
    ):
        from_torchvision(changed, animals())


@pytest.mark.parametrize("transform", [int, lambda label: label, np.int64])
def test_a_target_transform_that_keeps_the_labels_keeps_the_names(transform: Any) -> None:
    data = animals(target_transform=transform)
    assert from_torchvision(data, data).class_names == tuple(ANIMALS)
    unnamed = Labelled([0, 1, 2], target_transform=lambda label: 2 - label)
    assert from_torchvision(unnamed, unnamed).class_names == ("0", "1", "2")


def test_another_numbering_of_the_folders_is_refused(tmp_path: Path) -> None:
    class Merged(ImageFolder):  # type: ignore[misc]  # torchvision has no types
        """As torchvision's documentation allows it."""

        def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
            return ["cat", "dog", "kitten"], {"cat": 0, "kitten": 0, "dog": 1}

    for name in ("cat", "dog", "kitten"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    merged = Merged(str(tmp_path))
    with refused("the class_to_idx of training numbers the classes differently …"):
        from_torchvision(merged, merged)
    with refused(f"class 'kitten' has label 2 in training and 0 in validation{DIFFER}"):
        from_torchvision(ImageFolder(str(tmp_path)), merged, class_names=["cat", "dog", "kitten"])
    data = from_torchvision(merged, merged, class_names=["cat", "dog"])
    assert sorted(data.training.labels.tolist()) == [0, 0, 1]


def test_a_data_set_wrapped_for_torchvisions_new_transforms_is_read(
    folder: Callable[..., ImageFolder],
) -> None:
    plain = folder(*ANIMALS)
    wrapped = wrap_dataset_for_transforms_v2(folder(*ANIMALS))
    assert from_torchvision(wrapped, wrapped).digest == from_torchvision(plain, plain).digest
    assert from_torchvision(wrapped, wrapped).class_names == tuple(ANIMALS)


def write_letters(root: Path) -> None:
    """Write the files that torchvision's EMNIST reads, of labels from 1."""
    folder = root / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    labels = np.arange(1, 27)
    images = np.repeat(labels, 28 * 28).reshape(26, 28, 28)
    for split in ("train", "test"):
        for what, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            file = folder / f"emnist-letters-{split}-{what}-ubyte"
            file.write_bytes(header + values.astype(np.uint8).tobytes())


def test_the_letters_of_emnist_are_read_as_the_line_says(tmp_path: Path) -> None:
    write_letters(tmp_path)
    with refused(
        "no training image is of class 'N/A'; every class must have at least one: number the"
        " others from 0 by a target_transform, and pass class_names"
    ):
        from_torchvision(*(EMNIST(tmp_path, "letters", train=train) for train in (True, False)))
    sets = [
        EMNIST(tmp_path, "letters", train=train, target_transform=lambda label: label - 1)
        for train in (True, False)
    ]
    data = from_torchvision(*sets, class_names=list(string.ascii_lowercase))
    assert data.class_names == tuple(string.ascii_lowercase)
    for split in (data.training, data.validation):
        assert split.labels.tolist() == list(range(26))
        assert split.images[:, 0, 0, 0].tolist() == list(range(1, 27))
