"""Any picture is read as the pixels that a model takes, or refused with a reason."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

import pipeline
from pipeline.data.pictures.pixels import MAX_PIXELS, MODES, read_picture
from pipeline.errors import InputError

SHAPE = (32, 32, 3)
LANCZOS = Image.Resampling.LANCZOS
RED, GREEN, BLUE, GREY = (230, 20, 20), (20, 200, 20), (20, 20, 230), (90, 90, 90)
WHITE = (255, 255, 255)


def four(*colours: tuple[int, ...], side: int = 64) -> NDArray[np.uint8]:
    """A square picture of four colours: top left, top right, bottom left, bottom right."""
    one, two, three, other = (np.full((side // 2, side // 2, len(c)), c) for c in colours)
    return np.vstack([np.hstack([one, two]), np.hstack([three, other])]).astype(np.uint8)


def colours(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    quarter = len(pixels) // 4
    places = [(y, x) for y in (quarter, 3 * quarter) for x in (quarter, 3 * quarter)]
    return [tuple(map(int, pixels[place])) for place in places]


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


PICTURE = Image.fromarray(four(RED, GREEN, BLUE, GREY))
KINDS: dict[str, bytes] = {
    "png": saved(PICTURE, "PNG"),
    "jpeg": saved(PICTURE, "JPEG", quality=95, subsampling=0),
    "progressive jpeg": saved(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True),
    "webp": saved(PICTURE, "WEBP", lossless=True),
    "gif": saved(PICTURE, "GIF"),
    "bmp": saved(PICTURE, "BMP"),
    "tiff": saved(PICTURE, "TIFF"),
    "ppm": saved(PICTURE, "PPM"),
    "palette": saved(PICTURE.quantize(4), "PNG"),
    "cmyk jpeg": saved(PICTURE.convert("CMYK"), "JPEG", quality=95, subsampling=0),
    "cmyk tiff": saved(PICTURE.convert("CMYK"), "TIFF"),
    "animated gif": saved(
        PICTURE, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), "black")]
    ),
    "opaque png": saved(PICTURE.convert("RGBA"), "PNG"),
}


@pytest.mark.parametrize("shape", [(28, 28, 3), (7, 5, 1), (5, 7, 4), (224, 224, 3)], ids=str)
def test_a_picture_of_any_size_is_fitted_as_pillow_does(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(0)
    height, width, channels = shape
    for size in generator.integers(1, 200, (60, 2)):  # some round to a box outside the picture
        picture = Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8))
        plain = ImageOps.fit(picture.convert(MODES[channels]), (width, height), LANCZOS)
        pixels = read_picture(saved(picture, "PNG"), shape)
        assert pixels.shape == shape
        assert np.array_equal(pixels, np.asarray(plain).reshape(shape))


def test_a_picture_is_read_from_a_path_from_bytes_or_from_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(KINDS["png"])
    expected = read_picture(KINDS["png"], SHAPE)
    assert expected.dtype == np.uint8
    assert expected.shape == SHAPE
    assert expected.flags.writeable  # else torch warns
    for source in (path, str(path), io.BytesIO(KINDS["png"])):
        assert np.array_equal(pipeline.read_picture(source, SHAPE), expected)
    with path.open("rb") as file:
        assert np.array_equal(pipeline.read_picture(file, list(SHAPE)), expected)


WRONG: dict[str, tuple[object, object, str]] = {
    "a size": (b"", (32, 32), "image_shape is (32, 32); it must be a height, a width and 1 to 4"),
    "channels first": (b"", (3, 32, 32), "image_shape is (3, 32, 32); it must be a height, a"),
    "no pixels": (b"", (0, 32, 3), "image_shape is (0, 32, 3); it must be a height"),
    "a fraction": (b"", (32.0, 32, 3), "image_shape is (32.0, 32, 3); it must be"),
    "a picture": (PICTURE, SHAPE, "it is a Image; it must be a path, bytes or an open file"),
    "nothing": (None, SHAPE, "it is a NoneType; it must be a path, bytes or an open file"),
    "an empty name": ("", SHAPE, "it is not a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_or_no_shape_is_refused(case: str) -> None:
    source, shape, line = WRONG[case]
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        pipeline.read_picture(source, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_gives_its_colours(kind: str) -> None:
    pixels = read_picture(KINDS[kind], SHAPE)
    assert pixels.shape == SHAPE
    assert pixels.dtype == np.uint8
    assert np.abs(np.subtract(colours(pixels), [RED, GREEN, BLUE, GREY])).max() <= 5


def png(bits: int, colour_type: int, rows: NDArray[np.integer]) -> bytes:
    """A PNG of kinds that Pillow can't write."""
    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


