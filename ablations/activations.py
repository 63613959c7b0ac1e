"""Does GELU instead of ReLU help, and does width? On scikit-learn's digits: 8x8 grey images."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline import Ablation, Augmentation
from pipeline.data.arrays import from_arrays
from pipeline.data.dataset import ImageDataset

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
VALIDATION_IMAGES = 360


class Perceptron(nn.Module):
    """Two fully connected layers: images `[N, 1, 8, 8]` in, logits `[N, 10]` out."""

    def __init__(self, activation: str = "relu", width: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, width)
        self.activation = ACTIVATIONS[activation]()
        self.classify = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        logits: Tensor = self.classify(self.activation(self.hidden(torch.flatten(x, 1))))
        return logits


def digits() -> ImageDataset:
    """1,437 training and 360 validation images, which come with scikit-learn."""
    found = load_digits()
    images = (found.images * 255 / 16).round().astype(np.uint8)  # of 17 shades of grey
    training, validation = slice(VALIDATION_IMAGES, None), slice(VALIDATION_IMAGES)
    return from_arrays(
        images[training], found.target[training], images[validation], found.target[validation]
    )


ablation = Ablation(
    network=Perceptron,
    variants={
        "relu": {},
        "gelu": {"activation": "gelu"},
        "wide": {"width": 128},
        "gelu_wide": {"activation": "gelu", "width": 128},
    },
    compared=("relu", "gelu", "wide"),
    words={"activation": {"relu": "ReLU", "gelu": "GELU"}},
    datasets={"digits": digits},
    augmentation=lambda: Augmentation(flip=False, rotation=10, padding=1),  # 2 mirrored is no digit
    name="perceptron",
)
