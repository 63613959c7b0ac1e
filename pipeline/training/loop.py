"""The loop over epochs: the tutorial's recipe, from a new network or from a saved state."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset, Split
from pipeline.training import onednn
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.cuda_graph import CapturedStep, Step
from pipeline.training.device import compute_exactly, keep_freed_memory, release_freed_memory
from pipeline.training.epoch import epoch, log_metrics, plain_step
from pipeline.training.network import CNNNetwork
from pipeline.training.onednn import BlockedNetwork
from pipeline.training.randomness import Stream, stream_seed
from pipeline.training.state import History, TrainingState

# Validation keeps no activations, so its batches may be larger than in training, but not so large
# that an activation (32 MB) exceeds what glibc keeps.
VALIDATION_BATCH_SIZE = 500
# Nats. CIFAR-100 runs that learn nothing end with a training loss of ln(100) + 0.002; those that
# learn are below it by 0.13 or more after their first epoch (docs/results.md, learning rates).
STUCK_MARGIN = 0.05


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
    in fp32: it describes the network that is registered. `epoch_seconds` covers training and
    validation, `images_per_second` training alone. If `data` has a test split, it is read once, at
    the end, and the last epoch also has `test_loss` and `test_accuracy`.

    `save` is called after each epoch. Training resumed from such a `state` gives the same result,
    to the last bit, as training without a break. Raises DivergedError (see `epoch`).
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
            log_metrics(metrics, n)  # any that were not logged before
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


def correct_images(network: CNNNetwork, split: Split) -> Tensor:
    """Return whether `network` classifies each image of `split` correctly: bool `[N]`, on the CPU.

    In the same arithmetic as in validation: the mean is the accuracy that `train_network` returns.
    """
    device = next(network.parameters()).device
    network.eval()
    step = fast_step(network, nn.CrossEntropyLoss(), None, "fp32", VALIDATION_BATCH_SIZE)
    batches = ValidationBatches(split, VALIDATION_BATCH_SIZE, device)
    return torch.cat([step(images, labels)[1] for images, labels in batches]).cpu()


def prepare(
    config: Config, device: torch.device
) -> tuple[CNNNetwork, nn.Module, torch.optim.Optimizer]:
    """Return a new network on `device`, and the recipe's criterion and optimiser."""
    compute_exactly()
    keep_freed_memory()
    torch.manual_seed(stream_seed(config.seed, Stream.WEIGHTS))
    # The images are already in channels_last order in memory.
    network = CNNNetwork(config.variant).to(device).to(memory_format=torch.channels_last)
    capturable = device.type == "cuda"  # by a CUDA graph
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.lr, fused=True, capturable=capturable
    )
    return network, nn.CrossEntropyLoss(), optimizer


def fast_step(
    network: CNNNetwork,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    precision: str,
    batch_size: int,
) -> Step:
    """Return `plain_step` in its fastest form for the network's device."""
    if next(network.parameters()).is_cuda:
        step = plain_step(network, criterion, optimizer, precision)
        return CapturedStep(step, batch_size) if optimizer else step
    if onednn.is_available(precision):
        # It handles precision itself; autocast would undo its conversions.
        return plain_step(BlockedNetwork(network, precision), criterion, optimizer, "fp32")
    return plain_step(network, criterion, optimizer, precision)


def is_stuck(history: History) -> bool:
    """Return whether the network learned nothing, or lost all it learned.

    Its loss is then no better than that of a uniform guess over the 100 classes.
    """
    return history[-1]["train_loss"] > math.log(100) - STUCK_MARGIN
