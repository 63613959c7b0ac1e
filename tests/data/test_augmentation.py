"""The batched transforms against torchvision's, image by image and bit for bit."""

from collections.abc import Callable

import pytest
import torch
from conftest import REAL_DATA, needs_real_data
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.datasets import CIFAR100
from torchvision.transforms import RandomCrop, RandomRotation
from torchvision.transforms import functional as tv

from pipeline.data.augmentation import AugmentationParameters, augment, draw_parameters, normalise
from pipeline.data.transforms import training_transform, validation_transform


def generated_images(count: int) -> Tensor:
    """Noise: neighbouring pixels differ, so that a pixel from the wrong place is seen."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)


def cifar100_images(count: int) -> Tensor:
    return torch.from_numpy(CIFAR100(REAL_DATA, train=False).data[:count])


def pil_image(image: Tensor) -> Image.Image:
    return Image.fromarray(image.numpy())


def specified(images: Tensor, parameters: AugmentationParameters) -> Tensor:
    """Apply torchvision's functions to one image after the other."""
    results = []
    for image, flip, angle, top, left in zip(
        images, *(drawn.tolist() for drawn in parameters), strict=True
    ):
        result = tv.to_tensor(pil_image(image))
        if flip:
            result = tv.hflip(result)
        result = tv.rotate(result, angle, fill=[0.0])
        result = tv.crop(tv.pad(result, [4]), top, left, 32, 32)
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


def test_normalise_is_the_validation_transform() -> None:
    images = generated_images(50)
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
