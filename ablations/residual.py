"""Do squeeze-and-excitation and label smoothing help a small residual network? A 2x2 design."""

import torch
from torch import Tensor, nn

from pipeline import Ablation
from pipeline.data import cifar100, synthetic


class SqueezeExcitation(nn.Module):
    """Scales each channel by a weight that is computed from all of them (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, `[N, channels, H, W]`, with each channel scaled by 0 to 1."""
        weights = torch.relu(self.squeeze(x.mean(dim=(2, 3))))
        return x * torch.sigmoid(self.excite(weights))[:, :, None, None]


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a shortcut around them (arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int, se: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.se = SqueezeExcitation(after) if se else nn.Identity()
        shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
        self.shortcut = shortcut if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width if the stride is 2."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.se(self.bn2(self.conv2(y))) + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A stem and three blocks: images `[N, 3, 32, 32]` in, logits `[N, num_classes]` out."""

    def __init__(self, num_classes: int, se: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.block1 = Block(32, 32, 1, se)
        self.block2 = Block(32, 64, 2, se)
        self.block3 = Block(64, 128, 2, se)
        self.classify = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = torch.relu(self.bn(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.classify(x.mean(dim=(2, 3)))
        return logits


ablation = Ablation(
    network=ResidualNetwork,
    variants={
        "plain": {},
        "se": {"se": True},
        "smooth": {"label_smoothing": 0.1},  # which the criterion takes, torch's cross-entropy
        "se_smooth": {"se": True, "label_smoothing": 0.1},
    },
    words={"se": "squeeze-and-excitation", "label_smoothing": "label smoothing"},
    datasets={"cifar100": cifar100.load, "synthetic": synthetic.generate},
)
