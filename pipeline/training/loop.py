"""The loop over epochs: an ablation's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pipeline.ablation.definition import Part, Value
from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.randomness import Stream, seed_generators
from pipeline.training import onednn
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.cuda_graph import CapturedStep, Step
from pipeline.training.device import compute_exactly, keep_freed_memory, release_freed_memory
from pipeline.training.epoch import epoch, log_metrics, log_tag, plain_step
from pipeline.training.network import CNNNetwork
from pipeline.training.onednn import BlockedNetwork
from pipeline.training.state import History, Parts, TrainingState
from pipeline.training.weights import build_by_names, stream_names, unlike

# Validation keeps no activations, so its batches may be larger than in training, but not so large
# that an activation (32 MB) exceeds what glibc keeps.
VALIDATION_BATCH_SIZE = 500
# A part of a guess's loss. CIFAR-100 runs that learn nothing end with a training loss of ln(100) +
# 0.002 nats; those that learn are below ln(100) by 0.13 or more after their first epoch
# (docs/results.md, learning rates).
STUCK_MARGIN = 0.05 / math.log(100)
FAST_PATH = "fast_path"  # a run's tag


def train_network(
    config: Config,
    data: ImageDataset,
    device: torch.device,
    precision: str,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] | None = None,
    steps_per_epoch: int | None = None,
) -> tuple[nn.Module, History, Tensor]:
    """Train one network by its ablation's recipe, the tutorial's by default; the last epoch counts.

    Returns the network, on `device`; the metrics of each epoch, in order; and whether the network
    classifies each image of the reported split correctly, bool `[N]`, on the CPU. Validation is
    always in fp32, and its loss is cross-entropy: it describes the network that is registered.
    `epoch_seconds` covers training and validation, `images_per_second` training alone. If `data`
    has a test split, it is the reported one: it is read once, at the end, and the last epoch also
    has `test_loss` and `test_accuracy`.

    `save` is called after each epoch. Training resumed from such a `state` gives the same result,
    to the last bit, as training without a break. Raises DivergedError (see `epoch`).

    steps_per_epoch: for a schedule that takes a step after each batch; of the data, by default.
    """
    network, criterion, optimizer = prepare(config, data, device)
    augmentation = load_ablation(config.ablation).augmentation_of(config.variant)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device, augmentation)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    cross_entropy = nn.CrossEntropyLoss()
    steps = steps_per_epoch or len(training)
    scheduler, each_batch = schedule_of(config, optimizer, steps)
    parts = Parts(network, criterion, optimizer, scheduler)

    history: History = []
    if state:
        parts.load(state)
        history = list(state.history)
        for n, metrics in enumerate(history, 1):
            log_metrics(metrics, n)  # any that were not logged before
    step = training_step(parts, precision, config.batch_size, each_batch)
    plain_validate = fast_step(network, cross_entropy, None, "fp32", VALIDATION_BATCH_SIZE)
    noted: list[Tensor] = []

    def validate(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, correct = plain_validate(images, labels)
        noted.append(correct)
        return loss, correct

    for n in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        training.set_epoch(n)
        seed_generators(config.seed, Stream.DROPOUT, n)
        train = epoch(network, n, True, training, criterion, optimizer, step=step)
        trained = time.perf_counter()
        noted.clear()
        val = epoch(network, n, False, validation, cross_entropy, optimizer, step=validate)
        pace = {
            "lr": float(optimizer.param_groups[0]["lr"]),
            "epoch_seconds": time.perf_counter() - started,
            "images_per_second": len(data.training) / (trained - started),
        }
        log_metrics(pace, n)
        history.append(
            {
                "train_loss": train.loss,
                "train_accuracy": train.accuracy,
                "val_loss": val.loss,
                "val_accuracy": val.accuracy,
                **pace,
            }
        )
        if scheduler and not each_batch:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(val.loss)
            else:
                scheduler.step()
            # A captured step has the learning rate in it.
            step = training_step(parts, precision, config.batch_size, each_batch)
        if save:
            save(parts.state(history))
    if data.test:
        noted.clear()
        batches = ValidationBatches(data.test, VALIDATION_BATCH_SIZE, device)
        test = epoch(
            network,
            config.epochs,
            False,
            batches,
            cross_entropy,
            optimizer,
            split="test",
            step=validate,
        )
        history[-1] |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    elif not noted:  # the state was that of the last epoch
        network.eval()
        for images, labels in validation:
            validate(images, labels)
    release_freed_memory()
    return network, history, torch.cat(noted).cpu()


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
    settings: tuple[tuple[str, Value], ...],
    baseline: tuple[tuple[str, Value], ...],
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
    build: Part, settings: tuple[tuple[str, Value], ...], image_shape: tuple[int, int, int]
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


def training_step(parts: Parts, precision: str, batch_size: int, each_batch: bool) -> Step:
    """Return the step that trains a network, followed by the scheduler's if that is due."""
    trained = (parts.network, parts.criterion, parts.optimizer, precision)
    scheduler = parts.scheduler
    if scheduler is None or not each_batch:
        return fast_step(*trained, batch_size)
    # Not captured: a graph has the learning rate in it.
    on_gpu = next(parts.network.parameters()).is_cuda
    step = plain_step(*trained) if on_gpu else fast_step(*trained, batch_size)

    def step_and_schedule(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        result = step(images, labels)
        scheduler.step()
        return result

    return step_and_schedule


def fast_step(
    network: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    precision: str,
    batch_size: int,
) -> Step:
    """Return `plain_step` in its fastest form for the network and its device."""
    if next(network.parameters()).is_cuda:
        step = plain_step(network, criterion, optimizer, precision)
        if not optimizer:
            return step
        held = Parts(network, criterion, optimizer).held_by_python
        return CapturedStep(step, batch_size, _report_failed_capture, held)
    if onednn.fits(network) and onednn.is_available(precision):
        # It handles precision itself; autocast would undo its conversions.
        return plain_step(BlockedNetwork(network, precision), criterion, optimizer, "fp32")
    return plain_step(network, criterion, optimizer, precision)


def describe_steps(network: nn.Module, device: torch.device, precision: str) -> str:
    """Say which fast path the training steps of a network take, for a run's tag."""
    if device.type == "cuda":
        return "CUDA graph"
    if onednn.fits(network) and onednn.is_available(precision):
        return "oneDNN's layout"
    why = "of this processor" if onednn.fits(network) else "of this network's layers"
    order = "default" if network._forward_pre_hooks else "channels_last"
    return f"none, because {why}: PyTorch's own operators, images in {order} order, {precision}"


def _report_failed_capture(reason: str) -> None:
    log_tag(FAST_PATH, f"none: a CUDA graph can't capture the step ({reason})")


def loss_of_guess(config: Config, data: ImageDataset) -> float | None:
    """Return the training loss of a uniform guess: for cross-entropy, ln(num_classes).

    None for a criterion that takes more than one logit for each class.
    """
    count = data.num_classes
    try:
        return float(make_criterion(config)(torch.zeros(count, count), torch.arange(count)))
    except Exception:  # whatever a criterion raises that takes several outputs
        return None


def is_stuck(history: History, loss_of_guess: float | None, num_classes: int) -> bool:
    """Return whether the network learned nothing, or lost all it learned.

    Neither its training loss nor its validation loss, which is cross-entropy, is then better than
    that of a uniform guess over the classes.
    """
    guesses = {"train_loss": loss_of_guess, "val_loss": math.log(num_classes)}
    known = {name: guess for name, guess in guesses.items() if guess is not None}
    return all(history[-1][name] > guess * (1 - STUCK_MARGIN) for name, guess in known.items())
