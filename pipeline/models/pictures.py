"""Find pictures, and read any kind of picture as the pixels that a model takes."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

STDIN = "-"
# Pillow only warns of a picture that is larger (89 million pixels); twice as many are an error.
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# Pillow's mode for a number of channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Large JPEGs are decoded at down to an eighth of their size, but to at least 8 pixels for each that
# the model takes: a quarter of the time for 9 million pixels, and at most 2 of 255 apart.
OVERSAMPLING = 8


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
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
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


def read_picture(
    source: Path | bytes, image_shape: Sequence[int], formats: tuple[str, ...] | None = None
) -> NDArray[np.uint8]:
    """Return a picture as a model's pixels, uint8 `[H, W, C]`, which is `image_shape`.

    It is rotated according to its EXIF data. Only an animation's first frame is used. Transparency
    becomes white, unless the model takes an alpha channel. 16 bits are cut to the upper 8. The
    largest centred part of the model's proportions, a square if its images are square, is scaled
    by Lanczos over all pixels (docs/predict-and-serve.md says why). `formats` limits the
    kinds, by Pillow's names.

    Raises InputError that says why it can't be read.
    """
    if isinstance(source, Path) and not source.is_file():  # reading a pipe may never end
        raise InputError("there is no such file")
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, "r", formats or _kinds()) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            height, width, channels = image_shape
            picture.draft(picture.mode, (OVERSAMPLING * width, OVERSAMPLING * height))
            return _as_pixels(picture, height, width, channels)
    except InputError:
        raise
    except Image.DecompressionBombError:
        limit = MOST_PIXELS // 1_000_000
        raise InputError(f"it has more than {limit} million pixels; make it smaller") from None
    except UnidentifiedImageError:
        kinds = (
            f"of these kinds: {', '.join(formats)}" if formats else "of a kind that Pillow reads"
        )
        raise InputError(f"it is not an image {kinds}") from None
    except Exception as error:  # each of Pillow's formats raises its own kinds
        reason = getattr(error, "strerror", None) or f"it is damaged: {error}"
        raise InputError(" ".join(reason.split())) from None


@cache
def _kinds() -> tuple[str, ...]:
    """All kinds that Pillow reads but EPS, which runs Ghostscript on the file."""
    Image.init()
    return tuple(Image.OPEN.keys() - {"EPS"})


def pixel_count(file: bytes, formats: tuple[str, ...]) -> int:
    """How many pixels a picture has, by its header; 0 if it can't be read."""
    with suppress(Exception), Image.open(BytesIO(file), "r", formats) as picture:
        return picture.width * picture.height
    return 0


def _as_pixels(picture: Image.Image, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    picture = ImageOps.exif_transpose(_in_8_bits(picture))
    if picture.has_transparency_data and channels in (1, 3):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert(MODES[channels])
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - scale * width) / 2, (picture.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box)
    return np.asarray(picture).reshape(height, width, channels)


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Scale 16 bits to 8; Pillow would cut everything above 255 to white."""
    if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(
            "its pixels are 32-bit numbers of unknown range; save it with 8 or 16 bits"
        )
    return picture
