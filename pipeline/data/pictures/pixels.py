"""The one way from a picture to pixels: what training sees, predictions see."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from numbers import Integral, Number
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

# Pillow's mode for a number of channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Pillow's modes whose pixels are not colours without alpha.
GREY = ("1", "L", "LA", "La")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Pillow only warns of a picture that is larger (89 million pixels); twice as many are an error.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
# Large JPEGs are decoded at down to an eighth of their size, but to at least 8 pixels for each that
# the model takes: a quarter of the time for 9 million pixels, and at most 2 of 255 apart.
OVERSAMPLING = 8
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def check_channels(channels: Any) -> None:
    """Raise InputError unless `channels` is a number of `MODES`, or None."""
    number = isinstance(channels, Number) and not isinstance(channels, bool)
    if channels is not None and not (number and channels in MODES):
        raise InputError(f"channels is {channels!r}; it must be a number from 1 to {len(MODES)}")


def read_picture(
    source: str | Path | bytes | BinaryIO,
    image_shape: Sequence[int],
    formats: tuple[str, ...] | None = None,
) -> NDArray[np.uint8]:
    """Return a picture of any size and kind as a model's pixels, uint8 `[H, W, C]`.

    It is what `predict`, `serve` and `from_folder` see. source: a path, the content of a file, or
    an open one. image_shape: H, W and C, such as (32, 32, 3); C is 1 for grey, 2 for grey with
    alpha, 3 for RGB, 4 for RGBA. formats: the only kinds to read, by Pillow's names.

    The picture is turned as its EXIF data say, and made of so many channels as `converted` says.
    The largest centred part of the image's proportions, a square if H is W, is then scaled by
    Lanczos over all pixels (docs/predict-and-serve.md says why). A picture of the size H x W stays
    as it is.

    Raises InputError that says why it can't be read, and for a shape that no image has.
    """
    shape = tuple(image_shape)
    whole = all(isinstance(one, Integral) and one >= 1 for one in shape)
    if len(shape) != 3 or not whole or shape[2] not in MODES:
        raise InputError(
            f"image_shape is {shape}; it must be a height, a width and 1 to {len(MODES)} channels,"
            " such as (32, 32, 3)"
        )
    height, width, channels = shape
    with opened(source, formats) as picture:
        side = OVERSAMPLING * max(height, width)  # it may still have to be turned
        picture.draft(picture.mode, (side, side))
        fitted = ImageOps.fit(
            converted(picture, channels), (width, height), Image.Resampling.LANCZOS
        )
    return np.array(fitted).reshape(shape)


def own_channels(picture: Image.Image) -> int:
    """Return how many channels a picture has.

    That is 1 for shades of grey, 2 for grey with an alpha channel, 4 for colours with one, and 3
    for all other colours.
    """
    grey = _is_wide(picture) or picture.mode in GREY
    return (1 if grey else 3) + (picture.mode in WITH_ALPHA)


def converted(picture: Image.Image, channels: int | None = None) -> Image.Image:
    """Return a picture in the mode of `MODES` for so many channels; by default for its own.

    It is turned as its EXIF data say. 16 bits are cut to the upper 8. Transparency becomes white,
    unless there is a channel for it.

    Raises InputError for pixels of 32 bits.
    """
    wide = _is_wide(picture)
    if picture.mode in ("I", "F") and not wide:
        raise InputError(
            "its pixels are 32-bit numbers of unknown range; save it with 8 or 16 bits"
        )
    grey = wide or picture.mode in GREY
    channels = channels or own_channels(picture)
    _scale_transparent_colour(picture)
    picture = ImageOps.exif_transpose(picture)
    if wide:
        picture = _upper_8_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")  # all that Pillow converts it to
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if channels in (1, 3):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    elif not grey:
        picture = picture.convert("RGB")  # Pillow makes LAB transparent, CMYK another grey
    return picture.convert(MODES[channels])


def read_file(path: Path, channels: int | None = None) -> Image.Image:
    """Return the picture in a file, as `converted` does.

    Raises InputError that names the file and says why it can't be read.
    """
    try:
        with opened(path) as picture:
            return converted(picture, channels)
    except InputError as error:
        raise InputError(f"cannot read {path}: {error}") from None


@contextmanager
def opened(
    source: str | Path | bytes | BinaryIO, formats: tuple[str, ...] | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Open a picture's file, in which Pillow may find anything; `formats` limits the kinds.

    Only an animation's first frame is used.

    Raises InputError that says why it can't be read, also for what Pillow raises in the block.
    """
    source = Path(source) if isinstance(source, str) else source
    try:
        if isinstance(source, Path) and not source.is_file():  # reading a pipe may never end
            raise InputError("it is not a file" if source.exists() else "there is no such file")
        if not (isinstance(source, Path | bytes) or hasattr(source, "read")):
            kind = type(source).__name__
            raise InputError(f"it is a {kind}; it must be a path, bytes or an open file")
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, "r", formats or _kinds()) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield picture
    except InputError:
        raise
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 1_000_000
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
    """All kinds that Pillow reads, in its order, but EPS, which runs Ghostscript on the file."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind in Image.OPEN and kind != "EPS")


def _is_wide(picture: Image.Image) -> bool:
    """Whether a picture has 16 bits, which a PNG or PPM may have in a mode of 32."""
    return picture.mode.startswith("I;16") or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )


def _upper_8_bits(picture: Image.Image) -> Image.Image:
    """Reduce 16 bits to 8; Pillow would cut everything above 255 to white."""
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        opaque = values != picture.info["transparency"]
        grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return grey


def _scale_transparent_colour(picture: Image.Image) -> None:
    """Pillow compares a PNG's transparent colour, in the file's bits, with pixels of 8 bits."""
    colour, unread = picture.info.get("transparency"), getattr(picture, "tile", None)
    if picture.format != "PNG" or colour is None or not unread:
        return
    file_mode = unread[0][3]
    if file_mode in ("L;2", "L;4"):
        picture.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[file_mode]
    elif file_mode == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in colour)
