"""Build what a run trains, and what trains it, as its ablation says."""

from dataclasses import replace
from functools import cache, partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pipeline.ablation.definition import Part, Value
from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.randomness import Stream, seed_generators
from pipeline.training.building.weights import build_by_names, stream_names, unlike
from pipeline.training.device import compute_exactly, keep_freed_memory
from pipeline.training.network import CNNNetwork

Settings = tuple[tuple[str, Value], ...]


def prepare(
    config: Config, data: ImageDataset, device: torch.device
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Return a new network on `device`, and the ablation's criterion and optimiser for it."""
    compute_exactly()
    keep_freed_memory()
    ablation, variant = load_ablation(config.ablation), config.variant
    network = build_network(config, data).to(device)
    criterion = make_criterion(config).to(device)
    every = (*network.parameters(), *criterion.parameters())
    trained = [parameter for parameter in every if parameter.requires_grad]
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("the network has no parameter to train; requires_grad is False for all")
    settings = ablation.arguments(ablation.optimizer, variant)
    return network, criterion, ablation.optimizer(trained, lr=config.lr, **settings)


def make_criterion(config: Config) -> nn.Module:
    """Return the ablation's criterion, on the CPU, with the initial weights of the seed."""
    ablation = load_ablation(config.ablation)
    seed_generators(config.seed, Stream.CRITERION)
    criterion = ablation.make(ablation.criterion, config.variant)
    if not isinstance(criterion, nn.Module):
        raise InputError(f"criterion returns {criterion!r}; it must be a torch.nn.Module")
    return criterion


def schedule_of(
    config: Config, optimizer: Optimizer, steps_per_epoch: int
) -> tuple[LRScheduler | None, bool]:
    """Return the ablation's scheduler, and whether it takes a step after each batch.

    It does if the schedule has a parameter `steps_per_epoch`; else it takes one after each epoch.
    Raises InputError if it returns anything else.
    """
    ablation = load_ablation(config.ablation)
    if not ablation.schedule:
        return None, False
    facts = {"steps_per_epoch": steps_per_epoch}
    each_batch = "steps_per_epoch" in signature(ablation.schedule).parameters
    scheduler = ablation.make(ablation.schedule, config.variant, optimizer, config.epochs, **facts)
    if not isinstance(scheduler, LRScheduler):
        raise InputError(f"schedule returns {scheduler!r}; it must be a scheduler of torch")
    return scheduler, each_batch


def build_network(config: Config, data: ImageDataset) -> nn.Module:
    """Return the network of a variant, on the CPU, with the initial weights of the seed."""
    build, settings = load_ablation(config.ablation).network, network_settings(config, data)
    network: nn.Module
    if build is CNNNetwork:  # what its variants add draws no random numbers
        seed_generators(config.seed, Stream.WEIGHTS)
        network = build(**settings)  # type: ignore[arg-type]
    else:
        baseline = network_settings(baseline_of(config), data)
        kinds = tuple(settings.items()), tuple(baseline.items())
        names = _stream_names(build, *kinds, config.seed)
        network = build_by_names(lambda: build(**settings), config.seed, names)
    # Convolutions are faster in this order, which the images already have in memory.
    if _computes_in_channels_last(build, tuple(settings.items()), data.image_shape):
        return network.to(memory_format=torch.channels_last)
    network.register_forward_pre_hook(_in_default_order)
    return network


@cache
def _stream_names(
    build: Part,
    settings: Settings,
    baseline: Settings,
    seed: int,
) -> list[str]:
    build_baseline = None if settings == baseline else partial(build, **dict(baseline))
    return stream_names(partial(build, **dict(settings)), seed, build_baseline)


def baseline_of(config: Config) -> Config:
    """The configuration of the same run of the ablation's first variant."""
    return replace(config, variant=next(iter(load_ablation(config.ablation).variants)))


def unlike_baseline(config: Config, data: ImageDataset, network: nn.Module) -> list[str]:
    """The parameters of a network that do not start out as the baseline's (see `weights.unlike`).

    network: as `build_network` returns it.
    """
    return unlike(network, build_network(baseline_of(config), data))


@cache
def _computes_in_channels_last(
    build: Part, settings: Settings, image_shape: tuple[int, int, int]
) -> bool:
    """Whether a network computes images in channels_last order; a `view` in it may prevent that."""
    network = build(**dict(settings)).to(memory_format=torch.channels_last).eval()
    height, width, channels = image_shape
    # PyTorch takes other convolutions for fewer images.
    images = torch.zeros(32, height, width, channels).permute(0, 3, 1, 2)
    try:
        with torch.no_grad():
            network(images)
            with torch.autocast("cpu", torch.bfloat16):
                network(images)
    except Exception:  # whatever the network raises; the trial reports what is not about order
        return False
    return True


def _in_default_order(_: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    # Not `contiguous`, which leaves strides alone that are right in both orders.
    return (images[0].clone(memory_format=torch.contiguous_format),)


def network_settings(config: Config, data: ImageDataset) -> dict[str, Value]:
    """Return what the network is built with: its variant's settings, and what it takes of these."""
    ablation = load_ablation(config.ablation)
    facts = {"num_classes": data.num_classes, "in_channels": data.image_shape[2]}
    return ablation.arguments(ablation.network, config.variant, **facts)
