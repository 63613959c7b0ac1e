"""The tutorial's network."""

from os import PathLike
from typing import cast

import torch
from torch import Tensor, nn

# What checkpoints of earlier versions name instead of their settings.
SETTINGS_OF_VARIANT = {
    "base": {},
    "bn": {"batch_norm": True},
    "dropout": {"batch_norm": True, "dropout": True},
    "base_dropout": {"dropout": True},
}


class CNNNetwork(nn.Module):
    """Three convolutions and two fully connected layers, for 32x32 RGB images and 100 classes.

    The attributes have the tutorial's names, so a state dict of its network loads here, and vice
    versa. A layer that a variant lacks is an `nn.Identity`: it has no weights, and the forward
    pass is the same for all. Layers are built in a fixed order, and added ones draw no random
    numbers, so after `torch.manual_seed` the layers that variants share start out equal.

    Input: float `[N, 3, 32, 32]`, normalised to -1..1. Output: logits, `[N, 100]`.
    """

    def __init__(self, *, batch_norm: bool = False, dropout: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding="same")
        self.bn1 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding="same")
        self.bn2 = nn.BatchNorm2d(32) if batch_norm else nn.Identity()
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding="same")
        self.bn3 = nn.BatchNorm2d(64) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(64 * 4 * 4, 512)
        self.dropout = nn.Dropout(p=0.5) if dropout else nn.Identity()
        self.fc2 = nn.Linear(512, 100)

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
        settings = checkpoint.get("settings")
        if settings is None:  # written by an earlier version
            settings = SETTINGS_OF_VARIANT[checkpoint["variant"]]
        network = cls(**settings)
        network.load_state_dict(checkpoint["state_dict"])
        return network
