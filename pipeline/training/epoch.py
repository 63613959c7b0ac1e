"""One pass over the data, in training or in validation, as in the tutorial's `epoch()`."""

import math
import time
from collections.abc import Callable, Iterable
from copy import copy
from operator import length_hint
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.errors import DivergedError
from pipeline.news import shows_bars
from pipeline.training.cuda_graph import Step

# Seconds between updates of the progress bar. Each one reads two numbers from the device, so it
# waits for it. If stderr is a file, the bar adds a line every ten seconds.
BAR_INTERVAL = 0.2 if shows_bars() else 10.0

# Devices on which reading a number does not block, so every loss can be checked.
FREE_LOOKS = ("cpu",)


class Pass(NamedTuple):
    """Mean loss per image (nats, for cross-entropy), and the fraction of correct predictions."""

    loss: float
    accuracy: float


def run_pass(
    model: nn.Module,
    n: int,
    train: bool,
    dataloader: Iterable[tuple[Tensor, Tensor]],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    precision: str = "fp32",
    step: Step | None = None,
) -> Pass:
    """Train or validate `model` for one pass over `dataloader`, as in the tutorial.

    `dataloader` yields images and labels, as any `torch.utils.data.DataLoader` does; `criterion`
    returns the mean loss of a batch; `optimizer` is used only if `train`. With `precision="bf16"`
    the forward pass runs under autocast. `step` replaces `plain_step`.

    Loss and accuracy are returned, and shown in the progress bar as those of epoch `n`. In
    training, each batch is measured before its own step, so the results are means over a changing
    network.

    Raises DivergedError at the first infinite or NaN loss. (On a GPU, where reading the loss takes
    time, at the next progress bar update.)
    """
    model.train(train)
    device = next(model.parameters()).device
    step = step or plain_step(model, criterion, optimizer if train else None, precision)
    # The sums stay on the device: reading them after each batch would make a GPU wait every time.
    total_loss = torch.zeros((), device=device)
    total_correct = torch.zeros((), dtype=torch.int64, device=device)
    finite_batches = torch.zeros((), dtype=torch.int64, device=device)
    total_samples = 0

    phase = "T" if train else "V"
    # leave=None: the finished bar stays visible, unless it is shown below another bar.
    with tqdm(total=length_hint(dataloader) or None, mininterval=BAR_INTERVAL, leave=None) as bar:

        def result() -> Pass:
            loss, accuracy = total_loss.item() / total_samples, total_correct.item() / total_samples
            if not math.isfinite(loss):
                rate = optimizer.param_groups[0]["lr"]
                raise DivergedError(
                    f"the loss is {loss} in epoch {n} ({phase}), batch {finite_batches.item() + 1}"
                    f" of {bar.total or 'unknown'}, at learning rate {rate:g}; try a smaller one,"
                    f" such as {rate / 10:g}"
                )
            bar.set_description_str(  # the tutorial's line, character by character
                f"Epoch {n} ({phase}), Loss: {loss:.4f}, Accuracy: {accuracy:.2%}",
                refresh=False,
            )
            return Pass(loss, accuracy)

        shown = time.monotonic()
        for data, target in dataloader:
            images, labels = data.to(device), target.to(device)
            loss, correct = step(images, labels)
            # The mean times the batch size, because the last batch is smaller.
            total_loss += loss * len(labels)
            finite_batches += total_loss.isfinite()
            total_correct += correct.sum()
            total_samples += len(labels)
            bar.update()
            due = time.monotonic() - shown > BAR_INTERVAL
            if due or (device.type in FREE_LOOKS and not math.isfinite(total_loss.item())):
                result()
                shown = time.monotonic()
        return result()


def plain_step(
    model: Callable[[Tensor], Tensor],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    precision: str,
) -> Step:
    """Return a function that computes a batch, and trains on it if there is an optimiser.

    It returns the mean loss, and whether each prediction is correct, both on the device. A network
    may return several outputs (see `logits_of`); the criterion gets them all.
    """

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if optimizer:
            optimizer.zero_grad()
        with (
            torch.set_grad_enabled(optimizer is not None),
            torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            outputs = model(images)
        loss = criterion(mapped(_in_fp32, outputs), labels)
        if optimizer:
            loss.backward()
            optimizer.step()
        return loss.detach(), logits_of(outputs).argmax(dim=1) == labels

    return step


def mapped(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Apply a function to each tensor of a network's outputs, in tuples, lists and dictionaries."""
    if isinstance(outputs, Tensor):
        return function(outputs)
    if isinstance(outputs, dict):
        made = copy(outputs)  # a class of its own may have attributes
        for name, one in outputs.items():
            made[name] = mapped(function, one)
        return made
    if isinstance(outputs, tuple | list):
        parts = [mapped(function, one) for one in outputs]
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
    return outputs


def logits_of(outputs: Any) -> Any:
    """The logits among a network's outputs: `logits` in a dictionary that has it, or the first."""
    while isinstance(outputs, dict | tuple | list) and outputs:
        first = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
        outputs = outputs.get("logits", first) if isinstance(outputs, dict) else first
    return outputs


def _in_fp32(one: Tensor) -> Tensor:
    return one.float() if one.is_floating_point() else one  # others may be indices
