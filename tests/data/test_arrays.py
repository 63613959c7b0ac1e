"""A user's own data becomes a data set, or one line says what is wrong with it."""

import gzip
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST, FakeData, ImageFolder
from torchvision.transforms import Resize, ToTensor

from pipeline.data import checks
from pipeline.data.arrays import from_arrays, from_folder, from_npz, from_torchvision
from pipeline.data.dataset import ImageDataset
from pipeline.data.pictures.pixels import read_picture
from pipeline.errors import InputError
from pipeline.machine import GIB
from pipeline.models.pictures import Picture, find_pictures

Arrays = dict[str, Any]
Change = Callable[[Arrays], Any]
NAMES = ("apple", "pear", "plum")


def drawn(*shape: int, training: int = 6, validation: int = 3) -> Arrays:
    """Random images of three classes, by the names of `from_arrays`' arguments."""
    generator = np.random.default_rng(0)
    return {
        f"{name}_{what}": values
        for name, count in (("training", training), ("validation", validation))
        for what, values in {
            "images": generator.integers(0, 256, (count, *shape), dtype=np.uint8),
            "labels": np.arange(count) % 3,
        }.items()
    }


def refused(line: str) -> Any:
    """Expect an InputError that is this line; `…` stands for anything."""
    return pytest.raises(InputError, match=f"^{re.escape(line).replace('…', '.*')}$")


def same(data: ImageDataset, expected: Arrays) -> bool:
    """Whether the data set holds these arrays, in this order."""
    return all(
        np.array_equal(split.images.numpy().reshape(images.shape), images)
        and split.labels.tolist() == list(labels)
        for split, images, labels in (
            (data.training, expected["training_images"], expected["training_labels"]),
            (data.validation, expected["validation_images"], expected["validation_labels"]),
        )
    )


# Arrays


@pytest.mark.parametrize("shape", [(28, 28), (5, 7, 1), (8, 8, 2), (7, 5, 3), (96, 96, 4)], ids=str)
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint64])
def test_arrays_of_any_size_and_one_to_four_channels(shape: tuple[int, ...], kind: type) -> None:
    images = drawn(*shape)
    for name in ("training_labels", "validation_labels"):
        images[name] = images[name].astype(kind)
    data = from_arrays(**images)
    assert same(data, images)
    assert data.image_shape == (shape if len(shape) == 3 else (*shape, 1))
    for split in (data.training, data.validation):
        assert (split.images.dtype, split.images.ndim) == (torch.uint8, 4)
        assert split.labels.dtype == torch.int64
    assert (data.class_names, data.num_classes) == (("0", "1", "2"), 3)
    assert data.nbytes == 9 * (int(np.prod(shape)) + 8)
    assert (data.name, data.source, data.caveat, data.test) == ("", None, "", None)
    assert data.hold_out().nbytes == data.nbytes


def test_arrays_are_not_copied() -> None:
    images = drawn(4, 4, 3)
    data = from_arrays(**images)
    assert data.training.images.numpy().ctypes.data == images["training_images"].ctypes.data


