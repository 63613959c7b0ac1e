"""What every data set looks like to the rest of the project: uint8 images held in memory."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

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

        MLflow's own digest reads the first 10,000 numbers only: three images.
        """
        sha = hashlib.sha256(self.images.contiguous().numpy().data)
        sha.update(self.labels.contiguous().numpy().data)
        return sha.hexdigest()

    def first(self, count: int) -> "Split":
        """Return the first `count` images as a split of their own."""
        return Split(self.images[:count], self.labels[:count])


# Validation is the data set's `train=False` split, read after every epoch.
VALIDATION_SCHEME = "train=False split"


@dataclass(frozen=True)
class ImageDataset:
    """A training and a validation split, and the names of what they show.

    class_names: the 100 fine classes, by label.
    superclass_names: the 20 coarse classes.
    superclass_of: for each of the 100 fine labels its coarse label.
    source: the address it is published at; None for data that the project draws itself.
    """

    name: str
    training: Split
    validation: Split
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of: tuple[int, ...]
    source: str | None

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of both splits' digests."""
        return hashlib.sha256((self.training.digest + self.validation.digest).encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of its data: `data_digest` is over both splits."""
        return {
            "dataset": self.name,
            "data_digest": self.digest,
            "validation_digest": self.validation.digest,
            "validation_scheme": VALIDATION_SCHEME,
        }
