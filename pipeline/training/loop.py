"""The loop over epochs: an ablation's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.randomness import Stream, seed_generators
from pipeline.training import onednn
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.cuda_graph import CapturedStep, Step
from pipeline.training.device import release_freed_memory
from pipeline.training.epoch import Pass, plain_step, run_pass
from pipeline.training.history import Epoch, History
from pipeline.training.onednn import BlockedNetwork
from pipeline.training.spec import RunSpec
from pipeline.training.state import TrainingState
from pipeline.training.stateful import Parts

# Validation keeps no activations, so its batches may be larger than in training, but not so large
# that an activation (32 MB) exceeds what glibc keeps.
VALIDATION_BATCH_SIZE = 500
# A part of a guess's loss. CIFAR-100 runs that learn nothing end with a training loss of ln(100) +
# 0.002 nats; those that learn are below ln(100) by 0.13 or more after their first epoch
# (docs/results.md, learning rates).
STUCK_MARGIN = 0.05 / math.log(100)


class Trained(NamedTuple):
    """A trained network, on its device, and what was measured.

    correct: whether it classifies each image of the reported split correctly, bool `[N]`, on the
    CPU.
    """

    network: nn.Module
    history: History
    correct: Tensor


@dataclass(frozen=True)
class FastStep:
    """A step, and how it is computed, in words."""

    take: Step
    path: str

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step."""
        return self.take(images, labels)


