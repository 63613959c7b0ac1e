"""Data sets that a user brings: arrays, an `.npz` file, torchvision's data sets, or a folder.

Each function reads all images into memory, and checks the data set before it returns it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checks import check_dataset, check_memory, check_split
from pipeline.data.dataset import ImageDataset, Split
from pipeline.data.pictures import folder as folders
from pipeline.data.pictures import reading
from pipeline.data.pictures.classes import Names, names_by_label, numbers_by_label
from pipeline.data.pictures.folder import Size
from pipeline.data.pictures.pairs import Pairs, Pictures, check_classes
from pipeline.data.pictures.pixels import check_channels
from pipeline.data.strata import VALIDATION, check_not_chosen, for_validation
from pipeline.errors import InputError, shortlist

# The arrays in an .npz file. Those of training may also be called `images` and `labels`.
TRAINING = ("training_images", "training_labels")
HELD_OUT = ("validation_images", "validation_labels")
UNDIVIDED = ("images", "labels")
OPTIONAL = {"class_names": str, "superclass_names": str, "superclass_of": int}


def from_arrays(
    training_images: NDArray[np.uint8],
    training_labels: NDArray[np.integer],
    validation_images: NDArray[np.uint8] | None = None,
    validation_labels: NDArray[np.integer] | None = None,
    class_names: Names | None = None,
    *,
    validation: float = VALIDATION,
    seed: int = 0,
    superclass_names: Names = (),
    superclass_of: Sequence[int] = (),
    source: str | None = None,
    digest: str | None = None,
) -> ImageDataset:
    """Return the data set of these arrays, which are copied only if torch can't use them.

    Images are uint8 `[N, H, W]`, grey, or `[N, H, W, C]` with 1 to 4 channels; labels are integers
    `[N]` from 0. Without validation images, the share `validation` of each class is taken from the
    others, which copies both: at least one image, unless the class has only one. `seed` chooses
    them, the same everywhere. `class_names` are in the order of the labels, or a mapping from or to
    these; "0", "1", ... by default. `digest` is the expected `ImageDataset.digest`.

    Raises InputError for arrays that are no such data set, and for another digest.
    """
    training = Split.from_numpy("training", training_images, training_labels)
    if class_names is None:
        class_names = [str(label) for label in range(len(np.unique(training.labels.numpy())))]
    if validation_images is not None and validation_labels is not None:
        check_not_chosen(validation, seed, "there are validation images")
        held_out = Split.from_numpy("validation", validation_images, validation_labels)
    elif validation_images is None and validation_labels is None:
        check_split("training", training)
        chosen = for_validation(training.labels.numpy(), validation, seed)
        training, held_out = training.only(~chosen), training.only(chosen)
    else:
        lacking = "labels" if validation_labels is None else "images"
        raise InputError(
            f"there are no validation {lacking}; give both images and labels, or neither: a part of"
            " the training images is then taken"
        )
    data = ImageDataset(
        training=training,
        validation=held_out,
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


def from_npz(
    path: str | Path, digest: str | None = None, *, validation: float = VALIDATION, seed: int = 0
) -> ImageDataset:
    """Return the data set in a file that `numpy.savez` wrote.

    It holds the first four arguments of `from_arrays` by name, or only the first two, which may
    also be called `images` and `labels`; `validation` and `seed` are then as in `from_arrays`. It
    may hold `class_names`, `superclass_names` and `superclass_of`, and nothing else. Nothing in it
    is unpickled.

    Raises InputError for a file that is missing, damaged, incomplete or larger than the free
    memory, and for other arrays in it; otherwise as `from_arrays`.
    """
    try:
        with ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        sizes = {name.removesuffix(".npy"): size for name, size in sizes.items()}
        undivided = sizes.keys() & set(UNDIVIDED) and not sizes.keys() & set(TRAINING)
        held_out = HELD_OUT if sizes.keys() & set(HELD_OUT) else ()
        names = (*(UNDIVIDED if undivided else TRAINING), *held_out)
        missing = [name for name in names if name not in sizes]
        if missing:
            found = shortlist(sizes) or "no array"
            raise InputError(f"{path} lacks {', '.join(missing)}; it has {found}")
        allowed = [name for name in (*HELD_OUT, *OPTIONAL) if name not in names]
        # They may be validation images by another name.
        if unknown := [name for name in sizes if name not in (*names, *allowed)]:
            raise InputError(
                f"{path} also has {shortlist(unknown)}; beside {', '.join(names)} it may have only"
                f" {', '.join(allowed)}: rename them, or leave them out"
            )
        check_memory(sum(sizes[name] for name in names) * (1 if held_out else 2))
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in names]
            optional: dict[str, Any] = {
                name: np.atleast_1d(file[name]).astype(kind).tolist()
                for name, kind in OPTIONAL.items()
                if name in sizes
            }
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # numpy, zipfile and zlib each raise several kinds
        raise InputError(
            f"{path} is damaged, or no .npz file of plain arrays; write it with numpy.savez"
        ) from None
    return from_arrays(*arrays, **optional, validation=validation, seed=seed, digest=digest)


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
    resize = "pass transform=torchvision.transforms.Resize(({height}, {width}))"
    data = from_arrays(*reading.read(one, other, resize, class_names), digest=digest)
    one.check_colours()
    other.check_colours()
    return data


def from_folder(
    folder: str | Path,
    size: Size | None = None,
    validation: float = VALIDATION,
    seed: int = 0,
    *,
    digest: str | None = None,
    channels: int | None = None,
) -> ImageDataset:
    """Return the data set in `folder/<class>/*`: pictures of any sizes and kinds.

    Each is cropped and scaled to `size` in pixels, as in `predict` (`pipeline.read_picture`): 32 by
    default, for a square, or (height, width). They have so many `channels`; by default their own,
    if these are the same, else 3 if any has colours, or 1. The share `validation` of each class is
    kept for validation: at least one picture, unless the class has only one. `seed` chooses them,
    the same everywhere.

    If the folders `training` and `validation` are there, these hold the folders of classes, and the
    pictures to validate on are those of the latter, which may lack classes. By default, pictures
    then keep their size and channels, which must be the same.

    Classes are numbered by name and images read by file name, both sorted, except hidden ones.

    Raises InputError for a folder that is missing or empty, for classes of validation alone, for
    pictures in no class, for what is no picture, and for pictures too many for the free memory.
    """
    check_channels(channels)
    training, held_out = folders.splits(Path(folder), size, validation, seed, channels)
    resize = "pass size=32 to crop and scale all to 32x32 pixels, or another size"
    return from_arrays(*reading.read(training, held_out, resize, None), digest=digest)
