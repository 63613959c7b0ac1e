"""A stand-in for CIFAR-100, drawn by code: 100 classes, no download, the same bytes everywhere.

Everything is integer arithmetic on the raw output of PCG64, which NumPy promises never to change
(it makes no such promise for `Generator`), so no platform or library version alters a pixel.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.dataset import ImageDataset, Split

Ints = NDArray[np.int32]
Mask = NDArray[np.bool_]

SIZE = 32
NOISE_WORDS = SIZE * SIZE * 3 // 8  # one byte of noise per colour value
PARAMETER_WORDS = 80  # at least as many as `_draw` uses before the noise
TRAINING_SEED, VALIDATION_SEED, PALETTE_SEED = 1, 2, 3
TENDENCY = 176  # weight, out of 256, of the class's own colour in its images
BLOBS_BEHIND, BLOBS_IN_FRONT = 3, 1

# Coordinates are in thousandths of a figure's half size, y downwards. The horizontal one is
# passed as its absolute value a: figures are symmetric, so augmentation may flip them.
SHAPES: dict[str, Callable[[Ints, Ints], Mask]] = {
    "disk": lambda a, y: a * a + y * y < 900_000,
    "ring": lambda a, y: (a * a + y * y < 1_000_000) & (a * a + y * y > 200_000),
    "dome": lambda a, y: (a * a + (y - 450) * (y - 450) < 1_000_000) & (y < 450),
    "bowl": lambda a, y: (a * a + (y + 450) * (y + 450) < 1_000_000) & (y > -450),
    "square": lambda a, y: np.maximum(a, abs(y)) < 850,
    "frame": lambda a, y: (np.maximum(a, abs(y)) < 900) & (np.maximum(a, abs(y)) > 400),
    "diamond": lambda a, y: a + abs(y) < 1100,
    "triangle": lambda a, y: (y < 850) & (2 * a < y + 950),
    "funnel": lambda a, y: (y > -850) & (2 * a < 950 - y),
    "plus": lambda a, y: (np.minimum(a, abs(y)) < 320) & (np.maximum(a, abs(y)) < 1000),
    "saltire": lambda a, y: (abs(a - abs(y)) < 380) & (np.maximum(a, abs(y)) < 900),
    "sparkle": lambda a, y: (a * abs(y) < 90_000) & (a + abs(y) < 1200),
    "hourglass": lambda a, y: (abs(y) < 950) & (5 * a < 4 * abs(y) + 600),
    "bowtie": lambda a, y: (a < 950) & (5 * abs(y) < 4 * a + 600),
    "arrow": lambda a, y: ((y < 0) & (a < y + 950)) | ((y >= 0) & (y < 900) & (a < 350)),
    "tee": lambda a, y: (abs(y) < 900) & (a < 900) & ((y < -250) | (a < 320)),
    "arch": lambda a, y: (np.maximum(a, abs(y)) < 900) & ((a > 380) | (y < -200)),
    "cup": lambda a, y: (np.maximum(a, abs(y)) < 900) & ((a > 380) | (y > 200)),
    "chevron": lambda a, y: (abs(y + 450 - a) < 420) & (a < 950),
    "heart": lambda a, y: (
        ((a - 450) * (a - 450) + (y + 300) * (y + 300) < 250_000)
        | ((y > -200) & (a + y < 858) & (a - y < 750))
    ),
}
PATTERNS: dict[str, Callable[[Ints, Ints], Mask]] = {
    "solid": lambda a, y: np.zeros(a.shape, np.bool_),
    "banded": lambda a, y: _stripe(y),
    "striped": lambda a, y: _stripe(a),
    "checked": lambda a, y: _stripe(a) ^ _stripe(y),
    "ringed": lambda a, y: (a * a + y * y > 160_000) & (a * a + y * y < 550_000),
}


def generate(num_training: int = 10_000, num_validation: int = 2_000) -> ImageDataset:
    """Draw the synthetic data set: a shape (superclass) filled with a pattern, amid clutter.

    The splits hold `num_training` and `num_validation` images, uint8 `[N, 32, 32, 3]`, with int64
    labels `[N]`. Image i of a split depends only on i, so small splits are prefixes of larger
    ones; each block of 100 images (0 to 99, 100 to 199, ...) has every class once.
    """
    return ImageDataset(
        training=_split(TRAINING_SEED, num_training),
        validation=_split(VALIDATION_SEED, num_validation),
        class_names=tuple(f"{shape}-{pattern}" for shape in SHAPES for pattern in PATTERNS),
        superclass_names=tuple(SHAPES),
        superclass_of=tuple(label // len(PATTERNS) for label in range(100)),
        name="synthetic",
        caveat="Anything about photographs: the built-in images are drawn shapes, which show that"
        " the pipeline works.",
    )


def figure(label: int, x: Ints, y: Ints) -> tuple[Mask, Mask]:
    """Return masks of the points (x, y) inside the class's shape and inside its pattern.

    Coordinates are in thousandths of the figure's half size from its centre, y downwards.
    """
    shape = list(SHAPES.values())[label // len(PATTERNS)]
    pattern = list(PATTERNS.values())[label % len(PATTERNS)]
    return shape(abs(x), y), pattern(abs(x), y)


def _stripe(coordinate: Ints) -> Mask:
    odd: Mask = (abs(coordinate) + 170) // 340 % 2 == 1  # even, the main colour, is centred on zero
    return odd


def _split(seed: int, count: int) -> Split:
    blocks = -(-count // 100)
    order = np.random.PCG64((seed, 0)).random_raw(blocks * 100).reshape(blocks, 100)
    labels = np.argsort(order, axis=1).reshape(-1)[:count].astype(np.int64)
    words_per_image = PARAMETER_WORDS + NOISE_WORDS
    words = np.random.PCG64((seed, 1)).random_raw(count * words_per_image)
    words = words.reshape(count, words_per_image)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for label in range(100):
        members = np.flatnonzero(labels == label)
        images[members] = _draw(label, words[members])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _draw(label: int, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Draw one image of the class per row of random words."""
    columns = iter(words.T)

    def between(low: int, high: int) -> Ints:  # low and high included; [n, 1, 1]
        steps: Ints = ((next(columns) >> 32) * (high - low + 1) >> 32).astype(np.int32)
        return steps[:, None, None] + low

    def colour() -> Ints:  # [n, 3, 1, 1]
        return np.stack([between(0, 255) for _ in range(3)], axis=1)

    def paint(mask: Mask, value: Ints) -> None:
        np.copyto(canvas, value, where=mask[:, None], casting="same_kind")

    def paint_blobs(number: int) -> None:
        for _ in range(number):
            width, height = between(2, 9), between(2, 9)
            dx, dy = half_pixels - between(-31, 31), half_pixels.T - between(-31, 31)
            ellipse = (dx * height) * (dx * height) + (dy * width) * (dy * width)
            paint(ellipse < width * width * height * height, colour())

    half_pixels = np.arange(1 - SIZE, SIZE, 2, dtype=np.int32)[None, :]  # from the centre

    zoom = between(40, 64)  # thousandths per half pixel: half sizes of 12.5 to 7.8 pixels
    zoom_x, zoom_y = zoom * between(88, 112) // 100, zoom * between(88, 112) // 100
    dx, dy = half_pixels - between(-7, 7), half_pixels.T - between(-7, 7)
    inside, patterned = figure(label, zoom_x * dx + between(-8, 8) * dy, zoom_y * dy)

    raw_palette = np.random.PCG64(PALETTE_SEED).random_raw(300) >> 56
    own = raw_palette.astype(np.int32).reshape(100, 3, 1, 1)[label]
    main = (TENDENCY * own + (256 - TENDENCY) * colour()) // 256
    second = colour()

    # A gradient between two colours in a random direction, sometimes close to the figure's own.
    start, end = colour(), colour()
    slope = between(-128, 128) * half_pixels + between(-128, 128) * half_pixels.T
    weight = (slope // 62 + 128)[:, None]  # 0 to 256: half_pixels reaches 31 either way
    background = start + (((end - start) * weight) >> 8)
    canvas = background.astype(np.int16)

    paint_blobs(BLOBS_BEHIND)
    paint(inside, main)
    paint(inside & patterned, second)
    paint_blobs(BLOBS_IN_FRONT)

    contrast = between(128, 256)[:, None].astype(np.int16)
    amplitude = between(4, 24)[:, None].astype(np.int16)
    noise = words[:, -NOISE_WORDS:].astype("<u8").view(np.uint8).reshape(canvas.shape)
    canvas = ((canvas - 128) * contrast >> 8) + 128
    canvas += (noise.astype(np.int16) - 128) * amplitude >> 7
    pixels: NDArray[np.uint8] = canvas.clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)
