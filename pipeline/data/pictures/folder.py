"""Pictures in folders of classes."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import height_and_width
from pipeline.data.checks import check_memory
from pipeline.data.pictures.pixels import converted, opened, own_channels, read_picture
from pipeline.data.strata import check_not_chosen, for_validation
from pipeline.errors import InputError
from pipeline.machine import usable_processors

SIZE = 32  # CIFAR's, and the tutorial's network's
LAYOUT = "the images must be in <class>/, or in training/<class>/ and validation/<class>/"
HIDDEN = ("Thumbs.db", "desktop.ini", "__MACOSX")  # Windows's own, and a folder in macOS's zips
# What others call the folders `training` and `validation`, the likelier first.
USUAL_NAMES = {"training": ("train",), "validation": ("val", "valid", "dev", "test")}
BATCH_SIZE = 64  # pictures that wait in memory

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Folder:
    """The pictures of a split, which are read one after the other.

    labels: of the files, int64 `[N]`, the places of their classes in `classes`. shape: what each
    picture is made to be, `[H, W, C]`, by `read_picture`; None if it stays as it is, with so many
    `channels`, or with its own.
    """

    classes: list[str]
    files: list[Path]
    labels: NDArray[np.int64]
    channels: int | None = None
    shape: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Image.Image | NDArray[np.uint8] | InputError, int]]:
        """Yield each picture's name, the picture or why it can't be read, and its label."""
        with ThreadPoolExecutor(usable_processors()) as readers:
            for start in range(0, len(self), BATCH_SIZE):
                files = self.files[start : start + BATCH_SIZE]
                labels = self.labels[start : start + BATCH_SIZE].tolist()
                yield from zip(map(str, files), readers.map(self._read, files), labels, strict=True)

    def _read(self, file: Path) -> Image.Image | NDArray[np.uint8] | InputError:
        try:
            if self.shape:
                return read_picture(file, self.shape)
            with opened(file) as picture:
                return converted(picture, self.channels)
        except InputError as error:
            return error

    def only(self, chosen: NDArray[np.bool_]) -> "Folder":
        """Return the pictures where the mask `chosen`, bool `[N]`, is true."""
        files = [file for file, kept in zip(self.files, chosen, strict=True) if kept]
        return replace(self, files=files, labels=self.labels[chosen])


def splits(
    root: Path, size: Size | None, validation: float, seed: int, channels: int | None
) -> tuple[Folder, Folder]:
    """Return the training and validation pictures in a folder, as `from_folder` says.

    Raises InputError for a folder that is no such, and for what can't be asked for.
    """
    if (root / "training").exists() or (root / "validation").exists():
        check_not_chosen(validation, seed, f"{root} has training/ and validation/")
        training = _listed_folder(root / "training", every_class=True)
        held_out = _listed_folder(root / "validation", every_class=False)
    else:
        whole = _listed_folder(root, every_class=True)
        if len(whole.classes) < 2:
            raise InputError(
                f"{root} has one folder, {whole.classes[0]!r}; it must have one per class, at least"
                " two"
            )
        chosen = for_validation(whole.labels, validation, seed)
        training, held_out = whole.only(~chosen), whole.only(chosen)
        size = SIZE if size is None else size
    if size is None:
        return replace(training, channels=channels), replace(held_out, channels=channels)
    height, width = height_and_width("size", size)
    shape = height, width, channels or _channels([*training.files, *held_out.files])
    check_memory((len(training) + len(held_out)) * math.prod(shape))
    return replace(training, shape=shape), replace(held_out, shape=shape)


def is_hidden(name: str) -> bool:
    """Whether a file of this name is one that systems do not show."""
    return name.startswith(".") or name in HIDDEN


def _listed_folder(folder: Path, every_class: bool) -> Folder:
    """List the pictures in `folder/<class>/`; classes and files sorted by name.

    Raises InputError for a folder that is missing or without classes, for a picture or a folder
    where it is in no class and, if `every_class` must have a picture, for a class that has none.
    """
    listed = _listed(folder)
    for entry in listed:
        if entry.is_symlink() and not entry.exists():
            raise InputError(f"{entry} leads to nothing; restore what it links to")
    classes = [entry.name for entry in listed if entry.is_dir()]
    if not classes:
        raise InputError(f"{folder} has no folders; it must have one per class")
    for entry in listed:
        if entry.is_file() and _channels_of(entry):
            raise InputError(f"{entry} is a picture of no class; move it to the folder of one")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = _listed(folder / name)
        if every_class and not own:
            raise InputError(f"{folder / name} is empty; put the class's images there")
        for entry in own:
            if entry.is_dir():
                raise InputError(
                    f"{entry} is a folder in that of a class; {LAYOUT}{_renamed(classes)}"
                )
        files += own
        labels += [label] * len(own)
    return Folder(classes, files, np.array(labels, np.int64))


def _renamed(names: list[str]) -> str:
    """Say how folders are to be called that are splits by other names; empty if none is."""
    renamed = []
    for split, others in USUAL_NAMES.items():
        found = [name for other in others for name in names if name.lower() == other]
        renamed += [f"{name} to {split}" for name in found[:1]]
    return f"; rename {', and '.join(renamed)}" if renamed else ""


def _listed(folder: Path) -> list[Path]:
    """What is in `folder`, sorted by name: file systems have orders of their own."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; {LAYOUT}") from None
    return [entry for entry in entries if not is_hidden(entry.name)]


def _channels(files: list[Path]) -> int:
    """The pictures' own number of channels if all have the same, else that of RGB or grey."""
    with ThreadPoolExecutor(usable_processors()) as readers:
        found = set(readers.map(_channels_of, files)) - {0}
    return found.pop() if len(found) == 1 else 1 if found == {1, 2} else 3


def _channels_of(file: Path) -> int:
    """How many channels a picture has, by its header; 0 if it can't be read."""
    try:
        with opened(file) as picture:
            return own_channels(picture)
    except InputError:
        return 0