def test_arrays_that_are_read_only_or_reversed_are_accepted_without_a_warning() -> None:
    images = drawn(4, 4, 3)
    images["training_images"].flags.writeable = False
    images["validation_images"] = images["validation_images"][:, :, ::-1]
    images["validation_labels"] = images["validation_labels"][::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(from_arrays(**images), images)


def test_names_superclasses_and_source_are_kept() -> None:
    data = from_arrays(
        **drawn(4, 4),
        class_names=NAMES,
        superclass_names=("pome", "stone"),
        superclass_of=(0, 0, 1),
        source="https://example.org/fruit",
    )
    assert (data.class_names, data.superclass_of) == (NAMES, (0, 0, 1))
    assert data.superclass_names == ("pome", "stone")
    assert data.source == "https://example.org/fruit"


def test_the_digest_tells_other_data() -> None:
    images = drawn(4, 4)
    digest = from_arrays(**images).digest
    assert from_arrays(**images, digest=digest).digest == digest
    images["validation_images"][2, 3, 3] ^= 1
    other = from_arrays(**images).digest
    with refused(
        f"the digest of the data is {other}, not {digest}; use the data that it is of, or give the"
        " new digest"
    ):
        from_arrays(**images, digest=digest)


NAMED: dict[str, Any] = {
    "from labels": {0: "apple", 1: "pear", 2: "plum"},
    "to labels": {"plum": 2, "apple": 0, "pear": 1},
    "from NumPy's labels": {np.int64(2): "plum", np.int64(0): "apple", np.int64(1): "pear"},
    "from labels in JSON": {"2": "plum", "0": "apple", "1": "pear"},
    "a Series from labels": pd.Series({2: "plum", 0: "apple", 1: "pear"}),
    "a Series to labels": pd.Series({"plum": 2, "apple": 0, "pear": 1}),
    "a Series": pd.Series(NAMES),
    "keys": dict.fromkeys(NAMES).keys(),
    "bytes": [b"apple", b"pear", b"plum"],
    "array of bytes": np.array(NAMES, "S"),
    "column": np.array(NAMES)[:, None],
    "several": [("apple", "Malus"), ("pear", "Pyrus"), ("plum",)],
}


@pytest.mark.parametrize("kind", NAMED)
def test_names_of_any_type_are_in_the_order_of_the_labels(kind: str) -> None:
    names = NAMED[kind]
    groups: dict[str, Any] = {"superclass_names": names, "superclass_of": {1: 1, 2: 2, 0: 0}}
    data = from_arrays(**drawn(4, 4), class_names=names, **groups)
    assert data.class_names == data.superclass_names == NAMES
    assert data.superclass_of == (0, 1, 2)
    assert from_torchvision(pictures(), pictures(), class_names=names).class_names == NAMES
    given = from_arrays(**drawn(4, 4), **groups | {"superclass_of": (np.int64(0), True, 2)})
    assert given.identity == from_arrays(**drawn(4, 4), **groups).identity
    with refused("superclass_of is [0.0, 1.0, 2.0]; it must be whole numbers"):
        from_arrays(**drawn(4, 4), **groups | {"superclass_of": np.arange(3.0)})
    twice: Any = ["a", "b", b"b"]
    with refused("the class name 'b' occurs 2 times; all must be different"):
        from_arrays(**drawn(4, 4), class_names=twice)


NO_LIST = "it must be a list, in the order of the labels"
NO_LABELS = "a mapping must have each label from 0 once"
UNNAMED: dict[str, tuple[Any, str]] = {
    "set": ({"pear", "apple", "plum"}, f"is {{'apple', 'pear', 'plum'}}; {NO_LIST}"),
    "text": ("abc", f"is 'abc'; {NO_LIST}"),
    "bytes": (b"abc", f"is b'abc'; {NO_LIST}"),
    "number": (3, f"is 3; {NO_LIST}"),
    "from one": ({1: "apple", 2: "pear", 3: "plum"}, f"is {{…}}; {NO_LABELS}"),
    "label twice": ({"apple": 0, "pear": 1, "plum": 1}, f"is {{…}}; {NO_LABELS}"),
    "no labels": ({"a": "apple", "b": "pear", "p": "plum"}, f"is {{…}}; {NO_LABELS}"),
    "None": (["apple", None, "plum"], "has the name None; each must be text"),
}


@pytest.mark.parametrize("kind", UNNAMED)
def test_names_without_an_order_are_refused(kind: str) -> None:
    names, line = UNNAMED[kind]
    with refused(f"class_names {line}"):
        from_arrays(**drawn(4, 4), class_names=names)
    with refused(f"class_names {line}"):
        from_torchvision(pictures(), pictures(), class_names=names)
    with refused(f"superclass_names {line}"):
        from_arrays(**drawn(4, 4), superclass_names=names, superclass_of=(0, 1, 2))


def put(**changes: Any) -> Change:
    return lambda images: images.update(changes)


WRONG: dict[str, tuple[Change, str]] = {
    "floats": (
        put(training_images=np.zeros((6, 4, 4, 3))),
        "the training images are float64 [6, 4, 4, 3]; they must be uint8 [N, H, W] or"
        " [N, H, W, C]",
    ),
    "flat": (
        put(validation_images=np.zeros((3, 48), np.uint8)),
        "the validation images are uint8 [3, 48]; they must be uint8 [N, H, W] or [N, H, W, C]",
    ),
    "channels first": (
        put(training_images=np.zeros((6, 3, 32, 32), np.uint8)),
        "the training images are uint8 [6, 3, 32, 32]; they must be uint8 [N, H, W, C] with 1 to 4"
        " channels C, the channels last",
    ),
    "two sizes": (
        put(validation_images=np.zeros((3, 5, 4, 3), np.uint8)),
        "the validation images are 4x5 pixels, 3 channels, and the training images 4x4 pixels, 3"
        " channels; all must have the same size and channels",
    ),
    "grey and colour": (
        put(validation_images=np.zeros((3, 4, 4), np.uint8)),
        "the validation images are 4x4 pixels, 1 channel, and the training images 4x4 pixels, 3"
        " channels; all must have the same size and channels",
    ),
    "no images": (
        put(validation_images=np.zeros((0, 4, 4, 3), np.uint8), validation_labels=np.arange(0)),
        "the validation images are uint8 [0, 4, 4, 3]; there must be at least one image, of at"
        " least one pixel",
    ),
    "no pixels": (
        put(training_images=np.zeros((6, 0, 4, 3), np.uint8)),
        "the training images are uint8 [6, 0, 4, 3]; there must be at least one image, of at"
        " least one pixel",
    ),
    "fewer labels": (
        put(training_labels=np.arange(5) % 3),
        "the training labels are int64 [5] for 6 images; they must be int64 [6], one for each"
        " image",
    ),
    "one-hot labels": (
        put(validation_labels=np.eye(3, dtype=np.int64)),
        "the validation labels are int64 [3, 3] for 3 images; they must be int64 [3], one for each"
        " image",
    ),
    "float labels": (
        put(training_labels=np.zeros(6)),
        "the training labels are float64; they must be integers",
    ),
    "text labels": (
        put(validation_labels=np.array(["a", "b", "c"])),
        "the validation labels are <U1; they must be integers",
    ),
    "from one": (
        put(training_labels=np.arange(6) % 3 + 1),
        "a training label is 3; with 3 classes, labels must be from 0 to 2",
    ),
    "negative": (
        put(training_labels=np.arange(6) % 3 - 1),
        "a training label is -1; with 3 classes, labels must be from 0 to 2",
    ),
    "no validation labels": (
        put(validation_labels=None),
        "there are no validation labels; give both images and labels, or neither: a part of the"
        " training images is then taken",
    ),
    "no validation images": (
        put(validation_images=None),
        "there are no validation images; give both images and labels, or neither: …",
    ),
    "a seed for validation images that are there": (
        put(seed=1),
        "validation is 0.2 and seed 1, and there are validation images already; leave both out",
    ),
    "only in validation": (
        put(validation_labels=np.array([0, 1, 3])),
        "a validation label is 3; with 3 classes, labels must be from 0 to 2",
    ),
    "a huge label": (
        put(training_labels=np.arange(6) % 3 * 2**60),
        "a training label is 2305843009213693952; with 3 classes, labels must be from 0 to 2",
    ),
    "one class": (
        put(training_labels=np.zeros(6, int), validation_labels=np.zeros(3, int)),
        "the number of classes is 1; it must be at least 2",
    ),
    "fewer names": (
        put(class_names=NAMES[:2]),
        "a training label is 2; with 2 classes, labels must be from 0 to 1",
    ),
    "more names": (
        put(class_names=(*NAMES, "quince")),
        "no training image is of class 'quince'; every class must have at least one",
    ),
    "equal names": (
        put(class_names=("apple", "pear", "apple")),
        "the class name 'apple' occurs 2 times; all must be different",
    ),
    "names that no database can hold": (
        put(class_names=("apple", "pear", "p\0")),
        r"a class name is 'p\x00'; it must be UTF-8 text without NUL",
    ),
    "superclasses without names": (
        put(superclass_of=(0, 0, 1)),
        "superclass_of has 3 numbers and superclass_names 0 names; superclass_of must have the"
        " number of a superclass, from 0, for each of the 3 classes, or both must be empty",
    ),
    "superclasses of too few": (
        put(superclass_of=(0, 0), superclass_names=("pome",)),
        "superclass_of has 2 numbers and superclass_names 1 names; …",
    ),
    "unknown superclass": (
        put(superclass_of=(0, 0, 1), superclass_names=("pome",)),
        "superclass_of has 3 numbers and superclass_names 1 names; …",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_are_no_data_set_are_refused(case: str) -> None:
    change, line = WRONG[case]
    images = drawn(4, 4, 3)
    change(images)
    with refused(line):
        from_arrays(**images)


# An .npz file


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays to a file."""

    def write(compressed: bool = False, **content: Any) -> Path:
        path = tmp_path / "fruit.npz"
        (np.savez_compressed if compressed else np.savez)(path, **content)
        return path

    return write


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_file_is_the_data_set_of_its_arrays(
    npz: Callable[..., Path], compressed: bool
) -> None:
    images = drawn(9, 8)
    data = from_npz(npz(compressed, **images))
    assert same(data, images)
    assert data.class_names == ("0", "1", "2")
    assert from_npz(npz(**images), digest=data.digest).digest == data.digest
    with refused(f"the digest of the data is {data.digest}, not 0123; …"):
        from_npz(npz(**images), digest="0123")


@pytest.mark.parametrize("names", [NAMES, np.array(NAMES, "S")], ids=["text", "bytes"])
def test_an_npz_file_may_name_classes_and_superclasses(
    npz: Callable[..., Path], names: Any
) -> None:
    groups: dict[str, Any] = {"superclass_names": ("pome", "stone"), "superclass_of": (0, 0, 1)}
    data = from_npz(npz(**drawn(9, 8), class_names=names, **groups))
    assert data.class_names == NAMES
    assert data.superclass_names == ("pome", "stone")
    assert data.superclass_of == (0, 0, 1)
    assert {type(number) for number in data.superclass_of} == {int}


def test_an_npz_file_that_lacks_arrays_is_refused(npz: Callable[..., Path]) -> None:
    path = npz(x_train=np.zeros(2), training_images=np.zeros(2))
    with refused(f"{path} lacks training_labels; it has x_train, training_images"):
        from_npz(path)
    with refused(f"{npz(labels=np.zeros(2))} lacks images; it has labels"):
        from_npz(path)
    halves = {name: values for name, values in drawn(9, 8).items() if name != "validation_labels"}
    with refused(f"{npz(**halves)} lacks validation_labels; it has …"):
        from_npz(path)
    with refused(f"{path} lacks …; it has no array"):
        from_npz(npz())


def test_an_npz_file_with_arrays_by_other_names_is_refused(npz: Callable[..., Path]) -> None:
    names = "class_names, superclass_names, superclass_of: rename them, or leave them out"
    images = drawn(9, 8)
    first, second, third, fourth = images.values()
    path = npz(images=first, labels=second, val_images=third, val_labels=fourth)
    with refused(
        f"{path} also has val_images, val_labels; beside images, labels it may have only"
        f" validation_images, validation_labels, {names}"
    ):
        from_npz(path)
    with refused(f"{path} also has images; beside {', '.join(images)} it may have only {names}"):
        from_npz(npz(**images, images=first))


def test_a_missing_npz_file_is_refused(tmp_path: Path) -> None:
    with refused(f"cannot read {tmp_path / 'none.npz'}: No such file or directory"):
        from_npz(tmp_path / "none.npz")
    with refused(f"cannot read {tmp_path}: Is a directory"):
        from_npz(str(tmp_path))


def test_a_file_that_is_no_npz_file_or_damaged_is_refused(
    npz: Callable[..., Path], tmp_path: Path
) -> None:
    line = "{} is damaged, or no .npz file of plain arrays; write it with numpy.savez"
    whole = npz(**drawn(9, 8)).read_bytes()
    foreign = {
        "empty": b"",
        "text": b"apple,pear\n",
        "truncated": whole[:-30],
        "altered": whole.replace(b"NUMPY", b"LUMPY"),
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        with refused(line.format(tmp_path / name)):
            from_npz(tmp_path / name)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with refused(line.format(tmp_path / "single.npy")):
        from_npz(tmp_path / "single.npy")


def test_nothing_in_an_npz_file_is_unpickled(npz: Callable[..., Path], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    path = npz(**drawn(9, 8), class_names=np.array([Trap()], dtype=object))
    with refused(f"{path} is damaged, or no .npz file of plain arrays; …"):
        from_npz(path)
    assert not (tmp_path / "sprung").exists()


# torchvision's data sets


class Pairs:
    """A map-style data set of the pairs in a list."""

    def __init__(self, pairs: list[Any], classes: Any = None) -> None:
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def pictures(mode: str = "RGB", size: tuple[int, int] = (8, 6), classes: Any = None) -> Pairs:
    """Six images, of three classes."""
    return Pairs([(Image.new(mode, size), index % 3) for index in range(6)], classes)


def write_mnist(root: Path, images: Arrays) -> None:
    """Write the files that torchvision's MNIST reads."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, split in (("train", "training"), ("t10k", "validation")):
        for what, kind in (("images", "idx3"), ("labels", "idx1")):
            values = images[f"{split}_{what}"].astype(np.uint8)
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (folder / f"{name}-{what}-{kind}-ubyte").write_bytes(header + values.tobytes())
            # It looks for the archives, too.
            with gzip.open(folder / f"{name}-{what}-{kind}-ubyte.gz", "wb") as archive:
                archive.write(header + values.tobytes())


def test_mnist_of_torchvision_is_read(tmp_path: Path) -> None:
    images = drawn(28, 28, training=30, validation=20)
    for name, count in (("training_labels", 30), ("validation_labels", 20)):
        images[name] = np.arange(count) % 10
    write_mnist(tmp_path, images)
    data = from_torchvision(MNIST(tmp_path, train=True), MNIST(tmp_path, train=False))
    assert same(data, images)
    assert data.image_shape == (28, 28, 1)
    assert data.class_names[:2] == ("0 - zero", "1 - one")
    with refused(f"the digest of the data is {data.digest}, not 0123; …"):
        from_torchvision(MNIST(tmp_path), MNIST(tmp_path, train=False), digest="0123")


def test_fake_data_of_torchvision_is_read_as_it_gives_it() -> None:
    training, validation = (
        FakeData(40, (3, 10, 12), num_classes=3, random_offset=offset) for offset in (0, 40)
    )
    data = from_torchvision(training, validation)
    assert data.image_shape == (10, 12, 3)
    for split, original in ((data.training, training), (data.validation, validation)):
        for image, label, (picture, number) in zip(*vars(split).values(), original, strict=True):
            assert np.array_equal(image, np.asarray(picture))
            assert label == number


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("1", 1), ("LA", 2), ("RGB", 3), ("P", 3), ("RGBA", 4), ("CMYK", 3)],
)
def test_8_bit_images_keep_their_channels(mode: str, channels: int) -> None:
    data = from_torchvision(pictures(mode), pictures(mode))
    assert data.image_shape == (6, 8, channels)
    assert data.class_names == ("0", "1", "2")


def test_white_and_a_palettes_colours_are_kept() -> None:
    for mode, white in (("1", 1), ("P", "white")):
        pairs = Pairs([(Image.new(mode, (2, 2), white), label) for label in (0, 1)])
        assert (from_torchvision(pairs, pairs).training.images == 255).all()


def test_names_are_used_if_there_is_one_for_each_class() -> None:
    def names(training: Any, validation: Any) -> tuple[str, ...]:
        pairs = pictures(classes=training), pictures(classes=validation)
        return from_torchvision(*pairs).class_names

    assert names(list(NAMES), NAMES) == NAMES
    assert names(NAMES[:2], NAMES[:2]) == names([], []) == ("0", "1", "2")
    for split, pair in (("training", (NAMES, None)), ("validation", (None, NAMES))):
        with refused(f"only {split} names its classes; pass class_names, in the order …"):
            names(*pair)


def test_images_of_two_sizes_are_refused_with_the_transform_that_helps() -> None:
    one, two = pictures(), pictures(size=(9, 6))
    advice = "pass transform=torchvision.transforms.Resize((6, 8))"
    with refused(
        "training image 6 is 9x6 pixels, 3 channels, and the first image 8x6 pixels, 3 channels;"
        f" {advice}"
    ):
        from_torchvision(Pairs(one.pairs + two.pairs), one)
    with refused(f"validation image 0 is 9x6 pixels, …; {advice}"):
        from_torchvision(one, two)
    with refused(
        "validation image 0 is 8x6 pixels, 1 channel, …; pass channels=3 to read all as RGB"
    ):
        from_torchvision(one, pictures("L"))
    assert from_torchvision(one, pictures("L"), channels=3).image_shape == (6, 8, 3)


def test_the_transform_that_an_error_names_helps(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        for label, name in enumerate(NAMES):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (30 + label, 40)).save(tmp_path / split / name / "1.png")
    plain = [ImageFolder(str(tmp_path / split)) for split in ("training", "validation")]
    with refused("training image 1 is 31x40 pixels, …; pass transform=…Resize((40, 30))"):
        from_torchvision(*plain)
    resize = Resize((40, 30))
    data = from_torchvision(
        *(ImageFolder(str(tmp_path / s), transform=resize) for s in ("training", "validation"))
    )
    assert (data.image_shape, data.class_names) == ((40, 30, 3), NAMES)


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (
            (ToTensor()(Image.new("RGB", (8, 6))), 0),
            "training image 6 is a Tensor; it must be a PIL image and its label: leave out"
            " transforms such as ToTensor",
        ),
        ({"image": 1}, "training image 6 is a dict; it must be a PIL image and its label: …"),
        (
            Image.new("RGB", (8, 6)),
            "the label of training image 6 is a NoneType; it must be a class's int",
        ),
        (
            (Image.new("RGB", (8, 6)), [{"box": 1}]),
            "the label of training image 6 is a list; it must be a class's int",
        ),
        (
            (Image.new("RGB", (8, 6)), torch.zeros(40)),
            "the label of training image 6 is a Tensor; it must be a class's int",
        ),
        (
            (Image.new("F", (8, 6)), 0),
            "cannot read training image 6: its pixels are 32-bit numbers of unknown range; save it"
            " with 8 or 16 bits",
        ),
        (
            (Image.new("RGB", (8, 6)), -1),
            "a training label is -1; with 3 classes, labels must be from 0 to 2",
        ),
    ],
)
def test_items_that_are_no_image_and_class_are_refused(item: Any, line: str) -> None:
    with refused(line):
        from_torchvision(Pairs([*pictures().pairs, item], NAMES), pictures(classes=NAMES))


