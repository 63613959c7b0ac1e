"""Data sets that a user brings: arrays, an `.npz` file, torchvision's data sets, or a folder.

Each function reads all images into memory, and checks the data set before it returns it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checks import check_dataset, size_of
from pipeline.data.dataset import ImageDataset, Split
from pipeline.data.pictures.classes import names_by_label, numbers_by_label
from pipeline.data.pictures.folder import Folder
from pipeline.data.pictures.pairs import Pairs, Pictures, check_classes
from pipeline.data.pictures.pixels import check_channels
from pipeline.errors import InputError, shortlist
from pipeline.machine import GIB, free_memory

Names = Sequence[str] | Mapping[int, str] | Mapping[str, int]
REQUIRED = ("training_images", "training_labels", "validation_images", "validation_labels")
OPTIONAL = {"class_names": str, "superclass_names": str, "superclass_of": int}


def from_arrays(
    training_images: NDArray[np.uint8],
    training_labels: NDArray[np.integer],
    validation_images: NDArray[np.uint8],
    validation_labels: NDArray[np.integer],
    class_names: Names | None = None,
    *,
    superclass_names: Names = (),
    superclass_of: Sequence[int] = (),
    source: str | None = None,
    digest: str | None = None,
) -> ImageDataset:
    """Return the data set of these arrays, which are copied only if torch can't use them.

    Images are uint8 `[N, H, W]`, grey, or `[N, H, W, C]` with 1 to 4 channels; labels are integers
    `[N]` from 0. `class_names` are in the order of the labels, or a mapping from or to these; "0",
    "1", ... by default. `digest` is the expected `ImageDataset.digest`.

    Raises InputError for arrays that are no such data set, and for another digest.
    """
    training = Split.from_numpy("training", training_images, training_labels)
    validation = Split.from_numpy("validation", validation_images, validation_labels)
    if class_names is None:
        class_names = [str(label) for label in range(len(np.unique(training.labels.numpy())))]
    data = ImageDataset(
        training=training,
        validation=validation,
        class_names=names_by_label("class_names", class_names),
        superclass_names=names_by_label("superclass_names", superclass_names),
        superclass_of=numbers_by_label("superclass_of", superclass_of),
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
            found = shortlist(sizes) or "no array"
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
    training: Pictures,
    validation: Pictures,
    digest: str | None = None,
    *,
    class_names: Names | None = None,
    channels: int | None = None,
) -> ImageDataset:
    """Return the data set of two map-style ones, such as torchvision's for classification.

    Pictures become pixels as in `predict` (`pictures.pixels`), by default with their own number of
    channels, those that torchvision's own loader reads, as in ImageFolder, with 3. Transforms may
    change size and channels: a prediction knows nothing of them.

    By default, the classes are named as in the attribute `classes` if it has a name for each, also
    behind Subset, random_split and ConcatDataset, else "0", "1", ... Validation may have some of
    the classes of training only: labels are then matched by name. Behind a class of the user's own,
    names are only compared.

    Raises InputError for items that are not a PIL image and an int, for images of several sizes or
    too many for the free memory, for classes that differ, for a target_transform that changes
    labels if no `class_names` are given, and for a transform that makes colours grey without
    reducing the channels; otherwise as `from_arrays`.
    """
    check_channels(channels)
    named = class_names is not None
    if class_names is not None:
        class_names = names_by_label("class_names", class_names)
    one = Pairs("training", training, channels, named)
    other = Pairs("validation", validation, channels, named)
    check_classes(one, other, named)
    data = _from_pictures(
        one,
        other,
        "pass transform=torchvision.transforms.Resize(({}, {}))",
        class_names,
        digest,
    )
    one.check_colours()
    other.check_colours()
    return data


def from_folder(
    folder: str | Path, digest: str | None = None, *, channels: int | None = None
) -> ImageDataset:
    """Return the data set in `folder/training/<class>/*` and `folder/validation/<class>/*`.

    Classes are numbered by name and images read by file name, both sorted, except hidden ones.
    Classes of training may be missing in validation. Pictures become pixels as in `predict`
    (`pictures.pixels`), with so many `channels`; by default with their own, if these are the same.

    Raises InputError for a folder that is missing or empty, for classes of validation alone, for a
    file that is no image, and for pictures of several sizes or numbers of channels.
    """
    check_channels(channels)
    return _from_pictures(
        Folder(Path(folder) / "training", channels, every_class=True),
        Folder(Path(folder) / "validation", channels, every_class=False),
        "resize the files to {}×{} pixels",
        None,
        digest,
    )


def _from_pictures(
    training: Folder | Pairs,
    validation: Folder | Pairs,
    resize: str,
    class_names: Names | None,
    digest: str | None,
) -> ImageDataset:
    """Read pictures into one array; `resize` is the advice if their sizes differ."""
    places = _places(training.classes, validation.classes)
    count, first = len(training) + len(validation), len(training)
    images, labels = np.empty((0, 1, 1, 1), np.uint8), np.empty(count, np.int64)
    for row in range(count):
        source, index = (training, row) if row < first else (validation, row - first)
        name, picture, labels[row] = source.read(index)
        pixels = np.atleast_3d(np.asarray(picture))
        if not row:
            _check_memory(count * pixels.nbytes)
            images = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            only_channels = pixels.shape[:2] == images.shape[1:3]
            advice = "pass channels=3 to read all as RGB" if only_channels else resize
            raise InputError(
                f"{name} is {size_of(pixels)} (height×width×channels) and the first image is"
                f" {size_of(images[0])}; {advice.format(*images.shape[1:])}"
            )
        images[row] = pixels
    if places:
        labels[first:] = [_in_training(label, places) for label in labels[first:].tolist()]
    names = training.classes or validation.classes
    if class_names is None and len(names) > labels.max(initial=-1):
        used = set(labels[:first].tolist())
        unused = [name for label, name in enumerate(names) if label not in used]
        if unused and first:
            raise InputError(
                f"no training image is of class {unused[0]!r}; every class must have at least one:"
                " number the others from 0 by a target_transform, and pass class_names"
            )
        class_names = names
    return from_arrays(
        images[:first],
        labels[:first],
        images[first:],
        labels[first:],
        class_names,
        digest=digest,
    )


def _places(training: list[str], validation: list[str]) -> list[int]:
    """Where in the classes of training those of validation are; nothing if they are the same."""
    if not (training and validation) or training == validation:
        return []
    lacking = [name for name in validation if name not in training]
    if lacking:
        raise InputError(
            "training must have all classes of validation; it has no"
            f" {shortlist(lacking)}, only {shortlist(training)}"
        )
    places = [training.index(name) for name in validation]
    if places != sorted(places):
        raise InputError(
            f"the classes of training are {shortlist(training)}, and those of validation"
            f" {shortlist(validation)}; they must be in the same order"
        )
    return places


def _in_training(label: int, places: list[int]) -> int:
    if not 0 <= label < len(places):
        raise InputError(
            f"a validation label is {label}; with {len(places)} classes, labels must be from 0 to"
            f" {len(places) - 1}"
        )
    return places[label]


def _check_memory(needed: int) -> None:
    free = free_memory()
    if needed > free:
        raise InputError(
            f"the images take {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB of memory is free;"
            " this project holds all images in memory"
        )
