"""The loop over epochs: an ablation's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.randomness import Stream, seed_generators
from pipeline.training import onednn
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.building.parts import make_criterion, prepare, schedule_of
from pipeline.training.cuda_graph import CapturedStep, Step
from pipeline.training.device import release_freed_memory
from pipeline.training.epoch import epoch, log_metrics, log_tag, plain_step
from pipeline.training.onednn import BlockedNetwork
from pipeline.training.state import History, TrainingState
from pipeline.training.stateful import Parts

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
        seed_generators(config.seed, Stream.STEPS, n)
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
    kind = next(network.parameters()).device.type
    if kind == "cuda":
        step = plain_step(network, criterion, optimizer, precision)
        if not optimizer:
            return step
        held = Parts(network, criterion, optimizer).held_by_python
        return CapturedStep(step, batch_size, _report_failed_capture, held)
    if kind == "cpu" and onednn.fits(network) and onednn.is_available(precision):
        # It handles precision itself; autocast would undo its conversions.
        return plain_step(BlockedNetwork(network, precision), criterion, optimizer, "fp32")
    return plain_step(network, criterion, optimizer, precision)


def describe_steps(network: nn.Module, device: torch.device, precision: str) -> str:
    """Say which fast path the training steps of a network take, for a run's tag."""
    if device.type == "cuda":
        return "CUDA graph"
    if device.type == "mps":
        return f"none: PyTorch's own operators, images in default order, {precision}"
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