def test_an_empty_data_set_is_refused() -> None:
    for sets, name in (
        ((Pairs([]), pictures()), "training"),
        ((pictures(), Pairs([])), "validation"),
    ):
        with refused(f"the {name} images are uint8 [0, …]; there must be at least one image, …"):
            from_torchvision(*sets)


# A folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of each of three classes in each split, each of another grey."""
    grey = 0
    for split in ("training", "validation"):
        for name in reversed(NAMES):
            (tmp_path / split / name).mkdir(parents=True)
            for file in ("b.png", "a.bmp"):
                grey += 1
                Image.new("RGB", (8, 6), (grey,) * 3).save(tmp_path / split / name / file)
    return tmp_path


def test_a_folder_is_read_in_the_order_of_names(folder: Path) -> None:
    (folder / "training" / ".DS_Store").touch()
    (folder / "training" / "README.txt").touch()
    (folder / "training" / "pear" / ".hidden.png").touch()
    data = from_folder(folder)
    assert data.class_names == NAMES
    assert data.image_shape == (6, 8, 3)
    assert data.training.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.training.images[:, 0, 0, 0].tolist() == [6, 5, 4, 3, 2, 1]
    assert data.validation.images[:, 0, 0, 0].tolist() == [12, 11, 10, 9, 8, 7]
    assert from_folder(str(folder), digest=data.digest).digest == data.digest
    with refused(f"the digest of the data is {data.digest}, not 0123; …"):
        from_folder(folder, digest="0123")


