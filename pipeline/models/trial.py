"""Try each variant on a few images before any training: what fails now would fail after hours."""

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import replace
from io import BytesIO, StringIO
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pipeline.ablation.definition import Settings
from pipeline.ablation.loading import explain, load_ablation
from pipeline.ablation.recording import record_inputs
from pipeline.config import Config
from pipeline.data.augmentation import Augmentation, normalise
from pipeline.data.dataset import ImageDataset, Split
from pipeline.errors import InputError
from pipeline.models.export import PixelClassifier, export_network, portable_network
from pipeline.models.safety import check_archive
from pipeline.training.batches import TrainingBatches
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.loop import build_network, fast_step, network_settings, prepare

T = TypeVar("T")
CPU = torch.device("cpu")


def try_variants(config: Config, data: ImageDataset, variants: Iterable[str]) -> None:
    """Build, train and export the network of each variant, on up to three images.

    Raises InputError, naming the variant, if its network can't be built, repeated or exported, if
    it does not return finite logits `[N, num_classes]`, or if a part of its recipe fails. Prints a
    warning if training does not reach a parameter.
    """
    ablation = load_ablation(config.ablation)
    record_inputs(config, data, ablation)
    baseline = next(iter(ablation.variants))
    # Each run compares its initial weights with the baseline's.
    _attempt(baseline, "its network can't be built", build_network, _of(config, baseline), data)
    for variant in variants:
        _try_network(_of(config, variant), data)


def _of(config: Config, variant: str) -> Config:
    return replace(config, variant=variant)


def _attempt(variant: str, what: str, action: Callable[..., T], *arguments: object) -> T:
    """Return what `action` returns, or say in one line what fails."""
    try:
        return action(*arguments)
    except Exception as error:  # whatever the user's code raises
        reason = str(error) if isinstance(error, InputError) else explain(error)
        raise InputError(f"variant {variant!r}: {what}: {reason}") from None


def _try_network(config: Config, data: ImageDataset) -> None:
    name = config.variant
    network = _attempt(name, "its network can't be built", build_network, config, data)
    _attempt(name, "its initial weights can't be repeated", _check_repeated, network, config, data)
    _attempt(name, "its network fails on images", _check_outputs, network, data)
    unreached = _attempt(name, "it can't be trained", _train_once, config, data)
    if unreached:
        print(
            f"warning: variant {name!r}: training does not reach {', '.join(unreached)}",
            file=sys.stderr,
        )
    settings = network_settings(config, data)
    _attempt(name, "it can't be exported as pt2", _check_export, network, settings, data)


def _check_repeated(network: nn.Module, config: Config, data: ImageDataset) -> None:
    again = build_network(config, data).state_dict()
    for name, value in network.state_dict().items():
        if not torch.equal(value, again[name]):
            raise InputError(f"{name} differs with the same seed; draw from torch alone")


@torch.no_grad()
def _check_outputs(network: nn.Module, data: ImageDataset) -> None:
    network.eval()
    images = normalise(_pixels(data, 2))
    for count in (2, 1):
        found, shape = network(images[:count]), (count, data.num_classes)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"for {count} images it returns {got} instead of {list(shape)}: a logit for each"
                " class (a parameter num_classes of the network is set to their number)"
            )
        if not found.isfinite().all():
            raise InputError("it returns numbers that are not finite")
    if not torch.equal(network(images), network(images)):
        raise InputError("it returns other numbers at the second call, although in eval mode")


def _train_once(config: Config, data: ImageDataset) -> list[str]:
    """Take a step as in training, and return the parameters that it does not reach."""
    ablation, variant = load_ablation(config.ablation), config.variant
    augmentation = ablation.augmentation_of(variant)
    if not isinstance(augmentation, Augmentation):
        raise InputError(f"augmentation returns {augmentation!r}; it must be an Augmentation")
    network, criterion, optimizer = prepare(config, data, CPU)
    precision = choose_precision(config.precision, choose_device(config.device))
    step = fast_step(network, criterion, optimizer, precision, config.batch_size)
    scheduler = None
    if ablation.schedule:
        scheduler = ablation.make(ablation.schedule, variant, optimizer, config.epochs)
        if not isinstance(scheduler, LRScheduler):
            raise InputError(f"schedule returns {scheduler!r}; it must be a scheduler of torch")
    network.train()
    for count in (1, 2) if len(data.training) % config.batch_size == 1 else (2,):
        labels = data.training.labels[torch.arange(count) % len(data.training)]
        split = Split(_pixels(data, count), labels)
        ((images, targets),) = TrainingBatches(split, count, config.seed, CPU, augmentation)
        try:
            step(images, targets)
        except ValueError as error:
            if count > 1:
                raise
            raise InputError(
                f"{error}; choose a batch_size that does not leave one image over"
            ) from None
    if scheduler:
        scheduler.step()
    return [n for n, one in network.named_parameters() if one.requires_grad and one.grad is None]


@torch.no_grad()
def _check_export(network: nn.Module, settings: Settings, data: ImageDataset) -> None:
    """Export the network with two images as an example, and compute three with it."""
    archive = BytesIO()
    with redirect_stderr(StringIO()):  # torch also prints the program that it can't export
        program = export_network(portable_network(network), settings, data)
        torch.export.save(program, archive)
    check_archive(archive.getvalue())
    archive.seek(0)
    exported, pixels = torch.export.load(archive).module(), _pixels(data, 3)
    try:
        found = exported(pixels)
    except Exception:  # of many kinds
        raise InputError(
            "it then takes 2 images only, as in the example; `len(x)` in a network does that,"
            " `x.size(0)` or `torch.flatten(x, 1)` does not"
        ) from None
    if not torch.allclose(found, PixelClassifier(network)(pixels), atol=1e-4):
        raise InputError("what is exported computes other numbers than the network")


def _pixels(data: ImageDataset, count: int) -> Tensor:
    """The first training images, again and again if there are fewer."""
    return data.training.images[torch.arange(count) % len(data.training)]
