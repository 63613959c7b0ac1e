"""The transforms of `pipeline.data.transforms` for a whole batch, bit-identical on a CPU.

Image by image, torchvision reaches about 3,000 images/s and starves the network. Flip,
nearest-neighbour rotation and crop only move pixels. So one map gives the source pixel of each
result pixel, the uint8 pixels are gathered once, and conversion comes last. In batches of 256 this
reaches 60,000 images/s on one core, 110,000 on two (`python -m benchmarks.augmentation`).

torchvision itself is not imported: it adds 1.4 s to the 2 s that importing torch takes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

SIZE = 32  # height and width of an image, in pixels
PADDING = 4  # black pixels added on each side before the crop
MAX_ANGLE = 15.0  # degrees


class AugmentationParameters(NamedTuple):
    """What is drawn at random for each of N images.

    flip: bool `[N]`, whether to mirror left and right.
    angle: float32 `[N]`, degrees counter-clockwise.
    top, left: int64 `[N]`, the crop's first row and column in the padded 40×40 image, 0 to 8.
    """

    flip: Tensor
    angle: Tensor
    top: Tensor
    left: Tensor

    def to(self, device: torch.device) -> "AugmentationParameters":
        """Return a copy on `device`."""
        return AugmentationParameters(*(values.to(device) for values in self))


def draw_parameters(count: int, generator: torch.Generator) -> AugmentationParameters:
    """Draw the parameters of `count` images from a CPU generator.

    The distributions and dtypes are those of torchvision's RandomHorizontalFlip(0.5),
    RandomRotation(15) and RandomCrop(32, padding=4).
    """
    offsets = 2 * PADDING + 1
    return AugmentationParameters(
        flip=torch.rand(count, generator=generator) < 0.5,
        angle=torch.empty(count).uniform_(-MAX_ANGLE, MAX_ANGLE, generator=generator),
        top=torch.randint(offsets, (count,), generator=generator),
        left=torch.randint(offsets, (count,), generator=generator),
    )


def augment(images: Tensor, parameters: AugmentationParameters) -> Tensor:
    """Flip, rotate, crop and normalise uint8 `[N, 32, 32, 3]` images, on the parameters' device.

    Returns float32 `[N, 3, 32, 32]` in channels_last layout, from -1 (black) to 1. Call it outside
    autocast, which would compute the rotation in half precision.
    """
    count = len(images)
    # A black pixel precedes each image's 1024 pixels: number 0 in the map refers to it.
    pixels = pad(images.reshape(count, SIZE * SIZE, 3), (0, 0, 1, 0)).view(-1, 3)
    first = torch.arange(count, device=images.device) * (SIZE * SIZE + 1)
    source = first.view(-1, 1, 1) + _source_pixels(parameters)
    return normalise(pixels.index_select(0, source.flatten()).view(count, SIZE, SIZE, 3))


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 `[N, 32, 32, 3]` images to -1..1: `validation_transform` for a batch.

    Returns float32 `[N, 3, 32, 32]` in channels_last layout.
    """
    # A tensor, because CUDA divides by a plain number by multiplying by its rounded reciprocal,
    # which gives 126 of the 256 pixel values a different last bit from ToTensor's CPU division.
    white = torch.full((1,), 255.0, device=images.device)
    return images.permute(0, 3, 1, 2).float().div_(white).sub_(0.5).div_(0.5)


def _source_pixels(parameters: AugmentationParameters) -> Tensor:
    """Return the source pixel of each result pixel, 1 to 1024 row by row, or 0 for black.

    Returns int64 `[N, 32, 32]`.
    """
    flip, angle, top, left = parameters
    device = angle.device
    numbers = torch.arange(1.0, SIZE * SIZE + 1, device=device).view(1, SIZE, SIZE)
    flipped = torch.stack([numbers, numbers.flip(-1)])[flip.long()]
    # grid_sample gives 0 outside the image.
    rotated = grid_sample(flipped, _rotation_grid(angle), mode="nearest", align_corners=False)
    # Shifting the grid instead of cropping its result would be simpler, but not the same: the crop
    # would bring back corners that the rotation has already cut off at the 32×32 frame.
    padded = pad(rotated.squeeze(1), (PADDING,) * 4)
    windows = padded.unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # a view, [N, 9, 9, 32, 32]
    return windows[torch.arange(len(flip), device=device), top, left].long()


def _rotation_grid(angle: Tensor) -> Tensor:
    """Return the source of each pixel of the rotated images, for `grid_sample`.

    Returns float32 `[N, 32, 32, 2]`: x and y, -1 to 1 across the image. The arithmetic is that of
    torchvision's `_get_inverse_affine_matrix` and `_gen_affine_grid`, step by step: a difference
    in the last bit shows a wrong pixel in 2 of 10,000 images. So the angle is float64 until the
    matrix is complete, and the matrix product, which may fuse multiplications and additions, is
    not replaced by elementwise ones.
    """
    radians = torch.deg2rad(-angle.double())
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    transposed = torch.stack([cos, -sin, sin, cos, zero, zero], dim=1).view(-1, 3, 2).float()
    theta = transposed / (0.5 * SIZE)
    centred = torch.arange(SIZE, device=angle.device) - 0.5 * (SIZE - 1)
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    base = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)
    return base.expand(len(theta), -1, -1).bmm(theta).view(-1, SIZE, SIZE, 2)
