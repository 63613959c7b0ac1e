"""The tutorial's training, as published, as a baseline."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pipeline import CNNNetwork, training_transform, validation_transform
from pipeline.ablation.loading import load_ablation
from pipeline.data.dataset import Split

BATCH_SIZE = 256
Batches = Iterable[tuple[Tensor, Tensor]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Like torchvision's CIFAR100: an array in memory, converted to pictures one by one."""

    def __init__(self, split: Split, train: bool) -> None:
        self.images, self.labels = split.images.numpy(), split.labels.tolist()
        self.transform = training_transform if train else validation_transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Network(CNNNetwork):
    """The tutorial's forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.pool(self.bn1(torch.relu(self.conv1(x))))
        x = self.pool(self.bn2(torch.relu(self.conv2(x))))
        x = self.pool(self.bn3(torch.relu(self.conv3(x))))
        x = self.flatten(x)
        x = self.dropout(torch.relu(self.fc1(x)))
        return cast(Tensor, self.fc2(x))


def loader(split: Split, train: bool, workers: int) -> Batches:
    """Return the tutorial's DataLoader; the tutorial uses no workers."""
    return DataLoader(Pictures(split, train), BATCH_SIZE, shuffle=train, num_workers=workers)


def setup(variant: str, device: torch.device) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Return network, criterion and optimiser."""
    settings: Any = load_ablation("auto").variants[variant]
    model = Network(**settings).to(device)
    return model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.001)


def epoch(
    model: nn.Module,
    n: int,
    train: bool,
    dataloader: Batches,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Make a pass over the data; count and show what the tutorial does."""
    model.train(train)
    device = next(model.parameters()).device
    total_loss, total_samples, total_correct = 0.0, 0, 0
    bar = tqdm(dataloader)
    for data, target in bar:
        images, labels = data.to(device), target.to(device)
        if train:
            optimizer.zero_grad()
        with torch.set_grad_enabled(train):
            outputs = model(images)
        loss = criterion(outputs, labels)
        if train:
            loss.backward()
            optimizer.step()
        total_loss += loss.item()
        total_samples += images.size(0)
        total_correct += int((outputs.argmax(dim=1) == labels).sum().item())
        bar.set_description(
            f"Epoch {n} ({'T' if train else 'V'}), Loss: {total_loss / total_samples:.4f},"
            f" Accuracy: {total_correct / total_samples:.2%}"
        )
