"""The loop over epochs: an ablation's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Callable, Iterator
from enum import Enum
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
from pipeline.training.epochs import Epoch, History
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


class Training:
    """Trains one network by its ablation's recipe; the last epoch counts.

    Validation is always in fp32, and its loss is cross-entropy: it describes the network that is
    registered. If the data have a test split, it is the reported one: it is read once, at the end.

    steps_per_epoch: for a schedule that takes a step after each batch; of the data, by default.
    """

    def __init__(self, spec: RunSpec, steps_per_epoch: int = 0) -> None:
        self.spec = spec
        network, criterion, optimizer = spec.build()
        scheduler = spec.schedule(optimizer, steps_per_epoch)
        self.parts = Parts(network, criterion, optimizer, scheduler)
        self.history: History = ()
        self.path = path_of(network, spec.precision)
        self.why_not_captured = ""  # if the path is that of a CUDA graph, and it can't be taken
        self._noted: list[Tensor] = []  # whether each prediction of the last pass was correct
        self._cross_entropy = nn.CrossEntropyLoss()
        self._validate = fast_step(
            network, self._cross_entropy, None, "fp32", VALIDATION_BATCH_SIZE
        )

    @property
    def fast_path(self) -> str:
        """How the training steps are computed, in words."""
        if self.why_not_captured:
            return f"none: a CUDA graph can't capture the step ({self.why_not_captured})"
        return describe_path(self.path, self.parts.network, self.spec.precision)

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
            last = {**self.history[-1].metrics, "test_loss": test.loss}
            last["test_accuracy"] = test.accuracy
            self.history = (*self.history[:-1], Epoch(**last))
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

    def _step(self) -> Step:
        """The step that trains the network, followed by the scheduler's if that is due."""
        spec, scheduler = self.spec, self.parts.scheduler
        trained = (self.parts.network, self.parts.criterion, self.parts.optimizer, spec.precision)
        if scheduler is None or not spec.is_scheduled_by_batch:
            return fast_step(*trained, spec.config.batch_size, self._note_failed_capture)
        # Not captured: a graph has the learning rate in it.
        captures = self.path is Path.CUDA_GRAPH
        step = plain_step(*trained) if captures else fast_step(*trained, spec.config.batch_size)

        def step_and_schedule(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            result = step(images, labels)
            scheduler.step()
            return result

        return step_and_schedule

    def _note_failed_capture(self, reason: str) -> None:
        self.why_not_captured = reason


class Path(Enum):
    """How the steps of a network are computed."""

    CUDA_GRAPH = "CUDA graph"
    ONEDNN = "oneDNN's layout"
    PLAIN = "none"


def path_of(network: nn.Module, precision: str) -> Path:
    """The fastest way to compute a network's steps on its device."""
    kind = next(network.parameters()).device.type
    if kind == "cuda":
        return Path.CUDA_GRAPH
    blocked = kind == "cpu" and onednn.fits(network) and onednn.is_available(precision)
    return Path.ONEDNN if blocked else Path.PLAIN


def describe_path(path: Path, network: nn.Module, precision: str) -> str:
    """Say how the steps are computed, and why not faster."""
    if path is not Path.PLAIN:
        return str(path.value)
    on_cpu = next(network.parameters()).device.type == "cpu"
    order = "default" if network._forward_pre_hooks else "channels_last"
    because = ""
    if on_cpu:
        of = "this processor" if onednn.fits(network) else "this network's layers"
        because = f", because of {of}"
    return f"none{because}: PyTorch's own operators, images in {order} order, {precision}"


def fast_step(
    network: nn.Module,
    criterion: nn.Module,
    optimizer: Optimizer | None,
    precision: str,
    batch_size: int,
    report: Callable[[str], None] = lambda _: None,
) -> Step:
    """Return `plain_step` in its fastest form; `report` gets the reason if it can't be captured."""
    path = path_of(network, precision)
    if path is Path.ONEDNN:
        assert onednn.fits(network)
        # It handles precision itself; autocast would undo its conversions.
        return plain_step(BlockedNetwork(network, precision), criterion, optimizer, "fp32")
    step = plain_step(network, criterion, optimizer, precision)
    if path is Path.CUDA_GRAPH and optimizer:
        held = Parts(network, criterion, optimizer).held_by_python
        return CapturedStep(step, batch_size, report, held)
    return step


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