def test_a_folder_holds_what_torchvisions_image_folder_reads(folder: Path) -> None:
    training, validation = (ImageFolder(str(folder / n)) for n in ("training", "validation"))
    assert from_folder(folder).digest == from_torchvision(training, validation).digest


def test_a_missing_folder_is_refused(folder: Path) -> None:
    layout = "the images must be in <class>/, or in training/<class>/ and validation/<class>/"
    with refused(f"cannot read {folder}/none: No such file or directory; {layout}"):
        from_folder(folder / "none")
    (folder / "validation").rename(folder / "test")
    with refused(f"cannot read {folder}/validation: No such file or directory; {layout}"):
        from_folder(folder)
    (folder / "validation").touch()
    with refused(f"cannot read {folder}/validation: Not a directory; {layout}"):
        from_folder(folder)


def test_images_without_folders_of_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "training" / "1.png")
    with refused(f"{tmp_path}/training has no folders; it must have one per class"):
        from_folder(tmp_path)


def test_a_class_without_a_training_image_is_refused(folder: Path) -> None:
    for split in ("training", "validation"):
        (folder / split / "quince").mkdir()
    (folder / "training" / "quince" / ".gitkeep").touch()
    with refused(f"{folder}/training/quince is empty; put the class's images there"):
        from_folder(folder)


