"""An ablation of one's own for tests: the file `mine.py`, and changes of it."""

from pathlib import Path

# 6x9 grey images of three classes, which are told apart by their brightness.
MINE = """
import numpy as np
import torch
from torch import nn
from pipeline import Ablation, Augmentation
from pipeline.data.arrays import from_arrays

def noise():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = random.integers(0, 86, (120, 6, 9), dtype=np.uint8) + labels[:, None, None] * 85
    images = images.astype(np.uint8)
    return from_arrays(images[:90], labels[:90], images[90:], labels[90:], ["dark", "dim", "light"])

class Mine(nn.Module):
    def __init__(self, num_classes, in_channels, width=8, activation="relu"):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]()
        self.fc = nn.Linear(width * 4 * 7, num_classes)

    def forward(self, x):
        x = self.activation(self.conv(x))
        return self.fc(x.view(x.size(0), -1))

ablation = Ablation(
    network=Mine,
    variants={"plain": {}, "wide": {"width": 16}, "tanh": {"activation": "tanh"}},
    datasets={"noise": noise},
    augmentation=lambda flip=True: Augmentation(flip=flip, rotation=0, padding=1),
)
"""
SGD = (
    (
        "network=Mine,",
        """network=Mine,
    optimizer=lambda parameters, lr, momentum=0.0: torch.optim.SGD(parameters, lr, momentum),
    schedule=lambda optimizer, epochs, gamma=1.0:
        torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma),""",
    ),
    (
        '"plain": {}',
        '"plain": {"momentum": 0.5, "gamma": 0.5, "flip": False, "label_smoothing": 0.2}',
    ),
)
TRAIN = ("train", "--ablation", "mine.py", "--epochs", "2", "--batch-size", "32")


def write(folder: Path, *changes: tuple[str, str]) -> None:
    """Write `mine.py`, with changes."""
    text = MINE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "mine.py").write_text(text)
