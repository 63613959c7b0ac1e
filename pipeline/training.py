"""The tutorial's `epoch()`, and the loop over epochs around it."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from operator import length_hint
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import blocked
from pipeline.blocked import BlockedNetwork
from pipeline.config import Config
from pipeline.cuda_graph import CapturedStep, Step
from pipeline.data.dataset import ImageDataset
from pipeline.data.loader import TrainingBatches, ValidationBatches
from pipeline.device import compute_exactly, keep_freed_memory, release_freed_memory
from pipeline.errors import DivergedError
from pipeline.network import CNNNetwork
from pipeline.randomness import Stream, stream_seed

# Validation keeps no activations, so its batches may be larger than those of training. Not so large
# that an activation (32 MB) is more than glibc keeps.
VALIDATION_BATCH_SIZE = 500
# Seconds between updates of the progress bar. Each reads two numbers from the device, and so waits
# for it. Where the bar goes to a file it writes a line every ten seconds.
BAR_INTERVAL = 0.2 if sys.stderr.isatty() else 10.0

# Where reading a number from the device waits for nothing, so that every loss can be looked at.
FREE_LOOKS = ("cpu",)
# Nats. On CIFAR-100 runs that learn nothing end with a training loss of ln(100) + 0.002; those that
# learn are below it by 0.13 or more after their first epoch (docs/results.md, learning rates).
STUCK_MARGIN = 0.05

History = list[dict[str, float]]


class EpochResult(NamedTuple):
    """Mean loss per image (nats, for cross-entropy), and the fraction of images that were right."""

    loss: float
    accuracy: float


def epoch(
    model: nn.Module,
    n: int,
    train: bool,
    dataloader: Iterable[tuple[Tensor, Tensor]],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    precision: str = "fp32",
    split: str | None = None,
    step: Step | None = None,
) -> EpochResult:
    """Train or validate `model` for one pass over `dataloader`, as in the tutorial.

    `dataloader` yields images and labels, as any `torch.utils.data.DataLoader` does; `criterion`
    returns the mean loss of a batch; `optimizer` is used only if `train`. With `precision="bf16"`
    the forward pass runs under autocast. `step` takes the place of `plain_step`.

    Loss and accuracy are returned, shown in the progress bar, and logged to the active MLflow run,
    if there is one, as `train_loss` and `train_accuracy` (or `val_…`) at step `n`; `split` names
    them otherwise. Those of training count each batch before its own step, so they are means over a
    changing network.

    Raises DivergedError at the first loss that is infinite or not a number. (On a GPU, where each
    look at the loss takes time, when the progress bar is next updated.)
    """
    model.train(train)
    device = next(model.parameters()).device
    step = step or plain_step(model, criterion, optimizer if train else None, precision)
    # The sums stay on the device: reading them after each batch would make a GPU wait every time.
    total_loss = torch.zeros((), device=device)
    total_correct = torch.zeros((), dtype=torch.int64, device=device)
    finite_batches = torch.zeros((), dtype=torch.int64, device=device)
    total_samples = 0

    phase = split or ("T" if train else "V")
    # leave=None: the bar stays as a line of its own, unless it is shown below another bar.
    with tqdm(total=length_hint(dataloader) or None, mininterval=BAR_INTERVAL, leave=None) as bar:

        def result() -> EpochResult:
            loss, accuracy = total_loss.item() / total_samples, total_correct.item() / total_samples
            if not math.isfinite(loss):
                rate = optimizer.param_groups[0]["lr"]
                raise DivergedError(
                    f"the loss is {loss} in epoch {n} ({phase}), batch {finite_batches.item() + 1}"
                    f" of {bar.total or 'unknown'}, at learning rate {rate:g}; try a smaller one,"
                    f" such as {rate / 10:g}"
                )
            bar.set_description_str(
                f"Epoch {n} ({phase}), Loss: {loss:.4f}, Accuracy: {accuracy:.2%}",
                refresh=False,
            )
            return EpochResult(loss, accuracy)

        shown = time.monotonic()
        for data, target in dataloader:
            images, labels = data.to(device), target.to(device)
            loss, correct = step(images, labels)
            # The batch's mean times its size: the last batch is smaller than the others.
            total_loss += loss * len(labels)
            finite_batches += total_loss.isfinite()
            total_correct += correct
            total_samples += len(labels)
            bar.update()
            due = time.monotonic() - shown > BAR_INTERVAL
            if due or (device.type in FREE_LOOKS and not math.isfinite(total_loss.item())):
                result()
                shown = time.monotonic()
        final = result()

    prefix = split or ("train" if train else "val")
    _log_metrics({f"{prefix}_loss": final.loss, f"{prefix}_accuracy": final.accuracy}, n)
    return final


def plain_step(
    model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer | None, precision: str
) -> Step:
    """Return the function that computes a batch, and trains on it if there is an optimiser.

    It returns the mean loss and how many images were right, both on the device.
    """

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if optimizer:
            optimizer.zero_grad()
        with (
            torch.set_grad_enabled(optimizer is not None),
            torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            outputs = model(images)
        loss = criterion(outputs.float(), labels)
        if optimizer:
            loss.backward()
            optimizer.step()
        return loss.detach(), (outputs.argmax(dim=1) == labels).sum()

    return step


def fast_step(
    network: CNNNetwork,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    precision: str,
    batch_size: int,
) -> Step:
    """Return `plain_step` in the way in which the network's device is fastest at it."""
    if next(network.parameters()).is_cuda:
        step = plain_step(network, criterion, optimizer, precision)
        return CapturedStep(step, batch_size) if optimizer else step
    if blocked.is_available(precision):
        # It sees to the precision itself; autocast would convert back what it has converted.
        return plain_step(BlockedNetwork(network, precision), criterion, optimizer, "fp32")
    return plain_step(network, criterion, optimizer, precision)


