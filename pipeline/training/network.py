"""The tutorial's network."""

from os import PathLike
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.config import check_at_least, height_and_width
from pipeline.errors import InputError

POOLINGS = 3  # each halves height and width, and leaves a last odd row or column out
LEAST_SIZE = 2**POOLINGS


class CNNNetwork(nn.Module):
    """Three convolutions and two fully connected layers; by default the tutorial's, for CIFAR-100.

    image_size: pixels, of a square, or (height, width); at least 8 each. dropout: a probability
    below 1, or True for the tutorial's 0.5.

    The attributes have the tutorial's names, so a state dict of its network loads here, and vice
    versa. A layer that a variant lacks is an `nn.Identity`: it has no weights, and the forward
    pass is the same for all. Layers are built in a fixed order, and added ones draw no random
    numbers, so after `torch.manual_seed` the layers that variants share start out equal.

    Input: float `[N, in_channels, height, width]`, normalised to -1..1. Output: logits,
    `[N, num_classes]`.

    Raises InputError for what no such network has.
    """

    def __init__(
        self,
        *,
        num_classes: int = 100,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        batch_norm: bool = False,
        dropout: bool | float = False,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 1)
        check_at_least("in_channels", in_channels, 1)
        self.image_size = _poolable(image_size)
        height, width = (size // LEAST_SIZE for size in self.image_size)
        probability = _probability(dropout)
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding="same")
        self.bn1 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding="same")
        self.bn2 = nn.BatchNorm2d(32) if batch_norm else nn.Identity()
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding="same")
        self.bn3 = nn.BatchNorm2d(64) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(64 * height * width, 512)
        self.dropout = nn.Dropout(probability) if probability else nn.Identity()
        self.fc2 = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        # An in-place ReLU needs no extra memory (docs/LOG.md); the results are the same.
        x = self.pool(self.bn1(torch.relu_(self.conv1(x))))
        x = self.pool(self.bn2(torch.relu_(self.conv2(x))))
        x = self.pool(self.bn3(torch.relu_(self.conv3(x))))
        x = self.flatten(x)
        x = self.dropout(torch.relu_(self.fc1(x)))
        return cast(Tensor, self.fc2(x))

    @classmethod
    def from_checkpoint(cls, path: str | PathLike[str]) -> "CNNNetwork":
        """Rebuild a run's network from its `checkpoint.pt`, on the CPU, for fine-tuning."""
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        network = cls(**checkpoint["settings"])
        network.load_state_dict(checkpoint["state_dict"])
        return network


def _poolable(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the size of images, if it is one that three poolings leave something of."""
    height, width = height_and_width("image_size", image_size)
    if min(height, width) < LEAST_SIZE:
        raise InputError(
            f"image_size is {height}x{width} (height x width); {POOLINGS} poolings take at least"
            f" {LEAST_SIZE}x{LEAST_SIZE}"
        )
    return height, width


def _probability(dropout: bool | float) -> float:
    """Return the probability with which a number is dropped; 0 for none."""
    found = 0.5 if dropout is True else dropout
    if not isinstance(found, int | float) or not 0 <= found < 1:
        raise InputError(
            f"dropout is {dropout!r}; it must be False, True (0.5) or a probability below 1, such"
            " as 0.3"
        )
    return found
