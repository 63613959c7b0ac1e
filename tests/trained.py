"""Training without a run: a spec of any configuration, and the whole loop over it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pipeline.config import Config
from pipeline.runs.resolve import resolve
from pipeline.training.device import set_up_torch
from pipeline.training.history import Epoch
from pipeline.training.loop import Trained, Training
from pipeline.training.spec import RunSpec
from pipeline.training.state import TrainingState

LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def spec_of(config: Config, precision: str = "fp32", device: str = "cpu", **more: Any) -> RunSpec:
    """The spec of a configuration. more: other fields of it, such as `data`."""
    return replace(resolve(config), precision=precision, device=torch.device(device), **more)


def train_network(
    spec: RunSpec,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] = lambda _: None,
) -> Trained:
    """Train to the end, from a state if there is one; `save` gets each."""
    set_up_torch()
    training = Training(spec)
    if state:
        training.load(state)
    for _ in training.epochs():
        save(training.state())
    return training.finish()


def learned(history: tuple[Epoch, ...]) -> list[list[float]]:
    """What does not depend on what else the machine does."""
    return [[getattr(epoch, name) for name in LEARNED] for epoch in history]
