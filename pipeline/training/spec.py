"""One run: what decides its numbers, and the parts that are built from it."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pipeline.ablation.definition import Ablation, Arguments, Fact, Part
from pipeline.config import Config
from pipeline.data.augmentation import NO_AUGMENTATION, Augmentation
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.randomness import Stream, seed_generators
from pipeline.training.network import CNNNetwork
from pipeline.training.weights import build_by_names, stream_names, unlike

FrozenArguments = tuple[tuple[str, Fact], ...]


@dataclass(frozen=True, eq=False)
class RunSpec:
    """What decides the numbers of a run; nothing is left to be looked up or chosen.

    config: what was typed, with the names of variant and data set. Where it says `auto`, what was
    chosen is here: the ablation, the data, the device and the precision. threads: with how many a
    step is computed; the last bits depend on it.
    """

    config: Config
    ablation: Ablation
    data: ImageDataset
    device: torch.device
    precision: str
    threads: int = 1

    @property
    def variant(self) -> str:
        """The variant's name."""
        return self.config.variant

    def changed(self, **settings: Any) -> "RunSpec":
        """The same run with other settings."""
        return replace(self, config=replace(self.config, **settings))

    @property
    def up_to(self) -> list["RunSpec"]:
        """The same run of each of the ablation's variants, up to this one."""
        names = list(self.ablation.variants)
        return [self.changed(variant=name) for name in names[: names.index(self.variant) + 1]]

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch has; the last one may have fewer images."""
        return -(-len(self.data.training) // self.config.batch_size)

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of the training images."""
        build = self.ablation.augmentation
        return self.ablation.make(build, self.variant) if build else NO_AUGMENTATION

    @property
    def network_settings(self) -> dict[str, Fact]:
        """What the network is built with: the variant's settings, and what it takes of the data."""
        height, width, channels = self.data.image_shape
        size = height if height == width else (height, width)
        facts = {"num_classes": self.data.num_classes, "in_channels": channels, "image_size": size}
        return self.ablation.arguments(self.ablation.network, self.variant, **facts)

    def network(self) -> nn.Module:
        """Return a new network, on the CPU, with the initial weights of the seed."""
        build, seed = self.ablation.network, self.config.seed
        settings = self.network_settings
        network: nn.Module
        if build is CNNNetwork:  # what its variants add draws no random numbers
            seed_generators(seed, Stream.WEIGHTS)
            network = build(**settings)  # type: ignore[arg-type]
        else:
            each = [_frozen(one.network_settings) for one in self.up_to]
            names = _stream_names(build, *each, seed=seed, stream=Stream.WEIGHTS)
            network = build_by_names(partial(build, **settings), seed, names)
        # Convolutions are faster in this order, which the images already have in memory.
        if _computes_in_channels_last(build, _frozen(settings), self.data.image_shape):
            return network.to(memory_format=torch.channels_last)
        network.register_forward_pre_hook(_in_default_order)
        return network

    def criterion(self) -> nn.Module:
        """Return a new criterion, on the CPU, with the initial weights of the seed."""
        build, seed = self.ablation.criterion, self.config.seed
        each = [self.ablation.arguments(build, one.variant) for one in self.up_to]
        seed_generators(seed, Stream.CRITERION)
        criterion: nn.Module = build(**each[-1])
        if not isinstance(criterion, nn.Module):
            raise InputError(f"criterion returns {criterion!r}; it must be a torch.nn.Module")
        if not any(True for _ in criterion.parameters()):
            return criterion
        names = _stream_names(build, *map(_frozen, each), seed=seed, stream=Stream.CRITERION)
        return build_by_names(partial(build, **each[-1]), seed, names, Stream.CRITERION)

    def optimizer(self, network: nn.Module, criterion: nn.Module) -> Optimizer:
        """Return a new optimizer of all parameters that need a gradient."""
        every = (*network.parameters(), *criterion.parameters())
        trained = [parameter for parameter in every if parameter.requires_grad]
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(
                "the network has no parameter to train; requires_grad is False for all"
            )
        build = self.ablation.optimizer
        settings = self.ablation.arguments(build, self.variant)
        optimizer: Optimizer = build(trained, lr=self.config.lr, **settings)
        return optimizer

    def build(self) -> tuple[nn.Module, nn.Module, Optimizer]:
        """Return what is trained, on the run's device: network, criterion and optimizer."""
        network = self.network().to(self.device)
        if self.device.type == "mps":  # where nobody has tried another order
            network.to(memory_format=torch.contiguous_format)
            network.register_forward_pre_hook(_in_default_order)
        criterion = self.criterion().to(self.device)
        return network, criterion, self.optimizer(network, criterion)

    @property
    def is_scheduled_by_batch(self) -> bool:
        """Whether a scheduler takes a step after each batch; else it takes one after each epoch.

        It does if the schedule has a parameter `steps_per_epoch`.
        """
        build = self.ablation.schedule
        return build is not None and "steps_per_epoch" in signature(build).parameters

    def schedule(self, optimizer: Optimizer, steps_per_epoch: int = 0) -> LRScheduler | None:
        """Return the variant's scheduler, if it has one.

        steps_per_epoch: those of the data, unless given.

        Raises InputError if the ablation's schedule returns neither a scheduler nor None.
        """
        build = self.ablation.schedule
        if build is None:
            return None
        facts = {"steps_per_epoch": steps_per_epoch or self.steps_per_epoch}
        epochs = self.config.epochs
        scheduler = self.ablation.make(build, self.variant, optimizer, epochs, **facts)
        if not isinstance(scheduler, LRScheduler | None):
            raise InputError(
                f"schedule returns {scheduler!r}; it must be a scheduler of torch, or None"
            )
        return scheduler

    @property
    def has_schedule(self) -> bool:
        """Whether the variant has a scheduler."""
        if self.ablation.schedule is None:
            return False
        *_, optimizer = self.build()
        return self.schedule(optimizer) is not None

    def unlike_earlier(self, network: nn.Module) -> dict[str, list[str]]:
        """What does not start out as in an earlier variant, by that one's name (`weights.unlike`).

        That is of the parameters and buffers of network and criterion.

        network: a new one of this run.
        """
        criterion = self.criterion()
        found = {}
        for one in self.up_to[:-1]:
            with suppress(Exception):  # one that can't be built is reported if it is asked for
                apart = unlike(network, one.network())
                apart += [f"criterion.{name}" for name in unlike(criterion, one.criterion())]
                if apart:
                    found[one.variant] = apart
        return found


@cache
def _stream_names(build: Part, *each: FrozenArguments, seed: int, stream: Stream) -> list[str]:
    """`stream_names` for variants with these settings; equal ones are one."""
    earlier = [one for one in dict.fromkeys(each) if one != each[-1]]
    return stream_names([partial(build, **dict(one)) for one in (*earlier, each[-1])], seed, stream)


def _frozen(settings: Arguments) -> FrozenArguments:
    return tuple(settings.items())


@cache
def _computes_in_channels_last(
    build: Part, settings: FrozenArguments, image_shape: tuple[int, int, int]
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