def test_pictures_that_are_in_two_folders_are_scaled_on_request(folder: Path) -> None:
    Image.new("L", (70, 50), 13).save(folder / "validation" / "pear" / "c.png")
    data = from_folder(folder, size=(4, 5))
    assert (data.image_shape, len(data.training), len(data.validation)) == ((4, 5, 3), 6, 7)
    assert data.validation.images[:, 2, 2, 0].tolist() == [12, 11, 10, 9, 13, 8, 7]
    for asked, what in (({"validation": 0.3}, "0.3 and seed 0"), ({"seed": 1}, "0.2 and seed 1")):
        with refused(
            f"validation is {what}, and {folder} has training/ and validation/ already; leave both"
            " out"
        ):
            from_folder(folder, **asked)


def test_a_class_of_validation_alone_is_refused(folder: Path) -> None:
    (folder / "validation" / "pear").rename(folder / "validation" / "fig")
    with refused(
        "training must have all classes of validation; it has no fig, only apple, pear, plum"
    ):
        from_folder(folder)
    for number in range(200):  # none of which fills the terminal
        shutil.copytree(folder / "validation" / "fig", folder / "validation" / f"fig{number:03}")
    with refused(
        "training must have all classes of validation; it has no fig, fig000, fig001, fig002,"
        " fig003 and 196 more, only apple, pear, plum"
    ):
        from_folder(folder)


