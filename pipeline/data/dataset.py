"""What every data set looks like to the rest of the project: uint8 images held in memory."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.strata import first_of_each_class, tenth_of_each_class
from pipeline.errors import InputError, plural

TEST_SPLIT = "train=False split"  # a run's validation scheme, if nothing is held out


def size_of(image_shape: Sequence[int]) -> str:
    """The size `[H, W, C]` of an image in words, the width first: `12x8 pixels, 1 channel`."""
    height, width, channels = image_shape
    return f"{width}x{height} pixels, {plural(channels, 'channel')}"


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    images: uint8 `[N, H, W, C]`, as every image library gives them, with 1 to 4 channels.
    labels: int64 `[N]`, the class, from 0.
    """

    images: Tensor
    labels: Tensor

    @staticmethod
    def from_numpy(name: str, images: NDArray[Any], labels: NDArray[Any]) -> "Split":
        """Convert uint8 `[N, H, W]` or `[N, H, W, C]` and integers `[N]`; copy only if necessary.

        Raises InputError, which calls the split `name`, for arrays of another type.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise InputError(
                f"the {name} images are {images.dtype} {list(images.shape)}; they must be uint8"
                " [N, H, W] or [N, H, W, C]"
            )
        if labels.dtype.kind not in "iu":
            raise InputError(f"the {name} labels are {labels.dtype}; they must be integers")
        images = images if images.ndim == 4 else images[..., None]
        # torch warns of an array that can't be written to, and refuses negative strides.
        images = np.require(images, requirements=["C", "W"])
        labels = np.require(labels, np.int64, requirements=["C", "W"])
        return Split(torch.from_numpy(images), torch.from_numpy(labels))

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

    def first_of_each_class(self, count: int) -> "Split":
        """Return `count` images, in order: of each class the first ones, its share of them."""
        return self.only(first_of_each_class(self.labels.numpy(), count))

    def only(self, chosen: NDArray[np.bool_]) -> "Split":
        """Return the images where the mask `chosen`, bool `[N]`, is true, in order."""
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class ImageDataset:
    """A training and a validation split, and the names of their classes.

    validation: the data set's `train=False` split. After `hold_out` it is part of the training
    split, and the `train=False` split is `test`, which is None otherwise.
    class_names: the classes, by label.
    superclass_names: the groups of classes, if there are any.
    superclass_of: the number of each class's superclass, by label.
    name: what runs and models are called after.
    source: the address it is published at; None if there is none.
    caveat: for data that are not real, what a study of them can't say, as a noun phrase.
    left_out: how many training images the setting `train_images` leaves out.
    whole_digest: after `hold_out`, the digest of the data set as it was before; empty otherwise.
    """

    training: Split
    validation: Split
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...] = ()
    superclass_of: tuple[int, ...] = ()
    name: str = ""
    source: str | None = None
    caveat: str = ""
    test: Split | None = None
    left_out: int = 0
    whole_digest: str = ""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width of an image in pixels, and its channels."""
        height, width, channels = self.training.images.shape[1:]
        return height, width, channels

    @property
    def description(self) -> str:
        """In words: `90 training and 30 validation images, 8x8 pixels, 1 channel, 10 classes`."""
        counts = " and ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return f"{counts} images, {size_of(self.image_shape)}, {self.num_classes} classes"

    @property
    def total(self) -> int:
        """How many training images there are, with those that are held or left out."""
        return self.left_out + len(self.training) + (len(self.validation) if self.test else 0)

    @property
    def heading(self) -> str:
        """Name and description; before that, how many training images are used if not all are."""
        used = self.total - self.left_out
        few = f", {used:,} of {self.total:,} images" if self.left_out else ""
        return f"{self.name}{few}: {self.description}"

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name; `test` only after `hold_out`."""
        splits = {"training": self.training, "validation": self.validation}
        return {**splits, "test": self.test} if self.test else splits

    @property
    def nbytes(self) -> int:
        """Bytes that the images and labels of all splits take in memory."""
        return sum(split.images.nbytes + split.labels.nbytes for split in self.splits.values())

    def hold_out(self, seed: int = 0) -> "ImageDataset":
        """Hold out a tenth of the training images of each class, for model selection.

        They are the same in every run of the same `seed`: at least one of each class, unless it has
        only that one.

        Raises InputError if all have only one.
        """
        held_out = tenth_of_each_class(self.training.labels.numpy(), seed)
        if not held_out.any():
            raise InputError(
                "no class has two training images to hold one out; use validation=test"
            )
        return replace(
            self,
            training=self.training.only(~held_out),
            validation=self.training.only(held_out),
            test=self.validation,
            whole_digest=self.digest,
        )

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the splits' digests."""
        digests = "".join(split.digest for split in self.splits.values())
        return hashlib.sha256(digests.encode()).hexdigest()

    @property
    def validation_scheme(self) -> str:
        """On which images networks are validated, in words."""
        return "hold-out of the training split" if self.test else TEST_SPLIT

    @property
    def identity(self) -> dict[str, str]:
        """What tells the data set from others: its bytes, its shape, and its classes' names."""
        names = [self.class_names, self.superclass_names, self.superclass_of]
        return {
            "data_digest": self.digest,
            "images": self.description,
            "names_digest": hashlib.sha256(json.dumps(names, default=int).encode()).hexdigest(),
        }

    @property
    def tags(self) -> dict[str, str]:
        """A run's tags for its data; `data_digest` covers all splits."""
        return {
            "dataset": self.name,
            **self.identity,
            "total_images": str(self.total),
            "validation_digest": self.validation.digest,
            "validation_scheme": self.validation_scheme,
        }
