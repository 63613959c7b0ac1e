"""The batched transforms against torchvision's, image by image and bit for bit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import REAL_DATA, needs_real_data
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.datasets import CIFAR100
from torchvision.transforms import RandomCrop, RandomRotation
from torchvision.transforms import functional as tv

from pipeline.data.augmentation import (
    NO_AUGMENTATION,
    TUTORIAL,
    Augmentation,
    AugmentationParameters,
    augment,
    draw_parameters,
    normalise,
)
from pipeline.data.transforms import training_transform, validation_transform
from pipeline.errors import InputError

Shape = tuple[int, int, int]


def generated_images(count: int, shape: Shape = (32, 32, 3)) -> Tensor:
    """Noise: neighbouring pixels differ, so that a pixel from the wrong place is seen."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)


def cifar100_images(count: int) -> Tensor:
    return torch.from_numpy(CIFAR100(REAL_DATA, train=False).data[:count])


def pil_image(image: Tensor) -> Image.Image:
    return Image.fromarray(image.squeeze(-1).numpy())


def specified(
    images: Tensor, parameters: AugmentationParameters, augmentation: Augmentation = TUTORIAL
) -> Tensor:
    """Apply torchvision's functions to one image after the other."""
    results = []
    height, width = images.shape[1:3]
    for image, flip, angle, top, left in zip(
        images, *(drawn.tolist() for drawn in parameters), strict=True
    ):
        result = tv.to_tensor(pil_image(image))
        if flip and augmentation.flip:
            result = tv.hflip(result)
        if augmentation.rotation:
            result = tv.rotate(result, angle, fill=[0.0])
        if augmentation.padding:
            result = tv.crop(tv.pad(result, [augmentation.padding]), top, left, height, width)
        results.append(tv.normalize(result, [0.5], [0.5]))
    return torch.stack(results)


def parameters_of(*sets: tuple[bool, float, int, int]) -> AugmentationParameters:
    flip, angle, top, left = zip(*sets, strict=True)
    return AugmentationParameters(*map(torch.tensor, (flip, angle, top, left)))


@pytest.mark.parametrize(
    "source", [generated_images, pytest.param(cifar100_images, marks=needs_real_data)]
)
def test_augment_equals_torchvision_on_drawn_parameters(source: Callable[[int], Tensor]) -> None:
    images = source(2000)
    parameters = draw_parameters(len(images), torch.Generator().manual_seed(1))
    assert torch.equal(augment(images, parameters), specified(images, parameters))


def test_augment_equals_torchvision_at_the_extremes() -> None:
    parameters = parameters_of(
        *(
            (flip, angle, top, left)
            for flip in (False, True)
            for angle in (-15.0, 0.0, 15.0)
            for top in (0, 4, 8)
            for left in (0, 4, 8)
        )
    )
    images = generated_images(len(parameters.flip))
    assert torch.equal(augment(images, parameters), specified(images, parameters))


SETTINGS = [
    TUTORIAL,
    Augmentation(flip=False),
    Augmentation(rotation=0),
    Augmentation(padding=0),
    Augmentation(flip=False, rotation=180, padding=0),
    Augmentation(flip=False, rotation=0, padding=1),
    Augmentation(rotation=90.5, padding=20),
    NO_AUGMENTATION,
]
SHAPES = [(32, 32, 3), (28, 28, 1), (17, 40, 4), (48, 64, 3), (96, 33, 3), (5, 3, 2), (1, 1, 1)]


@pytest.mark.parametrize("augmentation", SETTINGS, ids=lambda setting: setting.description)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_augment_equals_torchvision_for_every_size_and_setting(
    shape: Shape, augmentation: Augmentation
) -> None:
    images = generated_images(100, shape)
    parameters = draw_parameters(100, torch.Generator().manual_seed(1), augmentation)
    result = augment(images, parameters, augmentation)
    assert torch.equal(result, specified(images, parameters, augmentation))
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_no_augmentation_is_what_validation_sees() -> None:
    images = generated_images(100)
    parameters = draw_parameters(100, torch.Generator().manual_seed(1), NO_AUGMENTATION)
    assert torch.equal(augment(images, parameters, NO_AUGMENTATION), normalise(images))


