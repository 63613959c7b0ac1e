"""Find the pictures that a user names."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline.data.pictures.folder import is_hidden
from pipeline.errors import InputError

STDIN = "-"


class Picture(NamedTuple):
    """A picture that may turn out not to be one.

    name: as it is shown. folders: the names of the folders that it is in, the innermost last, as
    far as they were asked for: one of them may be the name of its class.
    """

    name: str
    source: Path | bytes
    folders: tuple[str, ...] = ()


def find_pictures(names: Sequence[str], folder: Path, recursive: bool) -> list[Picture]:
    """Find what `names` stand for: files, folders, patterns, and `-` for standard input.

    Paths begin at `folder`. A folder stands for its files that are not hidden, sorted, and if
    `recursive` for those of all folders below; each file is taken once. Standard input holds a
    picture, or the names of files, one per line.

    Raises InputError for a name that stands for nothing.
    """
    found: dict[str | bytes, Picture] = {}
    for name in names:
        try:
            pictures = _standard_input(folder) if name == STDIN else _find(name, folder, recursive)
            for picture in pictures:
                same = picture.source
                found.setdefault(
                    os.path.realpath(same) if isinstance(same, Path) else same, picture
                )
        except OSError as error:  # a name too long, a folder without read permission
            raise InputError(f"no image at {name!r}: {error.strerror}") from None
    return list(found.values())


def _find(name: str, folder: Path, recursive: bool) -> Iterator[Picture]:
    path = folder / name
    if name and path.is_dir():
        files = list(_visible(path, recursive))
        if not files:
            advice = "" if recursive or not any(path.iterdir()) else "; --recursive looks deeper"
            raise InputError(f"no image at {name!r}: the folder holds no files{advice}")
        for file in sorted(files):
            below = file.relative_to(path)
            yield Picture(str(Path(name) / below), file, (path.name, *below.parts[:-1]))
        return
    # Not Path.glob, which takes no absolute patterns.
    matches = [name] if path.exists() else sorted(glob(name, root_dir=folder, recursive=True))  # noqa: PTH207
    matches = [match for match in matches if not (folder / match).is_dir()]
    if not matches:
        raise InputError(f"no image at {name!r}: no file or folder is there, and none matches")
    yield from (_named(match, folder) for match in matches)


def _named(name: str, folder: Path) -> Picture:
    return Picture(name, folder / name, ((folder / name).absolute().parent.name,))


def _visible(folder: Path, recursive: bool) -> Iterator[Path]:
    for path in folder.glob("**/*" if recursive else "*"):
        hidden = any(map(is_hidden, path.relative_to(folder).parts))
        if not (hidden or path.is_dir()):
            yield path


def _standard_input(folder: Path) -> Iterator[Picture]:
    if sys.stdin is None:
        raise InputError("no image at '-': standard input is closed")
    content = sys.stdin.buffer.read()
    lines: list[str] = []
    try:
        Image.open(BytesIO(content)).close()
    except Exception:  # no picture: each of Pillow's formats raises its own kinds
        with suppress(UnicodeDecodeError):
            lines = [line for line in content.decode().splitlines() if line]
    yield from (_named(line, folder) for line in lines)
    if not lines:
        yield Picture("standard input", content)


def pixel_count(file: bytes, formats: tuple[str, ...]) -> int:
    """How many pixels a picture has, by its header; 0 if it can't be read."""
    with suppress(Exception), Image.open(BytesIO(file), "r", formats) as picture:
        return picture.width * picture.height
    return 0
