"""The tutorial's `epoch()`, and the loop over epochs around it."""

import sys
import time
from collections.abc import Iterable
from operator import length_hint
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.data.loader import TrainingBatches, ValidationBatches
from pipeline.device import compute_exactly
from pipeline.network import CNNNetwork
from pipeline.randomness import Stream, stream_seed

# Validation keeps no activations, so its batches may be larger than those of training.
VALIDATION_BATCH_SIZE = 1000
# Seconds between updates of the progress bar. Each reads two numbers from the device, and so waits
# for it. Where the bar goes to a file it writes a line every ten seconds.
BAR_INTERVAL = 0.2 if sys.stderr.isatty() else 10.0

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
) -> EpochResult:
    """Train or validate `model` for one pass over `dataloader`, as in the tutorial.

    `dataloader` yields images and labels, as any `torch.utils.data.DataLoader` does; `criterion`
    returns the mean loss of a batch; `optimizer` is used only if `train`. With `precision="bf16"`
    the forward pass runs under autocast.

    Loss and accuracy are returned, shown in the progress bar, and logged to the active MLflow run,
    if there is one, as `train_loss` and `train_accuracy` (or `val_…`) at step `n`; `split` names
    them otherwise. Those of training count each batch before its own step, so they are means over a
    changing network.
    """
    model.train(train)
    device = next(model.parameters()).device
    # The sums stay on the device: reading them after each batch would make a GPU wait every time.
    total_loss = torch.zeros((), device=device)
    total_correct = torch.zeros((), dtype=torch.int64, device=device)
    total_samples = 0

    phase = split or ("T" if train else "V")
    # leave=None: the bar stays as a line of its own, unless it is shown below another bar.
    with tqdm(total=length_hint(dataloader) or None, mininterval=BAR_INTERVAL, leave=None) as bar:

        def result() -> EpochResult:
            loss, accuracy = total_loss.item() / total_samples, total_correct.item() / total_samples
            bar.set_description_str(
                f"Epoch {n} ({phase}), Loss: {loss:.4f}, Accuracy: {accuracy:.2%}",
                refresh=False,
            )
            return EpochResult(loss, accuracy)

        shown = time.monotonic()
        for data, target in dataloader:
            images, labels = data.to(device), target.to(device)
            if train:
                optimizer.zero_grad()
            with (
                torch.set_grad_enabled(train),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
            ):
                outputs = model(images)
            loss = criterion(outputs.float(), labels)
            if train:
                loss.backward()
                optimizer.step()
            # The batch's mean times its size: the last batch is smaller than the others.
            total_loss += loss.detach() * len(labels)
            total_correct += (outputs.argmax(dim=1) == labels).sum()
            total_samples += len(labels)
            bar.update()
            if time.monotonic() - shown > BAR_INTERVAL:
                result()
                shown = time.monotonic()
        final = result()

    prefix = split or ("train" if train else "val")
    _log_metrics({f"{prefix}_loss": final.loss, f"{prefix}_accuracy": final.accuracy}, n)
    return final


def train_network(
    config: Config, data: ImageDataset, device: torch.device, precision: str
) -> tuple[CNNNetwork, History]:
    """Train one network by the tutorial's recipe: Adam, cross-entropy, the last epoch counts.

    Returns the network, on `device`, and the metrics of each epoch, in order. Validation is always
    in fp32: it describes the network that is registered. `epoch_seconds` is training and
    validation together, `images_per_second` training alone. If `data` has a test split it is read
    once, at the end, and the last epoch has `test_loss` and `test_accuracy` too.
    """
    compute_exactly()
    torch.manual_seed(stream_seed(config.seed, Stream.WEIGHTS))
    # channels_last is the order in which the images lie in memory already.
    network = CNNNetwork(config.variant).to(device).to(memory_format=torch.channels_last)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, fused=True)

    history: History = []
    for n in range(1, config.epochs + 1):
        started = time.perf_counter()
        training.set_epoch(n)
        torch.manual_seed(stream_seed(config.seed, Stream.DROPOUT, n))
        train = epoch(network, n, True, training, criterion, optimizer, precision=precision)
        trained = time.perf_counter()
        val = epoch(network, n, False, validation, criterion, optimizer)
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
    if data.test:
        batches = ValidationBatches(data.test, VALIDATION_BATCH_SIZE, device)
        test = epoch(network, config.epochs, False, batches, criterion, optimizer, split="test")
        history[-1] |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    return network, history


def _log_metrics(metrics: dict[str, float], step: int) -> None:
    """Log to the active MLflow run. A process that has not imported MLflow has none."""
    if "mlflow" in sys.modules:
        from pipeline import tracking

        tracking.log_metrics(metrics, step)