class Training:
    """Trains one network by its ablation's recipe; the last epoch counts.

    Validation is always in fp32, and its loss is cross-entropy: it describes the network that is
    registered. If the data have a test split, it is the reported one: it is read once, at the end.

    steps_per_epoch: for a schedule that takes a step after each batch; of the data, by default.
    fast_path: how the training steps are computed, in words, as far as that is known.
    """

    def __init__(self, spec: RunSpec, steps_per_epoch: int = 0) -> None:
        self.spec = spec
        network, criterion, optimizer = spec.build()
        scheduler = spec.schedule(optimizer, steps_per_epoch)
        self.parts = Parts(network, criterion, optimizer, scheduler)
        self.history: History = ()
        self.fast_path = self._step().path
        self._noted: list[Tensor] = []  # whether each prediction of the last pass was correct
        self._cross_entropy = nn.CrossEntropyLoss()
        self._validate = fast_step(
            network, self._cross_entropy, None, "fp32", VALIDATION_BATCH_SIZE
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a state: the result is, to the last bit, that of training without a break."""
        self.parts.load(state)
        self.history = tuple(Epoch(**metrics) for metrics in state.history)

    def state(self) -> TrainingState:
        """The state after the last epoch. It shares its tensors, which the next step changes."""
        return self.parts.state([one.metrics for one in self.history])

    def epochs(self) -> Iterator[Epoch]:
        """Train the epochs that are left, and yield what each has measured.

        Raises DivergedError (see `run_pass`).
        """
        spec, parts, seed = self.spec, self.parts, self.spec.config.seed
        network, optimizer, scheduler = parts.network, parts.optimizer, parts.scheduler
        split = spec.data.training
        batches = TrainingBatches(
            split, spec.config.batch_size, seed, spec.device, spec.augmentation
        )
        validation = ValidationBatches(spec.data.validation, VALIDATION_BATCH_SIZE, spec.device)
        step = self._step()
        for n in range(len(self.history) + 1, spec.config.epochs + 1):
            started = time.perf_counter()
            batches.set_epoch(n)
            seed_generators(seed, Stream.STEPS, n)
            train = run_pass(network, n, True, batches, parts.criterion, optimizer, step=step)
            self.fast_path = step.path  # capturing may have failed
            trained = time.perf_counter()
            val = self._measure(n, validation)
            done = Epoch(
                train_loss=train.loss,
                train_accuracy=train.accuracy,
                val_loss=val.loss,
                val_accuracy=val.accuracy,
                lr=float(optimizer.param_groups[0]["lr"]),
                epoch_seconds=time.perf_counter() - started,
                images_per_second=len(split) / (trained - started),
            )
            self.history += (done,)
            if scheduler and not spec.is_scheduled_by_batch:
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(val.loss)
                else:
                    scheduler.step()
                step = self._step()  # a captured one has the learning rate in it
            yield done

    def finish(self) -> Trained:
        """Measure what is reported, and return it with the network."""
        spec, network = self.spec, self.parts.network
        if spec.data.test:
            batches = ValidationBatches(spec.data.test, VALIDATION_BATCH_SIZE, spec.device)
            test = self._measure(spec.config.epochs, batches)
            last = replace(self.history[-1], test_loss=test.loss, test_accuracy=test.accuracy)
            self.history = (*self.history[:-1], last)
        elif not self._noted:  # the state was that of the last epoch
            self._measure(
                spec.config.epochs,
                ValidationBatches(spec.data.validation, VALIDATION_BATCH_SIZE, spec.device),
            )
        release_freed_memory()
        return Trained(network, self.history, torch.cat(self._noted).cpu())

    def _measure(self, n: int, batches: ValidationBatches) -> Pass:
        """Validate, and note which images are classified correctly."""
        self._noted.clear()

        def validate(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            loss, correct = self._validate(images, labels)
            self._noted.append(correct)
            return loss, correct

        network, optimizer = self.parts.network, self.parts.optimizer
        return run_pass(network, n, False, batches, self._cross_entropy, optimizer, step=validate)

    def _step(self) -> FastStep | CapturedStep:
        """The step that trains the network, followed by the scheduler's if that is due."""
        spec, scheduler = self.spec, self.parts.scheduler
        trained = (self.parts.network, self.parts.criterion, self.parts.optimizer, spec.precision)
        if scheduler is None or not spec.is_scheduled_by_batch:
            return fast_step(*trained, spec.config.batch_size)
        step = fast_step(*trained, batch_size=0)  # a graph would have the learning rate in it

        def step_and_schedule(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            result = step(images, labels)
            scheduler.step()
            return result

        return FastStep(step_and_schedule, step.path)


def fast_step(
    network: nn.Module,
    criterion: nn.Module,
    optimizer: Optimizer | None,
    precision: str,
    batch_size: int,
) -> FastStep | CapturedStep:
    """Return `plain_step` in its fastest form on the network's device, which says what that is.

    batch_size: of what a CUDA graph may capture; 0: nothing.
    """
    kind, because = next(network.parameters()).device.type, ""
    if kind == "cpu" and onednn.fits(network):
        if onednn.is_available(precision):
            blocked = BlockedNetwork(network, precision)
            # It handles precision itself; autocast would undo its conversions.
            return FastStep(plain_step(blocked, criterion, optimizer, "fp32"), "oneDNN's layout")
        because = ", because of this processor"
    elif kind == "cpu":
        because = ", because of this network's layers"
    step = plain_step(network, criterion, optimizer, precision)
    if kind == "cuda" and optimizer and batch_size:
        return CapturedStep(step, batch_size, Parts(network, criterion, optimizer).held_by_python)
    order = "default" if network._forward_pre_hooks else "channels_last"
    return FastStep(
        step, f"none{because}: PyTorch's own operators, images in {order} order, {precision}"
    )


def loss_of_guess(spec: RunSpec) -> float | None:
    """Return the training loss of a uniform guess: for cross-entropy, ln(num_classes).

    None for a criterion that takes more than one logit for each class.
    """
    count = spec.data.num_classes
    try:
        return float(spec.criterion()(torch.zeros(count, count), torch.arange(count)))
    except Exception:  # whatever a criterion raises that takes several outputs
        return None


def is_stuck(last: Epoch, loss_of_guess: float | None, num_classes: int) -> bool:
    """Return whether the network learned nothing, or lost all it learned.

    Neither its training loss nor its validation loss, which is cross-entropy, is then better than
    that of a uniform guess over the classes.
    """
    if loss_of_guess is not None and last.train_loss <= loss_of_guess * (1 - STUCK_MARGIN):
        return False
    return last.val_loss > math.log(num_classes) * (1 - STUCK_MARGIN)
