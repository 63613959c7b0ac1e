"""The loop over epochs: an ablation's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pipeline.ablation.definition import Value
from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.training import onednn
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.cuda_graph import CapturedStep, Step
from pipeline.training.device import compute_exactly, keep_freed_memory, release_freed_memory
from pipeline.training.epoch import epoch, log_metrics, log_tag, plain_step
from pipeline.training.network import CNNNetwork
from pipeline.training.onednn import BlockedNetwork
from pipeline.training.randomness import Stream, build_by_names, stream_seed
from pipeline.training.state import History, TrainingState

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
    """
    network, criterion, optimizer = prepare(config, data, device)
    ablation = load_ablation(config.ablation)
    scheduler: LRScheduler | None = None
    if ablation.schedule:
        scheduler = ablation.make(ablation.schedule, config.variant, optimizer, config.epochs)
    augmentation = ablation.augmentation_of(config.variant)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device, augmentation)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    cross_entropy = nn.CrossEntropyLoss()

    history: History = []
    if state:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(state.optimizer)
        if scheduler:
            scheduler.load_state_dict(state.scheduler)
        history = list(state.history)
        for n, metrics in enumerate(history, 1):
            log_metrics(metrics, n)  # any that were not logged before
    step = fast_step(network, criterion, optimizer, precision, config.batch_size)
    plain_validate = fast_step(network, cross_entropy, None, "fp32", VALIDATION_BATCH_SIZE)
    noted: list[Tensor] = []

    def validate(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, correct = plain_validate(images, labels)
        noted.append(correct)
        return loss, correct

    for n in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        training.set_epoch(n)
        torch.manual_seed(stream_seed(config.seed, Stream.DROPOUT, n))
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
        if scheduler:
            scheduler.step()
            # A captured step has the learning rate in it.
            step = fast_step(network, criterion, optimizer, precision, config.batch_size)
        if save:
            schedule = dict(scheduler.state_dict()) if scheduler else {}
            save(TrainingState(history, network.state_dict(), optimizer.state_dict(), schedule))
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
    criterion = ablation.make(ablation.criterion, variant).to(device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    settings = ablation.arguments(ablation.optimizer, variant)
    return network, criterion, ablation.optimizer(trained, lr=config.lr, **settings)


def build_network(config: Config, data: ImageDataset) -> nn.Module:
    """Return the network of a variant, on the CPU, with the initial weights of the seed."""
    build, settings = load_ablation(config.ablation).network, network_settings(config, data)
    network: nn.Module
    if build is CNNNetwork:  # what its variants add draws no random numbers
        torch.manual_seed(stream_seed(config.seed, Stream.WEIGHTS))
        network = build(**settings)  # type: ignore[arg-type]
    else:
        network = build_by_names(lambda: build(**settings), config.seed)
    # Convolutions are faster in this order, which the images already have in memory.
    faster = deepcopy(network).to(memory_format=torch.channels_last)
    if _computes(faster, data.image_shape):
        return faster
    network.register_forward_pre_hook(_in_default_order)
    return network


def _computes(network: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether a network computes images in channels_last order; a `view` in it may prevent that."""
    height, width, channels = image_shape
    # PyTorch takes other convolutions for fewer images.
    images = torch.zeros(32, height, width, channels).permute(0, 3, 1, 2)
    network.eval()
    try:
        with torch.no_grad():
            network(images)
            with torch.autocast("cpu", torch.bfloat16):
                network(images)
    except Exception:  # whatever the network raises; the trial reports what is not about order
        return False
    finally:
        network.train()
    return True


def _in_default_order(_: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    # Not `contiguous`, which leaves strides alone that are right in both orders.
    return (images[0].clone(memory_format=torch.contiguous_format),)


def network_settings(config: Config, data: ImageDataset) -> dict[str, Value]:
    """Return what the network is built with: its variant's settings, and what it takes of these."""
    ablation = load_ablation(config.ablation)
    facts = {"num_classes": data.num_classes, "in_channels": data.image_shape[2]}
    return ablation.arguments(ablation.network, config.variant, **facts)


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
        return CapturedStep(step, batch_size, _report_failed_capture) if optimizer else step
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


def loss_of_guess(config: Config, data: ImageDataset) -> float:
    """Return the training loss of a uniform guess: for cross-entropy, ln(num_classes)."""
    ablation = load_ablation(config.ablation)
    criterion = ablation.make(ablation.criterion, config.variant)
    count = data.num_classes
    return float(criterion(torch.zeros(count, count), torch.arange(count)))


def is_stuck(history: History, loss_of_guess: float, num_classes: int) -> bool:
    """Return whether the network learned nothing, or lost all it learned.

    Neither its training loss nor its validation loss, which is cross-entropy, is then better than
    that of a uniform guess over the classes.
    """
    guesses = {"train_loss": loss_of_guess, "val_loss": math.log(num_classes)}
    return all(history[-1][name] > guess * (1 - STUCK_MARGIN) for name, guess in guesses.items())