class TrainingState(NamedTuple):
    """All that a training has become by the end of an epoch, from which it can be continued.

    history: the metrics of each epoch. network, optimizer: their state dicts. The streams of
    randomness have no state: each begins anew in each epoch, from seed and epoch (`randomness`).
    """

    history: History
    network: dict[str, Any]
    optimizer: dict[str, Any]


def prepare(
    config: Config, device: torch.device
) -> tuple[CNNNetwork, nn.Module, torch.optim.Optimizer]:
    """Return a new network on `device`, the criterion and the optimiser of the recipe."""
    compute_exactly()
    keep_freed_memory()
    torch.manual_seed(stream_seed(config.seed, Stream.WEIGHTS))
    # channels_last is the order in which the images lie in memory already.
    network = CNNNetwork(config.variant).to(device).to(memory_format=torch.channels_last)
    capturable = device.type == "cuda"  # by a CUDA graph
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.lr, fused=True, capturable=capturable
    )
    return network, nn.CrossEntropyLoss(), optimizer


def train_network(
    config: Config,
    data: ImageDataset,
    device: torch.device,
    precision: str,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] | None = None,
) -> tuple[CNNNetwork, History]:
    """Train one network by the tutorial's recipe: Adam, cross-entropy, the last epoch counts.

    Returns the network, on `device`, and the metrics of each epoch, in order. Validation is always
    in fp32: it describes the network that is registered. `epoch_seconds` is training and
    validation together, `images_per_second` training alone. If `data` has a test split it is read
    once, at the end, and the last epoch has `test_loss` and `test_accuracy` too.

    `save` is called after each epoch. A training that begins from such a `state` ends, to the last
    bit, where the one that it was taken from would have. Raises DivergedError, see `epoch`.
    """
    network, criterion, optimizer = prepare(config, device)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)

    history: History = []
    if state:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(state.optimizer)
        history = list(state.history)
        for n, metrics in enumerate(history, 1):
            _log_metrics(metrics, n)  # those that were not logged before
    step = fast_step(network, criterion, optimizer, precision, config.batch_size)
    validate = fast_step(network, criterion, None, "fp32", VALIDATION_BATCH_SIZE)
    for n in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        training.set_epoch(n)
        torch.manual_seed(stream_seed(config.seed, Stream.DROPOUT, n))
        train = epoch(network, n, True, training, criterion, optimizer, step=step)
        trained = time.perf_counter()
        val = epoch(network, n, False, validation, criterion, optimizer, step=validate)
        pace = {
            "lr": config.lr,
            "epoch_seconds": time.perf_counter() - started,
            "images_per_second": len(data.training) / (trained - started),
        }
        _log_metrics(pace, n)
        history.append(
            {
                "train_loss": train.loss,
                "train_accuracy": train.accuracy,
                "val_loss": val.loss,
                "val_accuracy": val.accuracy,
                **pace,
            }
        )
        if save:
            save(TrainingState(history, network.state_dict(), optimizer.state_dict()))
    if data.test:
        batches = ValidationBatches(data.test, VALIDATION_BATCH_SIZE, device)
        test = epoch(
            network,
            config.epochs,
            False,
            batches,
            criterion,
            optimizer,
            split="test",
            step=validate,
        )
        history[-1] |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    release_freed_memory()
    return network, history


def is_stuck(history: History) -> bool:
    """Whether the network has learned nothing, or nothing that is left.

    Its loss is then no better than that of a guess which holds all 100 classes for equally likely.
    """
    return history[-1]["train_loss"] > math.log(100) - STUCK_MARGIN


def _log_metrics(metrics: dict[str, float], step: int) -> None:
    """Log to the active MLflow run. A process that has not imported MLflow has none."""
    if "mlflow" in sys.modules:
        from pipeline import outbox

        outbox.log_metrics(metrics, step)
