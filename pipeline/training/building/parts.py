"""Build what a run trains, and what trains it, as its ablation says."""

from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pipeline.ablation.definition import Arguments, Fact, Part
from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.randomness import Stream, seed_generators
from pipeline.training.building.weights import build_by_names, stream_names, unlike
from pipeline.training.device import compute_exactly, keep_freed_memory
from pipeline.training.network import CNNNetwork

Settings = tuple[tuple[str, Fact], ...]


def prepare(
    config: Config, data: ImageDataset, device: torch.device
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Return a new network on `device`, and the ablation's criterion and optimiser for it."""
    compute_exactly()
    keep_freed_memory()
    ablation, variant = load_ablation(config.ablation), config.variant
    network = build_network(config, data).to(device)
    if device.type == "mps":  # where nobody has tried another order
        network.to(memory_format=torch.contiguous_format)
        network.register_forward_pre_hook(_in_default_order)
    criterion = make_criterion(config).to(device)
    every = (*network.parameters(), *criterion.parameters())
    trained = [parameter for parameter in every if parameter.requires_grad]
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("the network has no parameter to train; requires_grad is False for all")
    settings = ablation.arguments(ablation.optimizer, variant)
    return network, criterion, ablation.optimizer(trained, lr=config.lr, **settings)


def make_criterion(config: Config) -> nn.Module:
    """Return the ablation's criterion, on the CPU, with the initial weights of the seed."""
    build = load_ablation(config.ablation).criterion
    each = [_criterion_settings(one) for one in _up_to(config)]
    seed_generators(config.seed, Stream.CRITERION)
    criterion: nn.Module = build(**each[-1])
    if not isinstance(criterion, nn.Module):
        raise InputError(f"criterion returns {criterion!r}; it must be a torch.nn.Module")
    if not any(True for _ in criterion.parameters()):
        return criterion
    names = _stream_names(build, *map(_frozen, each), seed=config.seed, stream=Stream.CRITERION)
    return build_by_names(partial(build, **each[-1]), config.seed, names, Stream.CRITERION)


def schedule_of(
    config: Config, optimizer: Optimizer, steps_per_epoch: int
) -> tuple[LRScheduler | None, bool]:
    """Return the variant's scheduler, if it has one, and whether it takes a step after each batch.

    It does if the schedule has a parameter `steps_per_epoch`; else it takes one after each epoch.
    Raises InputError if the schedule returns neither a scheduler nor None.
    """
    ablation = load_ablation(config.ablation)
    if not ablation.schedule:
        return None, False
    facts = {"steps_per_epoch": steps_per_epoch}
    each_batch = "steps_per_epoch" in signature(ablation.schedule).parameters
    scheduler = ablation.make(ablation.schedule, config.variant, optimizer, config.epochs, **facts)
    if not isinstance(scheduler, LRScheduler | None):
        raise InputError(
            f"schedule returns {scheduler!r}; it must be a scheduler of torch, or None"
        )
    return scheduler, each_batch


def has_schedule(config: Config, data: ImageDataset) -> bool:
    """Whether the ablation's schedule has a scheduler for the variant."""
    if not load_ablation(config.ablation).schedule:
        return False
    *_, optimizer = prepare(config, data, torch.device("cpu"))
    return schedule_of(config, optimizer, steps_of(config, data))[0] is not None


def steps_of(config: Config, data: ImageDataset) -> int:
    """How many steps an epoch has; the last one may have fewer images."""
    return -(-len(data.training) // config.batch_size)


def build_network(config: Config, data: ImageDataset) -> nn.Module:
    """Return the network of a variant, on the CPU, with the initial weights of the seed."""
    build = load_ablation(config.ablation).network
    each = [network_settings(one, data) for one in _up_to(config)]
    settings = each[-1]
    network: nn.Module
    if build is CNNNetwork:  # what its variants add draws no random numbers
        seed_generators(config.seed, Stream.WEIGHTS)
        network = build(**settings)  # type: ignore[arg-type]
    else:
        names = _stream_names(build, *map(_frozen, each), seed=config.seed, stream=Stream.WEIGHTS)
        network = build_by_names(partial(build, **settings), config.seed, names)
    # Convolutions are faster in this order, which the images already have in memory.
    if _computes_in_channels_last(build, _frozen(settings), data.image_shape):
        return network.to(memory_format=torch.channels_last)
    network.register_forward_pre_hook(_in_default_order)
    return network


@cache
def _stream_names(build: Part, *each: Settings, seed: int, stream: Stream) -> list[str]:
    """`stream_names` for variants with these settings; equal ones are one."""
    earlier = [one for one in dict.fromkeys(each) if one != each[-1]]
    return stream_names([partial(build, **dict(one)) for one in (*earlier, each[-1])], seed, stream)


def _frozen(settings: Arguments) -> Settings:
    return tuple(settings.items())


def _up_to(config: Config) -> list[Config]:
    """The configurations of the same run of the ablation's variants, up to this one."""
    variants = list(load_ablation(config.ablation).variants)
    return [replace(config, variant=v) for v in variants[: variants.index(config.variant) + 1]]


def unlike_earlier(config: Config, data: ImageDataset, network: nn.Module) -> dict[str, list[str]]:
    """What does not start out as in an earlier variant, by that one's name (see `weights.unlike`).

    That is of the parameters and buffers of network and criterion.

    network: as `build_network` returns it.
    """
    criterion = make_criterion(config)
    found = {}
    for one in _up_to(config)[:-1]:
        with suppress(Exception):  # a variant that can't be built is reported if it is asked for
            apart = unlike(network, build_network(one, data))
            apart += [f"criterion.{name}" for name in unlike(criterion, make_criterion(one))]
            if apart:
                found[one.variant] = apart
    return found


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


def network_settings(config: Config, data: ImageDataset) -> dict[str, Fact]:
    """Return what the network is built with: its variant's settings, and what it takes of these."""
    ablation = load_ablation(config.ablation)
    height, width, channels = data.image_shape
    size = height if height == width else (height, width)
    facts = {"num_classes": data.num_classes, "in_channels": channels, "image_size": size}
    return ablation.arguments(ablation.network, config.variant, **facts)


def _criterion_settings(config: Config) -> dict[str, Fact]:
    ablation = load_ablation(config.ablation)
    return ablation.arguments(ablation.criterion, config.variant)