LEVELS = [(0,), (60,), (130,), (255,)]
BLACK_AND_WHITE = [(0,), (0,), (255,), (255,)]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (saved(Image.fromarray(four(*LEVELS)[..., 0]), "PNG"), LEVELS),
        (
            saved(
                Image.fromarray(four(*LEVELS)[..., 0]).convert("1", dither=Image.Dither.NONE), "PNG"
            ),
            BLACK_AND_WHITE,
        ),
        (saved(Image.fromarray(four(*LEVELS)[..., 0].astype(np.uint16) * 257), "PNG"), LEVELS),
        (saved(Image.fromarray(four(*LEVELS)[..., 0].astype(np.uint16) * 257), "TIFF"), LEVELS),
        (png(16, 0, four(*LEVELS).astype(int) * 257), LEVELS),
        (b"P5 64 64 65535 " + (four(*LEVELS).astype(">u2") * 257).tobytes(), LEVELS),
    ],
    ids=[
        "8 bits",
        "1 bit",
        "16 bits",
        "16-bit tiff",
        "16 bits, as written by others",
        "16-bit pgm",
    ],
)
def test_a_grey_picture_keeps_its_levels(file: bytes, expected: list[tuple[int]]) -> None:
    assert colours(read_picture(file, (32, 32, 1))) == expected
    assert colours(read_picture(file, SHAPE)) == [level * 3 for level in expected]


def test_16_bits_of_each_colour_keep_their_upper_8() -> None:
    file = png(16, 2, four(RED, GREEN, BLUE, GREY).astype(int) * 257)
    assert colours(read_picture(file, SHAPE)) == [RED, GREEN, BLUE, GREY]


