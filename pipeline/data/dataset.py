"""What every data set looks like to the rest of the project: uint8 images held in memory."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    images: uint8 `[N, 32, 32, 3]`, RGB, as every image library gives them.
    labels: int64 `[N]`, the fine class, 0 to 99.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over every byte of the images, then of the labels as int64.

        MLflow's own digest reads only the first 10,000 numbers: three images.
        """
        sha = hashlib.sha256(self.images.contiguous().numpy().data)
        sha.update(self.labels.contiguous().numpy().data)
        return sha.hexdigest()

    def first(self, count: int) -> "Split":
        """Return the first `count` images as a new split."""
        return Split(self.images[:count], self.labels[:count])

    def only(self, chosen: Tensor) -> "Split":
        """Return the images where the mask `chosen`, bool `[N]`, is true, in order."""
        return Split(self.images[chosen], self.labels[chosen])


HOLDOUT_SEED = 0
HOLDOUT_STEP = 10  # hold out one in this many training images


@dataclass(frozen=True)
class ImageDataset:
    """A training and a validation split, and the names of their classes.

    validation: the data set's `train=False` split. After `hold_out` it is part of the training
    split, and the `train=False` split is `test`, which is None otherwise.
    class_names: the 100 fine classes, by label.
    superclass_names: the 20 coarse classes.
    superclass_of: the coarse label of each of the 100 fine labels.
    source: the address it is published at; None for data that the project generates.
    """

    name: str
    training: Split
    validation: Split
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of: tuple[int, ...]
    source: str | None
    test: Split | None = None

    def hold_out(self) -> "ImageDataset":
        """Hold out a tenth of the training images of each class, for model selection.

        They are the same in every run: PCG64's raw output never changes.
        """
        labels = self.training.labels.numpy()
        random = np.random.PCG64(HOLDOUT_SEED).random_raw(len(labels))
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        held_out[np.lexsort((random, labels))[::HOLDOUT_STEP].copy()] = True
        return replace(
            self,
            training=self.training.only(~held_out),
            validation=self.training.only(held_out),
            test=self.validation,
        )

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the splits' digests."""
        splits = [self.training, self.validation, *([self.test] if self.test else [])]
        return hashlib.sha256("".join(split.digest for split in splits).encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """A run's tags for its data; `data_digest` covers all splits."""
        return {
            "dataset": self.name,
            "data_digest": self.digest,
            "validation_digest": self.validation.digest,
            "validation_scheme": "hold-out of the training split"
            if self.test
            else "train=False split",
        }
