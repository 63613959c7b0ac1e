"""Batches of images held in memory; they replace the tutorial's DataLoader."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.data.augmentation import (
    TUTORIAL,
    Augmentation,
    AugmentationParameters,
    augment,
    draw_parameters,
    normalise,
)
from pipeline.data.dataset import Split
from pipeline.randomness import Stream, stream_generator

Batch = tuple[Tensor, Tensor]
# What has images on another device than the network: MPS lacks float64, which a rotation needs.
ELSEWHERE = {"mps": torch.device("cpu")}
# Augmentation launches about 40 kernels, however many images there are, and a GPU finishes those
# of one batch before the next is launched. A CPU's caches hold one batch.
BATCHES_AT_ONCE = {"cuda": 16}


class TrainingBatches:
    """Shuffled, augmented batches: `(float32 [B, C, H, W], int64 [B])` on `device`.

    Order and augmentation depend only on seed and epoch: all variants trained with one seed see
    the same images. Call `set_epoch` before each epoch, as with torch's DistributedSampler.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        device: torch.device,
        augmentation: Augmentation = TUTORIAL,
    ) -> None:
        self.images, self.labels = _placed(split, device)
        self.device = device
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.batches_at_once = BATCHES_AT_ONCE.get(device.type, 1)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.labels)
        order = torch.randperm(
            count, generator=stream_generator(self.seed, Stream.ORDER, self.epoch)
        ).to(self.labels.device)
        generator = stream_generator(self.seed, Stream.AUGMENTATION, self.epoch)
        # Drawn on the CPU, for the same numbers on every machine; moved once, not per batch.
        parameters = draw_parameters(count, generator, self.augmentation).to(self.labels.device)
        at_once = self.batches_at_once * self.batch_size
        for start in range(0, count, at_once):
            rows = slice(start, start + at_once)
            chosen = order[rows]
            drawn = AugmentationParameters(*(values[rows] for values in parameters))
            augmented = augment(self.images.index_select(0, chosen), drawn, self.augmentation)
            images = torch.split(augmented.to(self.device), self.batch_size)
            labels = torch.split(self.labels[chosen].to(self.device), self.batch_size)
            yield from zip(images, labels, strict=True)


class ValidationBatches:
    """Normalised batches in the data set's order; otherwise like `TrainingBatches`."""

    def __init__(self, split: Split, batch_size: int, device: torch.device) -> None:
        self.images, self.labels = _placed(split, device)
        self.device = device
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.labels), self.batch_size):
            rows = slice(start, start + self.batch_size)
            images = normalise(self.images[rows])
            yield images.to(self.device), self.labels[rows].to(self.device)


def _placed(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Move images and labels to where batches for a network on `device` are made."""
    place = ELSEWHERE.get(device.type, device)
    return split.images.to(place), split.labels.to(place)
