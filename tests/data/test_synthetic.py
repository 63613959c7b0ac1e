"""The built-in data set: the same bytes everywhere, balanced, and safe to flip."""

import numpy as np
import pytest
import torch

from pipeline.data.checks import check_dataset
from pipeline.data.dataset import ImageDataset
from pipeline.data.synthetic import figure, generate

TRAINING_DIGEST = "10fd86d8be8e8dd47aacbf42be946dcb7f929b22fb445e32277b5dfff5818c42"
VALIDATION_DIGEST = "8090c0a8b8a68bfcc5c687ef985bb78897943e397115f72aa00ce993fb6b37a8"


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return generate()


def test_bytes_are_those_of_every_other_machine(data: ImageDataset) -> None:
    assert data.training.digest == TRAINING_DIGEST
    assert data.validation.digest == VALIDATION_DIGEST


@pytest.mark.parametrize("count", [1, 128, 512])
def test_fewer_images_are_the_first_ones_of_more(data: ImageDataset, count: int) -> None:
    small = generate(count, count)
    assert small.training.digest == data.training.first(count).digest
    assert small.validation.digest == data.validation.first(count).digest


def test_each_hundred_images_hold_every_class_once_in_an_order_of_their_own(
    data: ImageDataset,
) -> None:
    labels = torch.cat([data.training.labels, data.validation.labels]).view(-1, 100)
    assert torch.equal(labels.sort(dim=1).values, torch.arange(100).expand_as(labels))
    assert len({tuple(order) for order in labels.tolist()}) == len(labels)
    assert not (labels == torch.arange(100)).all(dim=1).any()


def test_no_image_occurs_twice_within_or_across_the_splits(data: ImageDataset) -> None:
    images = torch.cat([data.training.images, data.validation.images])
    assert len({image.tobytes() for image in images.numpy()}) == 12_000


def test_splits_and_names_have_the_form_of_cifar100(data: ImageDataset) -> None:
    assert data.name == "synthetic"
    check_dataset(data)
    assert (data.image_shape, data.num_classes) == ((32, 32, 3), 100)
    assert data.nbytes == 12_000 * (32 * 32 * 3 + 8)
    for split, count in ((data.training, 10_000), (data.validation, 2_000)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (count,)
        assert split.labels.dtype == torch.int64
    assert len(set(data.class_names)) == 100
    assert len(set(data.superclass_names)) == 20
    assert np.bincount(data.superclass_of).tolist() == [5] * 20
    for class_name, superclass in zip(data.class_names, data.superclass_of, strict=True):
        assert class_name.startswith(data.superclass_names[superclass] + "-")


def test_classes_differ_and_a_mirrored_figure_stays_in_its_class() -> None:
    y, x = np.mgrid[-1200:1201:50, -1200:1201:50].astype(np.int32)
    drawings = set()
    for label in range(100):
        inside, patterned = figure(label, x, y)
        drawing = inside + (inside & patterned).astype(np.uint8)
        mirrored_inside, mirrored_patterned = figure(label, -x, y)
        mirrored = mirrored_inside + (mirrored_inside & mirrored_patterned).astype(np.uint8)
        assert np.array_equal(drawing, drawing[:, ::-1])
        assert np.array_equal(drawing, mirrored)
        drawings.add(drawing.tobytes())
    assert len(drawings) == 100


def test_it_says_that_it_is_not_of_photographs(data: ImageDataset) -> None:
    assert data.caveat == (
        "Anything about photographs: the built-in images are drawn shapes, which show that the"
        " pipeline works."
    )
