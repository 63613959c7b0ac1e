"""Data sets that a user brings: arrays, an `.npz` file, torchvision's data sets, or a folder.

Each function reads all images into memory, and checks the data set before it returns it.
"""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.dataset import ImageDataset, Split, check_dataset, size_of
from pipeline.errors import InputError
from pipeline.machine import GIB, free_memory

REQUIRED = ("training_images", "training_labels", "validation_images", "validation_labels")
OPTIONAL = {"class_names": str, "superclass_names": str, "superclass_of": int}
# Pillow's 8-bit modes, and what each is read as.
MODES = {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK")} | {"1": "L", "P": "RGB"}


class Pictures(Protocol):
    """A map-style data set of pairs: a PIL image, and its label from 0."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def from_arrays(
    training_images: NDArray[np.uint8],
    training_labels: NDArray[np.integer],
    validation_images: NDArray[np.uint8],
    validation_labels: NDArray[np.integer],
    class_names: Sequence[str] | None = None,
    *,
    superclass_names: Sequence[str] = (),
    superclass_of: Sequence[int] = (),
    source: str | None = None,
    digest: str | None = None,
) -> ImageDataset:
    """Return the data set of these arrays, which are copied only if torch can't use them.

    Images are uint8 `[N, H, W]`, grey, or `[N, H, W, C]` with 1 to 4 channels; labels are integers
    `[N]` from 0. `class_names` are "0", "1", ... by default. `digest` is the expected
    `ImageDataset.digest`.

    Raises InputError for arrays that are no such data set, and for another digest.
    """
    training = Split.from_numpy("training", training_images, training_labels)
    validation = Split.from_numpy("validation", validation_images, validation_labels)
    if class_names is None:
        class_names = [str(label) for label in range(len(np.unique(training.labels.numpy())))]
    data = ImageDataset(
        training=training,
        validation=validation,
        class_names=tuple(map(str, class_names)),
        superclass_names=tuple(map(str, superclass_names)),
        superclass_of=tuple(superclass_of),
        source=source,
    )
    check_dataset(data)
    if digest is not None and data.digest != digest:
        raise InputError(
            f"the digest of the data is {data.digest}, not {digest}; use the data that it is of,"
            " or give the new digest"
        )
    return data


def from_npz(path: str | Path, digest: str | None = None) -> ImageDataset:
    """Return the data set in a file that `numpy.savez` wrote.

    It holds the first four arguments of `from_arrays` by name, and may hold `class_names`,
    `superclass_names` and `superclass_of`. Nothing in it is unpickled.

    Raises InputError for a file that is missing, damaged, incomplete or larger than the free
    memory; otherwise as `from_arrays`.
    """
    try:
        with ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        sizes = {name.removesuffix(".npy"): size for name, size in sizes.items()}
        missing = [name for name in REQUIRED if name not in sizes]
        if missing:
            found = ", ".join(sizes) or "no array"
            raise InputError(f"{path} lacks {', '.join(missing)}; it has {found}")
        _check_memory(sum(sizes[name] for name in REQUIRED))
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in REQUIRED}
            for name, kind in OPTIONAL.items():
                if name in sizes:
                    arrays[name] = np.atleast_1d(file[name]).astype(kind).tolist()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # numpy, zipfile and zlib each raise several kinds
        raise InputError(
            f"{path} is damaged, or no .npz file of plain arrays; write it with numpy.savez"
        ) from None
    return from_arrays(**arrays, digest=digest)


def from_torchvision(
    training: Pictures, validation: Pictures, digest: str | None = None
) -> ImageDataset:
    """Return the data set of two map-style ones, such as torchvision's for classification.

    8-bit images keep their channels; palette images become RGB, black and white ones grey. The
    classes are named as in their attribute `classes` if it has a name for each, else "0", "1", ...

    Raises InputError for items that are not a PIL image and an int, for images of several sizes or
    too many for the free memory; otherwise as `from_arrays`.
    """
    resize = "pass transform=torchvision.transforms.Resize(({}, {}))"
    return _from_pictures(training, validation, resize, digest)


def from_folder(folder: str | Path, digest: str | None = None) -> ImageDataset:
    """Return the data set in `folder/training/<class>/*` and `folder/validation/<class>/*`.

    Classes are numbered by name and images read by file name, both sorted, except hidden ones.

    Raises InputError for a folder that is missing or empty, for classes that differ, and for a
    file that is no image; otherwise as `from_torchvision`.
    """
    training, validation = (_Folder(Path(folder) / name) for name in ("training", "validation"))
    return _from_pictures(training, validation, "resize the files to {}×{} pixels", digest)


class _Folder:
    """The images in `folder/<class>/`, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.classes = [entry.name for entry in _listed(folder) if entry.is_dir()]
        if not self.classes:
            raise InputError(f"{folder} has no folders; it must have one per class")
        self.files: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            files = _listed(folder / name)
            if not files:
                raise InputError(f"{folder / name} is empty; put the class's images there")
            self.files += [(file, label) for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.files[index]
        try:
            with Image.open(path) as picture:
                picture.load()
                return picture, label
        except Exception as error:  # each of Pillow's formats raises its own kinds
            reason = getattr(error, "strerror", None) or "it is damaged, or no image"
            raise InputError(f"cannot read {path}: {reason}") from None


def _listed(folder: Path) -> list[Path]:
    """What is in `folder`, sorted by name: file systems have orders of their own."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"cannot read {folder}: {error.strerror}; the images must be in training/<class>/ and"
            " validation/<class>/"
        ) from None
    return [entry for entry in entries if not entry.name.startswith(".")]


def _from_pictures(
    training: Pictures, validation: Pictures, resize: str, digest: str | None
) -> ImageDataset:
    """Read pictures into one array; `resize` is the advice if their sizes differ."""
    one, other = (list(getattr(data, "classes", None) or ()) for data in (training, validation))
    if one and other and one != other:
        differing = sorted(set(map(str, one)) ^ set(map(str, other)))
        raise InputError(
            "the classes of training and validation must be the same; only one of them has"
            f" {', '.join(differing) or 'this order'}"
        )
    count, first = len(training) + len(validation), len(training)
    images, labels = np.empty((0, 1, 1, 1), np.uint8), np.empty(count, np.int64)
    for row in range(count):
        if row < first:
            name, pixels, labels[row] = _read(f"training image {row}", training[row])
        else:
            index = row - first
            name, pixels, labels[row] = _read(f"validation image {index}", validation[index])
        if not row:
            _check_memory(count * pixels.nbytes)
            images = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            only_channels = pixels.shape[:2] == images.shape[1:3]
            advice = "convert all to one mode, such as RGB" if only_channels else resize
            raise InputError(
                f"{name} is {size_of(pixels)} (height×width×channels) and the first image is"
                f" {size_of(images[0])}; {advice.format(*images.shape[1:])}"
            )
        images[row] = pixels
    classes = one or other
    return from_arrays(
        images[:first],
        labels[:first],
        images[first:],
        labels[first:],
        classes if len(classes) > labels.max(initial=-1) else None,
        digest=digest,
    )


def _read(name: str, item: Any) -> tuple[str, NDArray[np.uint8], int]:
    """Return the image's file name, or `name`; its pixels `[H, W, C]`; and its label."""
    label: Any
    picture, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(picture, Image.Image):
        raise InputError(
            f"{name} is a {type(picture).__name__}; it must be a PIL image and its label: leave out"
            " transforms such as ToTensor"
        )
    name = getattr(picture, "filename", "") or name
    if picture.mode not in MODES:
        raise InputError(
            f"{name} is of mode {picture.mode!r}; it must be of an 8-bit one: {', '.join(MODES)}"
        )
    try:
        number = operator.index(label)
    except TypeError:
        kind = type(label).__name__
        raise InputError(f"the label of {name} is a {kind}; it must be a class's int") from None
    if picture.mode != MODES[picture.mode]:
        picture = picture.convert(MODES[picture.mode])
    return name, np.atleast_3d(np.asarray(picture)), number


def _check_memory(needed: int) -> None:
    free = free_memory()
    if needed > free:
        raise InputError(
            f"the images take {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB of memory is free;"
            " this project holds all images in memory"
        )
