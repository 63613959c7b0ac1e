"""Whether a data set is one that can be trained on."""

from collections import Counter

import torch
from torch import Tensor

from pipeline.config import check_text
from pipeline.data.dataset import ImageDataset, Split, size_of
from pipeline.errors import InputError
from pipeline.machine import GIB, free_memory

MAX_CHANNELS = 4


def check_dataset(data: ImageDataset) -> None:
    """Check a data set as it was loaded; one that is derived from it may lack classes.

    Reads the labels, but no pixel.

    Raises InputError that says what is wrong and what would be right.
    """
    for name, split in data.splits.items():
        check_split(name, split)
        shape = split.images.shape[1:]
        if shape != data.image_shape:
            raise InputError(
                f"the {name} images are {size_of(shape)}, and the training images"
                f" {size_of(data.image_shape)}; all must have the same size and channels"
            )
    _check_names(data)
    for name, split in data.splits.items():
        for label in map(int, split.labels.aminmax()):
            if not 0 <= label < data.num_classes:
                raise InputError(
                    f"a {name} label is {label}; with {data.num_classes} classes, labels must be"
                    f" from 0 to {data.num_classes - 1}"
                )
    counts = torch.bincount(data.training.labels, minlength=data.num_classes).tolist()
    if 0 in counts:
        name = data.class_names[counts.index(0)]
        raise InputError(
            f"no training image is of class {name!r}; every class must have at least one"
        )


def check_memory(needed: int) -> None:
    """Raise InputError unless so many bytes of images fit into the free memory."""
    free = free_memory()
    if needed > free:
        raise InputError(
            f"the images take {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB of memory is free;"
            " this project holds all images in memory"
        )


def check_split(name: str, split: Split) -> None:
    """Raise InputError, which calls the split `name`, for what is no images and labels."""
    images, labels = split.images, split.labels
    if images.dtype != torch.uint8 or images.ndim != 4 or not 1 <= images.shape[-1] <= MAX_CHANNELS:
        raise InputError(
            f"the {name} images are {_form(images)}; they must be uint8 [N, H, W, C] with 1 to"
            f" {MAX_CHANNELS} channels C, the channels last"
        )
    if not images.numel():
        raise InputError(
            f"the {name} images are {_form(images)}; there must be at least one image, of at least"
            " one pixel"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise InputError(
            f"the {name} labels are {_form(labels)} for {len(images)} images; they must be"
            f" int64 [{len(images)}], one for each image"
        )


def _form(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _check_names(data: ImageDataset) -> None:
    for names in (data.class_names, data.superclass_names):
        for name, count in Counter(names).items():
            check_text("a class name", name)
            if count > 1:
                raise InputError(
                    f"the class name {name!r} occurs {count} times; all must be different"
                )
    if data.num_classes < 2:
        raise InputError(f"the number of classes is {data.num_classes}; it must be at least 2")
    groups = range(len(data.superclass_names))
    known = all(group in groups for group in data.superclass_of)
    if not known or len(data.superclass_of) != (data.num_classes if groups else 0):
        raise InputError(
            f"superclass_of has {len(data.superclass_of)} numbers and superclass_names"
            f" {len(groups)} names; superclass_of must have the number of a superclass, from 0,"
            f" for each of the {data.num_classes} classes, or both must be empty"
        )