CLEAR = four((*RED, 255), (*GREEN, 0), (*BLUE, 128), (*GREY, 255))
HALF_BLUE = tuple(round((c * 128 + 255 * 127) / 255) for c in BLUE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_parts_are_white(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = colours(read_picture(saved(Image.fromarray(CLEAR), kind, **options), SHAPE))
    assert np.abs(np.subtract(found, [RED, WHITE, HALF_BLUE, GREY])).max() <= 2


def test_a_palettes_transparent_colour_and_a_grey_alpha_are_white() -> None:
    palette = PICTURE.quantize(4)
    index = palette.getpixel((0, 0))
    assert isinstance(index, int)
    found = colours(read_picture(saved(palette, "PNG", transparency=index), SHAPE))
    assert found[0] == WHITE
    assert WHITE not in found[1:]
    grey = four((90, 255), (90, 0), (20, 255), (20, 0))
    found = colours(read_picture(saved(Image.fromarray(grey, "LA"), "PNG"), SHAPE))
    assert found == [(90,) * 3, WHITE, (20,) * 3, WHITE]


def test_a_model_with_an_alpha_channel_gets_it() -> None:
    file = saved(Image.fromarray(CLEAR), "PNG")
    found = colours(read_picture(file, (32, 32, 4)))
    assert [alpha for *_, alpha in found] == [255, 0, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_data_say(orientation: int) -> None:
    turn: dict[int, Callable[[Image.Image], Image.Image]] = {
        # What a camera must have done for each value; the undoing is Pillow's own.
        1: lambda picture: picture,
        2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda picture: picture.rotate(180),
        4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
        6: lambda picture: picture.rotate(90),
        7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
        8: lambda picture: picture.rotate(270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(turn[orientation](PICTURE), "PNG", exif=exif)
    assert colours(read_picture(file, SHAPE)) == [RED, GREEN, BLUE, GREY]


@pytest.mark.parametrize("upright", [False, True])
def test_of_a_picture_that_is_not_square_the_centre_counts(upright: bool) -> None:
    wide = Image.new("RGB", (164, 64), "black")
    wide.paste(PICTURE, (50, 0))
    picture = wide.transpose(Image.Transpose.TRANSPOSE) if upright else wide
    found = colours(read_picture(saved(picture, "PNG"), SHAPE))
    assert found == ([RED, BLUE, GREEN, GREY] if upright else [RED, GREEN, BLUE, GREY])


def test_a_model_of_images_that_are_not_square_gets_their_proportions() -> None:
    wide = Image.new("RGB", (128, 300), "black")
    wide.paste(PICTURE.resize((128, 64)), (0, 118))
    pixels = read_picture(saved(wide, "PNG"), (16, 32, 3))
    assert pixels.shape == (16, 32, 3)
    assert tuple(pixels[4, 8]) == RED
    assert tuple(pixels[12, 24]) == GREY


def test_a_large_jpeg_that_is_decoded_smaller_looks_the_same() -> None:
    waves = np.add.outer(np.arange(1500) ** 1.3, np.arange(1500) ** 1.2)
    picture = Image.fromarray(
        (np.sin(waves / 300)[..., None] * [100, 80, 60] + 128).astype(np.uint8)
    )
    jpeg = saved(picture, "JPEG", quality=90)
    whole = saved(Image.open(io.BytesIO(jpeg)), "PNG")
    difference = np.subtract(read_picture(jpeg, SHAPE), read_picture(whole, SHAPE), dtype=int)
    assert 0 < np.abs(difference).max() <= 2


@pytest.mark.parametrize("side", [1, 5, 32, 33, 500])
def test_a_picture_of_any_size_is_scaled(side: int) -> None:
    pixels = read_picture(saved(Image.new("RGB", (side, side), RED), "PNG"), SHAPE)
    assert (pixels == RED).all()


def test_a_picture_of_the_models_size_is_not_changed_at_all() -> None:
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    assert (read_picture(saved(Image.fromarray(noise), "PNG"), SHAPE) == noise).all()


def test_scaling_takes_all_pixels_into_account() -> None:
    lines = np.zeros((320, 320, 3), np.uint8)
    lines[:, ::2] = 255  # every other column: which ones a coarse filter hits is chance
    pixels = read_picture(saved(Image.fromarray(lines), "PNG"), SHAPE)
    assert np.abs(pixels.astype(int) - 127).max() <= 5


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))
EPS = io.BytesIO()
PICTURE.save(EPS, "EPS")
DAMAGED = {
    "it is not an image of a kind": b"",
    "it is not an image": EPS.getvalue(),  # Pillow would start another program
    "it is not an image of a kind that Pillow reads": b"GIF89 is what this text begins with",
    "it is damaged: image file is truncated": saved(NOISE, "JPEG")[:-400],
    "it is damaged": KINDS["png"][:100],
    "32-bit numbers": saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    "it has more than 89 million pixels; make it smaller": png(
        8, 0, np.zeros((10_000, MAX_PIXELS // 10_000 + 1), int)
    ),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_what_can_not_be_read_is_refused_with_its_reason(
    reason: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        read_picture(DAMAGED[reason], SHAPE)
    assert "\n" not in str(refused.value)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(InputError, match="more than 89 million pixels"):
        read_picture(bomb, SHAPE)


def test_a_missing_file_and_a_kind_that_is_not_wanted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_picture(tmp_path / "none.png", SHAPE)
    with pytest.raises(InputError, match="it is not an image of these kinds: PNG, GIF"):
        read_picture(KINDS["bmp"], SHAPE, ("PNG", "GIF"))
