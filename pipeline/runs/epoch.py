"""The tutorial's `epoch()`, which logs what it measures to the active MLflow run."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.training.epoch import Pass, run_pass


def epoch(
    model: nn.Module,
    n: int,
    train: bool,
    dataloader: Iterable[tuple[Tensor, Tensor]],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    precision: str = "fp32",
) -> Pass:
    """Train or validate `model` for one pass over `dataloader`, as in the tutorial.

    As `training.epoch.run_pass`, which says what it takes. Loss and accuracy are returned, and
    logged to the active MLflow run, if there is one, as `train_loss` and `train_accuracy` (or
    `val_…`) at step `n`.

    Raises DivergedError at the first infinite or NaN loss.
    """
    done = run_pass(model, n, train, dataloader, criterion, optimizer, precision=precision)
    if "mlflow" in sys.modules:  # else there is no run
        from pipeline.store import uploads

        prefix = "train" if train else "val"
        metrics = {f"{prefix}_loss": done.loss, f"{prefix}_accuracy": done.accuracy}
        uploads.log_metrics(metrics, n)
    return done
