"""Training, evaluation and predictions see a picture of any kind as the same pixels."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import Answer
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import CenterCrop, Compose, Grayscale, Resize

from pipeline.data.arrays import from_folder, from_torchvision
from pipeline.data.dataset import ImageDataset
from pipeline.data.pictures.pixels import read_picture
from pipeline.errors import InputError

SHAPE = (8, 12)
DRAWN = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), np.uint8)
RGB = Image.fromarray(np.ascontiguousarray(DRAWN[..., :3]))
RGBA = Image.fromarray(DRAWN)
GREY = Image.fromarray(np.ascontiguousarray(DRAWN[..., 0]))
LA = RGBA.convert("LA")
PALETTE = RGB.quantize(16)
WIDE = Image.fromarray(DRAWN[..., 0].astype(np.uint16) * 256 + DRAWN[..., 1])
# As a camera stores what its EXIF orientation says how to turn.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photo(orientation: int, picture: Image.Image = RGB, kind: str = "JPEG") -> bytes:
    """A file that has to be turned to be upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = STORED[orientation]
    stored = picture.transpose(turn) if turn is not None else picture
    fine: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    fine |= {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    return saved(stored, kind, exif=exif, **fine)


def png(bits: int, colour_type: int, values: NDArray[Any], transparent: bytes = b"") -> bytes:
    """A PNG of kinds that Pillow can't write; `transparent` is its colour in the file."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    if bits < 8:
        unpacked = (values[..., None] >> np.arange(bits)[::-1]) & 1
        rows = list(np.packbits(unpacked.reshape(height, -1), axis=1))
    else:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in values]
    chunks = {
        b"IHDR": header,
        **({b"tRNS": transparent} if transparent else {}),
        b"IDAT": zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    )


def first(values: NDArray[Any]) -> bytes:
    """The colour of a picture's first pixel, as a PNG has its transparent one."""
    return np.atleast_1d(values[0, 0]).astype(">u2").tobytes()


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (12, 8), "red")]}
HALF = np.repeat([[3, 200]], 8, axis=0).repeat(6, axis=1)  # left and right
WIDE_RGB = DRAWN[..., :3].astype(np.uint16) * 256 + 77
# Each kind of picture, and how many channels it has.
KINDS: dict[str, tuple[bytes, int]] = {
    **{f"jpeg turned {number}": (photo(number), 3) for number in STORED},
    "png turned": (photo(6, kind="PNG"), 3),
    "webp turned": (photo(8, kind="WEBP"), 3),
    "tiff turned": (photo(6, kind="TIFF"), 3),
    "grey jpeg turned": (photo(7, GREY), 1),
    "16-bit png turned": (photo(6, WIDE, "PNG"), 1),
    "cmyk jpeg turned": (photo(5, RGB.convert("CMYK")), 3),
    "rgba png turned": (photo(6, RGBA, "PNG"), 4),
    "palette png turned": (photo(3, PALETTE, "PNG"), 3),
    "grey jpeg": (saved(GREY, "JPEG"), 1),
    "cmyk jpeg": (saved(RGB.convert("CMYK"), "JPEG"), 3),
    "cmyk tiff": (saved(RGB.convert("CMYK"), "TIFF"), 3),
    "ycbcr tiff": (saved(RGB.convert("YCbCr"), "TIFF"), 3),
    "lab tiff": (saved(RGB.convert("LAB"), "TIFF"), 3),
    "palette png": (saved(PALETTE, "PNG"), 3),
    "palette png, one colour transparent": (saved(PALETTE, "PNG", transparency=3), 3),
    "palette png, alpha of colours": (
        saved(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
        3,
    ),
    "palette gif": (saved(PALETTE, "GIF"), 3),
    "palette gif, transparent": (saved(PALETTE, "GIF", transparency=3), 3),
    "grey palette png": (saved(GREY.quantize(16), "PNG"), 3),
    "grey gif": (saved(GREY, "GIF"), 3),
    "rgb png, one colour transparent": (png(8, 2, DRAWN[..., :3], first(DRAWN[..., :3])), 3),
    "16-bit rgb png, transparent": (png(16, 2, WIDE_RGB, first(WIDE_RGB)), 3),
    "grey png, transparent": (png(8, 0, HALF, first(HALF)), 1),
    "4-bit grey png, transparent": (png(4, 0, HALF % 16, first(HALF % 16)), 1),
    "2-bit grey png, transparent": (png(2, 0, HALF % 4, first(HALF % 4)), 1),
    "1-bit png, transparent": (png(1, 0, HALF % 2, first(HALF % 2)), 1),
    "16-bit grey png, transparent": (png(16, 0, HALF * 256 + 9, first(HALF * 256 + 9)), 1),
    "la png": (saved(LA, "PNG"), 2),
    "la tiff": (saved(LA, "TIFF"), 2),
    "rgba png": (saved(RGBA, "PNG"), 4),
    "rgba tiff": (saved(RGBA, "TIFF"), 4),
    "rgba webp": (saved(RGBA, "WEBP", lossless=True), 4),
    "16-bit rgba png": (png(16, 6, DRAWN.astype(np.uint16) * 256 + 1), 4),
    "1-bit png": (saved(GREY.convert("1"), "PNG"), 1),
    "1-bit tiff": (saved(GREY.convert("1"), "TIFF"), 1),
    "1-bit bmp": (saved(GREY.convert("1"), "BMP"), 1),
    "16-bit png": (saved(WIDE, "PNG"), 1),
    "16-bit tiff": (saved(WIDE, "TIFF"), 1),
    "16-bit pgm": (b"P5 12 8 65535 " + np.asarray(WIDE).astype(">u2").tobytes(), 1),
    "16-bit rgb png": (png(16, 2, WIDE_RGB), 3),
    "ppm": (saved(RGB, "PPM"), 3),
    "jpeg 2000": (saved(RGB, "JPEG2000"), 3),
    "avif": (saved(RGB, "AVIF"), 3),
    "animated gif": (saved(RGB, "GIF", **FRAMES), 3),
    "animated webp": (saved(RGB, "WEBP", **FRAMES), 3),
    "animated png": (saved(RGB, "PNG", **FRAMES), 3),
    "tiff of two pages": (saved(RGB, "TIFF", **FRAMES), 3),
    "mpo": (saved(RGB, "MPO", **FRAMES), 3),
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures into both splits of a folder, in two classes; each file as it is named."""

    def write(*files: bytes) -> Path:
        for split in ("training", "validation"):
            for name in ("cat", "dog"):
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                for number, file in enumerate(files):
                    (tmp_path / split / name / f"{number}.png").write_bytes(file)
        return tmp_path

    return write


def image_folders(folder: Path, **options: Any) -> list[ImageFolder]:
    return [ImageFolder(str(folder / split), **options) for split in ("training", "validation")]


def assert_predict_sees(data: ImageDataset, file: bytes, channels: int) -> None:
    """Assert that all images are the pixels that a model of this data gets of the file."""
    assert data.image_shape == (*SHAPE, channels)
    seen = read_picture(file, data.image_shape)
    for split in (data.training, data.validation):
        for image in split.images.numpy():
            assert np.array_equal(image, seen)


@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_a_picture_as_predictions_do(kind: str, folder: Callable[..., Path]) -> None:
    file, channels = KINDS[kind]
    path = folder(file)
    assert_predict_sees(from_folder(path), file, channels)
    assert_predict_sees(from_torchvision(*image_folders(path)), file, 3)
    own_loader = image_folders(path, loader=Image.open)
    assert_predict_sees(from_torchvision(*own_loader), file, channels)
    for number in (1, 2, 3, 4):
        assert_predict_sees(from_folder(path, channels=number), file, number)
        read = from_torchvision(*image_folders(path), channels=number)
        assert_predict_sees(read, file, number)


@pytest.mark.parametrize("turned", [file for file in KINDS if "turned" in file])
def test_a_turned_picture_is_upright(turned: str) -> None:
    file, channels = KINDS[turned]
    pixels = read_picture(file, (*SHAPE, 3)).astype(int)
    expected = {
        "grey jpeg turned": GREY,
        "16-bit png turned": GREY,
        "palette png turned": PALETTE,
    }.get(turned, RGB)
    if channels == 4:
        expected = Image.alpha_composite(Image.new("RGBA", RGBA.size, "white"), RGBA)
    difference = np.abs(pixels - np.asarray(expected.convert("RGB")))
    # JPEG changes noise, but from any other direction it would differ by 85 in the mean.
    assert difference.mean() <= (10 if "jpeg" in turned else 0)


# Each gives a picture another colour, shape or direction if it is read in another way.
TELLING = ["jpeg turned 6", "cmyk jpeg", "palette gif, transparent", "rgba png", "16-bit png"]


class Wrapped(Dataset[Any]):
    """As users write it, to transform one part of a `random_split`."""

    def __init__(self, inner: Any, transform: Callable[[Any], Any]) -> None:
        self.inner = inner
        self.transform = transform

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        picture, label = self.inner[index]
        return self.transform(picture), label


class Plain:
    """The same, of no base class."""

    __init__ = Wrapped.__init__
    __len__ = Wrapped.__len__
    __getitem__ = Wrapped.__getitem__


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "Subset": lambda data: Subset(data, [0, 1]),
    "random_split of a Subset": lambda data: random_split(Subset(data, [1, 0]), [1.0])[0],
    "ConcatDataset": lambda data: ConcatDataset([Subset(data, [0]), data]),
    "a class": lambda data: Wrapped(data, lambda picture: picture),
    "a plain class": lambda data: Plain(Plain(Subset(data, [1, 0]), Resize(SHAPE)), Resize(SHAPE)),
    "a class that resizes": lambda data: Wrapped(Subset(data, [1, 0]), Resize(SHAPE)),
}


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pictures_of_wrapped_data_sets_are_read_alike(
    kind: str, wrapper: str, folder: Callable[..., Path]
) -> None:
    file, _ = KINDS[kind]
    original = image_folders(folder(file))
    loaders = [data.loader for data in original]
    data = from_torchvision(*map(WRAPPERS[wrapper], original))
    assert_predict_sees(data, file, 3)
    assert [data.loader for data in original] == loaders  # they are the user's


def to_rgb(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("loader", [None, Image.open])
def test_a_transform_gets_upright_pictures_of_8_bits(
    kind: str, loader: Any, folder: Callable[..., Path]
) -> None:
    file, _ = KINDS[kind]
    path = folder(file)
    options = {"loader": loader} if loader else {}
    for transform, channels in (
        (Resize(SHAPE), KINDS[kind][1] if loader else 3),
        (to_rgb, 3),
        (Grayscale(), 1),
        (Compose([Grayscale(), Resize(SHAPE)]), 1),
    ):
        read = from_torchvision(*image_folders(path, transform=transform, **options))
        assert_predict_sees(read, file, channels)


TO_GREY = Grayscale(3)
GREYED: dict[str, Callable[[Path], Any]] = {
    "a transform": lambda path: image_folders(path, transform=TO_GREY),
    "a transform, own loader": lambda path: image_folders(
        path, transform=TO_GREY, loader=Image.open
    ),
    "a class": lambda path: [Wrapped(data, TO_GREY) for data in image_folders(path)],
    "a plain class": lambda path: [Plain(data, TO_GREY) for data in image_folders(path)],
}


@pytest.mark.parametrize("way", GREYED)
def test_a_transform_to_grey_of_three_channels_is_refused_with_a_way_out(
    way: str, folder: Callable[..., Path]
) -> None:
    file = KINDS["jpeg turned 6"][0]
    path = folder(file)
    coloured, grey = image_folders(path), GREYED[way](path)
    for split, pair in (
        ("training", (grey[0], coloured[1])),
        ("validation", (coloured[0], grey[1])),
    ):
        with pytest.raises(
            InputError,
            match=f"^the {split} pictures are grey after a transform and coloured before, as"
            " predictions see them; pass channels=1, or leave out what makes them grey$",
        ):
            from_torchvision(*pair, class_names=["cat", "dog"])
    assert_predict_sees(from_torchvision(*grey, channels=1), file, 1)
    folder(KINDS["grey jpeg"][0])  # has no colours that could be lost
    assert_predict_sees(from_torchvision(*GREYED[way](path)), KINDS["grey jpeg"][0], 3)


def test_a_coloured_mark_that_a_crop_removes_does_not_make_grey_pictures_coloured(
    folder: Callable[..., Path],
) -> None:
    marked, file = Image.new("RGB", (40, 40), "grey"), io.BytesIO()
    marked.putpixel((0, 0), (255, 0, 0))
    marked.save(file, "PNG")
    read = from_torchvision(*image_folders(folder(file.getvalue()), transform=CenterCrop(20)))
    assert read.image_shape == (20, 20, 3)


class Both(NamedTuple):
    """Data sets that a user keeps by name."""

    first: Any
    second: Any


class Joined(Dataset[Any]):
    """As long as the second of two data sets, and filled from the first."""

    def __init__(self, first: Any, second: Any) -> None:
        self.both = Both(first, second)

    def __len__(self) -> int:
        return len(self.both.second)

    def __getitem__(self, index: int) -> Any:
        return self.both.first[index]


def test_data_sets_in_a_named_tuple_are_read_alike(folder: Callable[..., Path]) -> None:
    file = KINDS["jpeg turned 6"][0]
    training, validation = (Joined(one, one) for one in image_folders(folder(file)))
    read = from_torchvision(training, validation, class_names=["cat", "dog"])
    assert_predict_sees(read, file, 3)


def test_a_data_set_with_a_joint_transform_gets_upright_pictures(tmp_path: Path) -> None:
    class Own(VisionDataset):  # type: ignore[misc]  # torchvision has no types
        """As OxfordIIITPet does it."""

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return self.transforms(Image.open(io.BytesIO(KINDS["jpeg turned 6"][0])), index)

    data = Own(tmp_path, transform=Resize(SHAPE))
    assert_predict_sees(from_torchvision(data, data), KINDS["jpeg turned 6"][0], 3)


def test_pictures_of_different_channels_are_refused_with_a_way_out(
    folder: Callable[..., Path],
) -> None:
    cmyk, rgba = KINDS["cmyk tiff"][0], KINDS["rgba png"][0]
    path = folder(cmyk, rgba)
    with pytest.raises(
        InputError,
        match=r"1.png is 12x8 pixels, 4 channels, and the first image 12x8 pixels, 3 channels;"
        r" pass channels=3 to read all as RGB$",
    ):
        from_folder(path)
    for data in (from_folder(path, channels=3), from_torchvision(*image_folders(path))):
        for image, file in zip(data.training.images.numpy(), [cmyk, rgba] * 2, strict=True):
            assert np.array_equal(image, read_picture(file, (*SHAPE, 3)))
    wrong: Any
    for wrong in (5, [3], True, "3", np.array([3])):
        line = f"channels is {wrong!r}; it must be a number from 1 to 4"
        with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
            from_folder(path, channels=wrong)
        with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
            from_torchvision(*image_folders(path), channels=wrong)


BOMB = png(8, 0, np.zeros((10_000, 8_948), np.uint8))
UNREADABLE = {
    "its pixels are 32-bit numbers of unknown range; save it with 8 or 16 bits": saved(
        GREY.convert("F"), "TIFF"
    ),
    "its pixels are 32-bit numbers of": saved(GREY.convert("I"), "TIFF"),
    "it has more than 89 million pixels; make it smaller": BOMB,
    "it is not an image of a kind that Pillow reads": saved(RGB, "EPS"),  # starts a program
    "it is damaged: ": saved(RGB, "PNG")[:100],
}


PLACES = ("training/cat", "training/dog", "validation/cat")


@pytest.mark.parametrize("reason", UNREADABLE)
def test_what_predictions_refuse_training_refuses_for_the_same_reason(
    reason: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = folder(UNREADABLE[reason])
    with pytest.raises(InputError, match=f"^{reason}") as refused:
        read_picture(UNREADABLE[reason], (*SHAPE, 3))
    named = [f"{tmp_path}/{place}/0.png: {refused.value}" for place in PLACES]
    line = f"cannot read 4 of 4 pictures: {'; '.join(named)} and 1 more"
    for size in (None, 32):
        with pytest.raises(InputError) as of_folder:
            from_folder(path, size)
        assert str(of_folder.value) == line
    with pytest.raises(InputError) as of_torchvision:
        from_torchvision(*image_folders(path))
    assert str(of_torchvision.value) == f"cannot read {named[0]}"


ABLATION = """
from pathlib import Path
from torch import nn
from pipeline import Ablation
from pipeline.data.arrays import from_folder

class Linear(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.fc = nn.Linear(in_channels * 96, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

ablation = Ablation(
    network=Linear,
    variants={"linear": {}},
    datasets={"photos": lambda: from_folder(Path(__file__).parent / "photos")},
    augmentation=None,
)
"""


def test_evaluate_and_predict_agree_on_turned_photos(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "photos_cnn.py").write_text(ABLATION)
    sky = np.full((*SHAPE, 3), 40, np.uint8)
    sky[:4] = 220  # only the direction tells the classes
    for split in ("training", "validation"):
        for name, picture in (("up", sky), ("down", sky[::-1])):
            target = tmp_path / "photos" / split / name / "1.jpg"
            target.parent.mkdir(parents=True)
            # Read as it is stored, each is the other class.
            target.write_bytes(photo(3, Image.fromarray(np.ascontiguousarray(picture))))
    trained = pipeline("train", "--ablation", "photos_cnn.py", "--epochs", "5", "--lr", "0.1")
    assert "validation accuracy 100.0 %" in trained.out, trained.err
    model = ["--model", "models:/photos-photos_cnn@linear"]
    evaluated = pipeline("evaluate", *model)
    assert "accuracy             100.0 %" in evaluated.out, evaluated.err
    predicted = pipeline("predict", *model, "photos/validation", "--recursive")
    assert "accuracy 100.0 %, of 2 pictures" in predicted.out, predicted.out + predicted.err
