"""Find pictures, and read any kind of picture as the pixels that a model takes."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
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
    found: dict[Path | bytes, Picture] = {}
    for name in names:
        try:
            pictures = _standard_input(folder) if name == STDIN else _find(name, folder, recursive)
            for picture in pictures:
                found.setdefault(picture.source, picture)
        except OSError as error:  # a name too long, a folder that is closed
            raise InputError(f"no image at {name!r}: {error.strerror}") from None
    return list(found.values())


def _find(name: str, folder: Path, recursive: bool) -> Iterator[Picture]:
    path = folder / name
    if name and path.is_dir():
        files = [file for file in _files(path, recursive) if not _is_hidden(file, path)]
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


def _files(folder: Path, recursive: bool) -> Iterable[Path]:
    return (path for path in folder.glob("**/*" if recursive else "*") if path.is_file())


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _standard_input(folder: Path) -> Iterator[Picture]:
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode().splitlines()
        listed = [line for line in lines if line and (folder / line).is_file()]
    except (ValueError, OSError):  # not text; text that is no path
        listed = []
    if listed:
        yield from (_named(line, folder) for line in lines if line)
    else:
        yield Picture("standard input", content)


def read_picture(
    source: Path | bytes, image_shape: Sequence[int], formats: tuple[str, ...] | None = None
) -> NDArray[np.uint8]:
    """Return a picture as a model's pixels, uint8 `[H, W, C]`, which is `image_shape`.

    It is turned as its EXIF data say. Of an animation the first frame is taken. Transparent parts
    become white, unless the model takes an alpha channel. 16 bits are cut to the upper 8. The
    largest centred part of the model's proportions, a square if its images are square, is scaled
    by Lanczos over all pixels (docs/predict-and-serve.md says why). `formats` limits the
    kinds, by Pillow's names.

    Raises InputError that says why it can't be read.
    """
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, "r", formats) as picture:
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


def _as_pixels(picture: Image.Image, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    picture = _in_8_bits(ImageOps.exif_transpose(picture))
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
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(
            "its pixels are 32-bit numbers of unknown range; save it with 8 or 16 bits"
        )
    return picture
