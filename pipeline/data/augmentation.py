"""The transforms of `pipeline.data.transforms` for a whole batch, bit-identical on a CPU.

Image by image, torchvision reaches about 3,000 images/s and starves the network. Flip,
nearest-neighbour rotation and crop only move pixels. So one map gives the source pixel of each
result pixel, the uint8 pixels are gathered once, and conversion comes last. In batches of 256 this
reaches 88,000 images/s on one core, 170,000 on two (`python -m benchmarks.augmentation`).

torchvision itself is not imported: it adds 1.4 s to the 2 s that importing torch takes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from pipeline.errors import InputError, plural


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to each training image; the defaults are the tutorial's.

    flip: mirror half of the images left and right.
    rotation: rotate by at most this many degrees, 0 to 180; 0 is none.
    padding: black pixels added on each side before a crop of the original size; 0 is no crop.

    Raises InputError for other values.
    """

    flip: bool = True
    rotation: float = 15.0
    padding: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation is {self.rotation}; it must be from 0 to 180 degrees")
        if self.padding < 0:
            raise InputError(f"padding is {self.padding}; it must be at least 0 pixels")

    @property
    def description(self) -> str:
        """In words: `flip, rotation up to 15°, crop with 4 pixels of padding`, or `none`."""
        parts = {
            "flip": self.flip,
            f"rotation up to {self.rotation:g}°": self.rotation,
            f"crop with {plural(self.padding, 'pixel')} of padding": self.padding,
        }
        return ", ".join(part for part, on in parts.items() if on) or "none"


TUTORIAL = Augmentation()
NO_AUGMENTATION = Augmentation(flip=False, rotation=0, padding=0)


class AugmentationParameters(NamedTuple):
    """What is drawn at random for each of N images.

    flip: bool `[N]`, whether to mirror left and right.
    angle: float32 `[N]`, degrees counter-clockwise.
    top, left: int64 `[N]`, the crop's first row and column in the padded image.
    """

    flip: Tensor
    angle: Tensor
    top: Tensor
    left: Tensor

    def to(self, device: torch.device) -> "AugmentationParameters":
        """Return a copy on `device`."""
        return AugmentationParameters(*(values.to(device) for values in self))


def draw_parameters(
    count: int, generator: torch.Generator, augmentation: Augmentation = TUTORIAL
) -> AugmentationParameters:
    """Draw the parameters of `count` images from a CPU generator.

    The distributions and dtypes are those of torchvision's RandomHorizontalFlip(0.5),
    RandomRotation(rotation) and RandomCrop((H, W), padding). All are drawn, even for a part that
    is off: two augmentations that differ in one part share the other parts' draws.
    """
    offsets = 2 * augmentation.padding + 1
    limit = float(augmentation.rotation)
    return AugmentationParameters(
        flip=torch.rand(count, generator=generator) < 0.5,
        angle=torch.empty(count).uniform_(-limit, limit, generator=generator),
        top=torch.randint(offsets, (count,), generator=generator),
        left=torch.randint(offsets, (count,), generator=generator),
    )


def augment(
    images: Tensor, parameters: AugmentationParameters, augmentation: Augmentation = TUTORIAL
) -> Tensor:
    """Flip, rotate, crop and normalise uint8 `[N, H, W, C]` images, on the parameters' device.

    Returns float32 `[N, C, H, W]` in channels_last layout, from -1 (black) to 1. Call it outside
    autocast, which would compute the rotation in half precision.
    """
    if augmentation == NO_AUGMENTATION:
        return normalise(images)
    count, height, width, channels = images.shape
    # A black pixel precedes the H*W pixels of each image: number 0 in the map refers to it.
    pixels = pad(images.reshape(count, height * width, channels), (0, 0, 1, 0)).view(-1, channels)
    first = torch.arange(count, device=images.device) * (height * width + 1)
    source = first.view(-1, 1, 1) + _source_pixels(height, width, parameters, augmentation)
    return normalise(pixels.index_select(0, source.flatten()).view(images.shape))


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 `[N, H, W, C]` images to -1..1: `validation_transform` for a batch.

    Returns float32 `[N, C, H, W]` in channels_last layout.
    """
    # (x / 255 - 0.5) / 0.5 to the last bit, because doubling is exact. A tensor, because CUDA
    # divides by a plain number by multiplying by its rounded reciprocal, which gives 126 of the 256
    # pixel values a different last bit from ToTensor's CPU division.
    grey = torch.full((1,), 127.5, device=images.device)
    return images.permute(0, 3, 1, 2).float().div_(grey).sub_(1)


def _source_pixels(
    height: int, width: int, parameters: AugmentationParameters, augmentation: Augmentation
) -> Tensor:
    """Return the source pixel of each result pixel, 1 to H*W row by row, or 0 for black.

    Returns int64 `[N, H, W]`.
    """
    flip, angle, top, left = parameters
    device, count = angle.device, len(angle)
    # As float32 for grid_sample: exact for images of up to 2**24 pixels.
    numbers = torch.arange(1.0, height * width + 1, device=device).view(1, height, width)
    flipped = numbers.expand(count, 1, -1, -1)
    if augmentation.flip:
        flipped = torch.stack([numbers, numbers.flip(-1)])[flip.long()]
    rotated = flipped
    if augmentation.rotation:
        # grid_sample gives 0 outside the image. The grid is freed once it is used.
        rotated = grid_sample(
            flipped, _rotation_grid(height, width, angle), mode="nearest", align_corners=False
        )
    cropped = rotated.squeeze(1)
    if augmentation.padding:
        # Shifting the grid instead of cropping its result would be simpler, but not the same: the
        # crop would bring back corners that the rotation has already cut off at the frame.
        padded = pad(cropped, (augmentation.padding,) * 4)
        windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # a view, [N, 9, 9, H, W]
        cropped = windows[torch.arange(count, device=device), top, left]
    return cropped.long()


def _rotation_grid(height: int, width: int, angle: Tensor) -> Tensor:
    """Return the source of each pixel of the rotated images, for `grid_sample`.

    Returns float32 `[N, H, W, 2]`: x and y, -1 to 1 across the image. The arithmetic is that of
    torchvision's `_get_inverse_affine_matrix` and `_gen_affine_grid`, step by step: a difference
    in the last bit shows a wrong pixel in 2 of 10,000 images. So the angle is float64 until the
    matrix is complete, and the matrix product, which may fuse multiplications and additions, is
    not replaced by elementwise ones. Only its factors are swapped and transposed.
    """
    radians = torch.deg2rad(-angle.double())
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    matrix = torch.stack([cos, sin, zero, -sin, cos, zero], dim=1).view(-1, 2, 3).float()
    x, y = (torch.arange(size, device=angle.device) - 0.5 * (size - 1) for size in (width, height))
    # Filled on the device: copying two numbers there would wait for all its work to finish. And a
    # tensor for the reason given in `normalise`.
    half = torch.cat(
        [torch.full((1, 1), 0.5 * size, device=angle.device) for size in (width, height)]
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    base = torch.stack([x, y, torch.ones_like(x)]).view(1, 3, -1)
    # In this order it takes a third of the time.
    grid = (matrix / half).bmm(base.expand(len(angle), -1, -1))
    return grid.view(-1, 2, height, width).permute(0, 2, 3, 1)