@pytest.mark.parametrize("part", [{"flip": False}, {"rotation": 0}, {"rotation": 90}])
def test_augmentations_that_differ_in_one_part_share_the_draws_of_the_others(
    part: dict[str, float],
) -> None:
    first, second = (
        draw_parameters(1000, torch.Generator().manual_seed(1), augmentation)
        for augmentation in (TUTORIAL, replace(TUTORIAL, **part))  # type: ignore[arg-type]
    )
    assert torch.equal(first.flip, second.flip)
    assert torch.equal(first.angle, second.angle) == ("rotation" not in part)
    assert torch.equal(first.top, second.top)
    assert torch.equal(first.left, second.left)


@pytest.mark.parametrize("padding", [0, 1, 8])
def test_a_crop_of_another_size_leaves_flip_and_rotation_as_they_were(padding: int) -> None:
    first, second = (
        draw_parameters(1000, torch.Generator().manual_seed(1), augmentation)
        for augmentation in (TUTORIAL, Augmentation(padding=padding))
    )
    assert torch.equal(first.flip, second.flip)
    assert torch.equal(first.angle, second.angle)
    for offsets in (second.top, second.left):
        assert (int(offsets.min()), int(offsets.max())) == (0, 2 * padding)


@pytest.mark.parametrize(
    ("augmentation", "description"),
    [
        (TUTORIAL, "flip, rotation up to 15°, crop with 4 pixels of padding"),
        (
            Augmentation(flip=False, rotation=7.5, padding=1),
            "rotation up to 7.5°, crop with 1 pixel of padding",
        ),
        (Augmentation(rotation=0, padding=0), "flip"),
        (NO_AUGMENTATION, "none"),
    ],
)
def test_an_augmentation_is_described_in_words(
    augmentation: Augmentation, description: str
) -> None:
    assert augmentation.description == description


@pytest.mark.parametrize("rotation", [-1, 180.5, float("nan"), float("inf")])
def test_a_rotation_outside_half_a_turn_is_rejected(rotation: float) -> None:
    with pytest.raises(InputError, match=r"rotation is .*; it must be from 0 to 180 degrees"):
        Augmentation(rotation=rotation)


def test_a_negative_padding_is_rejected() -> None:
    with pytest.raises(InputError, match="padding is -1; it must be at least 0 pixels"):
        Augmentation(padding=-1)


def test_crop_does_not_bring_back_what_the_rotation_cut_off() -> None:
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    result = augment(white, parameters_of((False, 15.0, 8, 4)))
    # The crop's last four rows lie in the padding. Before the rotation cut it off, a corner of the
    # white square reached into them.
    assert (result[..., 28:, :] == -1).all()
    assert (result[..., 27, :] == 1).any()


@pytest.mark.parametrize("count", [1, 300])
def test_augment_gives_float32_in_channels_last_for_any_batch_size(count: int) -> None:
    images = generated_images(count)
    for result in (
        augment(images, draw_parameters(count, torch.Generator().manual_seed(2))),
        normalise(images),
    ):
        assert result.shape == (count, 3, 32, 32)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_training_transform_is_augment_on_the_same_draws() -> None:
    images = generated_images(50)
    torch.manual_seed(3)
    expected = torch.stack([training_transform(pil_image(image)) for image in images])

    torch.manual_seed(3)
    padded = torch.empty(3, 40, 40)
    replayed = parameters_of(
        *(
            (
                bool(torch.rand(1) < 0.5),
                RandomRotation.get_params([-15.0, 15.0]),
                *RandomCrop.get_params(padded, (32, 32))[:2],
            )
            for _ in images
        )
    )
    assert torch.equal(augment(images, replayed), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_normalise_is_the_validation_transform(channels: int) -> None:
    images = generated_images(50, (32, 32, channels))
    assert set(images.flatten().tolist()) == set(range(256))
    expected = torch.stack([validation_transform(pil_image(image)) for image in images])
    assert torch.equal(normalise(images), expected)


def test_drawn_parameters_have_the_specified_distribution() -> None:
    count = 100_000
    flip, angle, top, left = draw_parameters(count, torch.Generator().manual_seed(4))
    assert stats.binomtest(int(flip.sum()), count, 0.5).pvalue > 0.01
    assert stats.kstest(angle.numpy(), stats.uniform(-15, 30).cdf).pvalue > 0.01
    # All 81 pairs alike: each offset is uniform, and neither depends on the other.
    pairs = torch.bincount(9 * top + left, minlength=81)
    assert len(pairs) == 81
    assert (int(left.min()), int(left.max())) == (0, 8)
    assert stats.chisquare(pairs.numpy()).pvalue > 0.01


def test_drawn_parameters_follow_the_generator() -> None:
    first, again, other = (
        draw_parameters(100, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
