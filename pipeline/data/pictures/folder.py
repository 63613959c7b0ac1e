"""Pictures in folders of classes."""

from pathlib import Path

from PIL import Image

from pipeline.data.pictures.pixels import read_file
from pipeline.errors import InputError


class Folder:
    """The pictures in `folder/<class>/`, read one at a time; classes and files sorted by name.

    Raises InputError for a folder that is missing or without classes and, if `every_class` must
    have a picture, for a class that has none.
    """

    def __init__(self, folder: Path, channels: int | None, every_class: bool) -> None:
        self.channels = channels
        listed = _listed(folder)
        for entry in listed:
            if entry.is_symlink() and not entry.exists():
                raise InputError(f"{entry} leads to nothing; restore what it links to")
        self.classes = [entry.name for entry in listed if entry.is_dir()]
        if not self.classes:
            raise InputError(f"{folder} has no folders; it must have one per class")
        self.files: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            files = _listed(folder / name)
            if every_class and not files:
                raise InputError(f"{folder / name} is empty; put the class's images there")
            self.files += [(file, label) for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[str, Image.Image, int]:
        """Return a picture's name, the picture as `converted` gives it, and its class."""
        path, label = self.files[index]
        return str(path), read_file(path, self.channels), label


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