def test_validation_may_lack_a_class_of_training(folder: Path) -> None:
    for name in ("a.bmp", "b.png"):
        (folder / "validation" / "apple" / name).unlink()
    empty = from_folder(folder)
    (folder / "validation" / "apple").rmdir()
    for data in (empty, from_folder(folder)):
        assert data.class_names == NAMES
        assert data.validation.labels.tolist() == [1, 1, 2, 2]
        assert data.validation.images[:, 0, 0, 0].tolist() == [10, 9, 8, 7]
    training, validation = (ImageFolder(str(folder / n)) for n in ("training", "validation"))
    assert from_torchvision(training, validation).digest == empty.digest


def test_a_file_that_is_no_image_is_refused(folder: Path) -> None:
    image = folder / "training" / "pear" / "b.png"
    whole = image.read_bytes()
    for content, reason in (
        (b"", "not an image of a kind that Pillow reads"),
        (b"Thumbs", "not an image of a kind that Pillow reads"),
        (whole[:40], "not an image of a kind that Pillow reads"),
        (whole[:50], "damaged: …"),
    ):
        image.write_bytes(content)
        with refused(f"cannot read {image}: it is {reason}"):
            from_folder(folder)
    image.unlink()
    image.mkdir()
    with refused(f"{image} is a folder in that of a class; the images must be in <class>/, or …"):
        from_folder(folder)


def test_a_file_of_another_size_is_refused(folder: Path) -> None:
    image = folder / "validation" / "pear" / "b.png"
    Image.new("RGB", (7, 6)).save(image)
    with refused(
        f"{image} is 7x6 pixels, 3 channels, and the first image 8x6 pixels, 3 channels; pass"
        " size=32 to crop and scale all to 32x32 pixels, or another size"
    ):
        from_folder(folder)
    Image.new("RGBA", (8, 6)).save(image)
    with refused(f"{image} is 8x6 pixels, 4 channels, …; pass channels=3 to read all as RGB"):
        from_folder(folder)


# Folders of classes alone


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures of each of three classes, of any sizes and kinds, each of another grey."""
    grey = 0
    for name in reversed(NAMES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            grey += 5
            mode, kind = (("L", "png"), ("RGB", "bmp"), ("RGBA", "png"), ("LA", "png"))[number % 4]
            picture = Image.new("RGB", (20 + 9 * number, 90 - 7 * number), (grey,) * 3)
            picture.convert(mode).save(tmp_path / "photos" / name / f"{number}.{kind}")
    return tmp_path / "photos"


def test_a_part_of_each_class_is_kept_for_validation(photos: Path) -> None:
    data = from_folder(photos)
    assert data.class_names == NAMES
    assert data.image_shape == (32, 32, 3)
    assert data.training.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert data.validation.labels.tolist() == [0, 0, 1, 1, 2, 2]
    # It must not change: runs would be on other data. Each picture is of one grey, in the order of
    # names; the last class was drawn first.
    trained, validated = (
        split.images[:, 9, 9, 1].tolist() for split in (data.training, data.validation)
    )
    assert validated == [115, 120, 60, 70, 5, 10]
    assert sorted(trained + validated) == list(range(5, 151, 5))
    assert from_folder(str(photos), 32, 0.2, 0).digest == data.digest
    others = [from_folder(photos, seed=seed) for seed in (1, 2)]
    assert len({data.digest, *(other.digest for other in others)}) == 3

    # As arrays in the same order are divided.
    files = [path for name in NAMES for path in sorted((photos / name).iterdir())]
    images = np.stack([read_picture(file, (32, 32, 3)) for file in files])
    labels = np.repeat(np.arange(3), 10)
    asked: list[dict[str, Any]] = [{}, {"validation": 0.5, "seed": 7}]
    for options in asked:
        expected = from_folder(photos, **options).digest
        assert from_arrays(images, labels, **options).digest == expected
    half = from_folder(photos, validation=0.5, seed=7)
    assert half.validation.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_each_picture_is_as_predict_sees_it(photos: Path) -> None:
    file = photos / "apple" / "0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    Image.fromarray(noise).save(file, exif=exif)
    size: Any
    for size, channels in ((None, None), (28, 1), ((20, 30), None), ([30, 20], 4)):
        data = from_folder(photos, size, channels=channels)
        seen = read_picture(file, data.image_shape)
        both = [*data.training.images.numpy(), *data.validation.images.numpy()]
        assert any(np.array_equal(seen, image) for image in both)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("L LA", 1), ("L RGB", 3), ("RGB RGBA", 3)],
)
def test_pictures_of_several_kinds_have_the_channels_of_all(
    tmp_path: Path, modes: str, channels: int
) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        for number, mode in enumerate(modes.split() * 2):
            Image.new(mode, (8, 8)).save(tmp_path / name / f"{number}.png")
    assert from_folder(tmp_path, 8).image_shape == (8, 8, channels)


def test_what_systems_hide_is_no_picture_and_a_note_beside_the_classes_neither(
    photos: Path,
) -> None:
    before = from_folder(photos).digest
    for name in ("README.md", "labels.csv", ".DS_Store"):
        (photos / name).write_text("notes")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (photos / "pear" / name).write_text("nothing")
    for name in (".cache", "__MACOSX"):
        (photos / name).mkdir()
    assert from_folder(photos).digest == before
    assert find_pictures(["pear"], photos, recursive=False) == [
        Picture(f"pear/{path.name}", path, ("pear",))
        for path in sorted((photos / "pear").iterdir())
        if path.suffix in (".png", ".bmp")
    ]


def test_a_class_of_one_picture_is_trained_on(photos: Path) -> None:
    for path in sorted((photos / "pear").iterdir())[1:]:
        path.unlink()
    data = from_folder(photos)
    assert data.training.labels.bincount().tolist() == [8, 1, 8]
    assert data.validation.labels.bincount().tolist() == [2, 0, 2]
    for name in ("apple", "plum"):
        for path in sorted((photos / name).iterdir())[1:]:
            path.unlink()
    with refused("no class has two images, one to train and one to validate on; add some"):
        from_folder(photos)


SHARE = "it must be the share of images to validate on, between 0 and 1, such as 0.2"
SIZE = "it must be a number of pixels, such as 32, or two, (height, width)"
NO_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"size {size!r}": ({"size": size}, f"size is {size!r}; {SIZE}")
        for size in (0, -3, 3.5, "a", True, (8,), (8, 0), (8, 8, 3), (8, "a"))
    },
    **{
        f"validation {share!r}": ({"validation": share}, f"validation is {share!r}; {SHARE}")
        for share in (0, 1, 1.5, -0.2, float("nan"), "a", True, None)
    },
    **{
        f"seed {seed!r}": ({"seed": seed}, f"seed is {seed!r}; it must be a whole number of …")
        for seed in (-1, 0.5, "a", None, False)
    },
    "a large seed": ({"seed": 2**32}, f"seed is {2**32}; it must be at most {2**32 - 1}"),
    "too large": ({"size": 10**6}, "the images take 83819.0 GiB and …"),
}


@pytest.mark.parametrize("case", NO_OPTIONS)
def test_options_that_make_no_data_set_are_refused(photos: Path, case: str) -> None:
    options, line = NO_OPTIONS[case]
    with refused(line):
        from_folder(photos, **options)
    options.pop("size", None)
    if options:
        with refused(line):
            from_arrays(*list(drawn(4, 4).values())[:2], **options)


def test_folders_that_are_not_one_per_class_are_refused(photos: Path) -> None:
    layout = "the images must be in <class>/, or in training/<class>/ and validation/<class>/"
    with refused(f"{photos}/apple is a folder in that of a class; {layout}"):
        from_folder(photos.parent)
    for name in ("train", "Test", "val"):
        (photos.parent / "divided" / name / "apple").mkdir(parents=True)
    with refused(
        f"{photos.parent}/divided/Test/apple is a folder in that of a class; {layout}; rename train"
        " to training, and val to validation"
    ):
        from_folder(photos.parent / "divided")
    with refused(f"{photos}/apple has no folders; it must have one per class"):
        from_folder(photos / "apple")
    for name in ("apple", "plum"):
        (photos / name).rename(photos.parent / f"no {name}")
    with refused(f"{photos} has one folder, 'pear'; it must have one per class, at least two"):
        from_folder(photos)
    (photos.parent / "no apple").rename(photos / "apple")
    Image.new("L", (8, 8)).save(photos / "stray.png")
    with refused(f"{photos}/stray.png is a picture of no class; move it to the folder of one"):
        from_folder(photos)


def test_each_picture_that_cannot_be_read_counts(photos: Path) -> None:
    for number in (0, 2):
        file = photos / "pear" / f"{number}.png"
        file.write_bytes(file.read_bytes()[:60])
    (photos / "pear" / "notes.txt").write_text("two are cut off")
    damaged = "it is damaged: …"
    unknown = "it is not an image of a kind that Pillow reads"
    with refused(
        f"cannot read 3 of 31 pictures: {photos}/pear/0.png: {damaged}; {photos}/pear/2.png:"
        f" {damaged}; {photos}/pear/notes.txt: {unknown}"
    ):
        from_folder(photos, validation=0.01)


# A part of arrays


def test_a_file_without_validation_images_is_divided_as_its_arrays_are(
    npz: Callable[..., Path],
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 8), np.uint8)
    labels = np.arange(40) % 4
    expected = from_arrays(images, labels, class_names=list("abcd"))
    options: dict[str, Any] = {"validation": 0.5, "seed": 3}
    for first, second in (("training_images", "training_labels"), ("images", "labels")):
        path = npz(**{first: images, second: labels, "class_names": list("abcd")})
        assert from_npz(path).identity == expected.identity
        assert from_npz(path, expected.digest).digest == expected.digest
        half = from_npz(path, **options)
        assert half.digest == from_arrays(images, labels, **options).digest
        assert half.validation.labels.bincount().tolist() == [5] * 4
    with refused("validation is 0.5 and seed 3, and there are validation images already; …"):
        from_npz(npz(**drawn(9, 8)), **options)


# Memory


def test_images_that_do_not_fit_into_memory_are_not_read(
    folder: Path, npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(Pairs):
        def __len__(self) -> int:
            return 2**20

    def free(number: int) -> None:
        monkeypatch.setattr(checks, "free_memory", lambda: number)

    reason = "of memory is free; this project holds all images in memory"
    large = Large([(Image.new("L", (256, 256)), 0)])
    free(int(12.3 * GIB))
    with refused(f"the images take 128.0 GiB and 12.3 GiB {reason}"):
        from_torchvision(large, large)
    free(12 * 8 * 6 * 3 - 1)
    with refused(f"the images take 0.0 GiB and 0.0 GiB {reason}"):
        from_folder(folder)
    free(12 * 8 * 6 * 3)
    assert len(from_folder(folder).training) == 6

    black = drawn(100, 100)
    black["training_images"][:] = 0
    path = npz(True, **black)  # the file is smaller than its arrays
    free(9 * 100 * 100)
    with refused(f"the images take 0.0 GiB and 0.0 GiB {reason}"):
        from_npz(path)
    free(9 * 100 * 100 + 2000)
    assert len(from_npz(path).training) == 6
