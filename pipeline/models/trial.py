"""Try each variant on a few images before any training: what fails now would fail after hours."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import mlflow
import numpy as np
import torch
from torch import nn

from pipeline.ablation.loading import explain, load_ablation
from pipeline.config import Config
from pipeline.data.augmentation import normalise
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.models.export import PixelClassifier, save_network
from pipeline.models.safety import check_harmless
from pipeline.training.loop import build_network, prepare

T = TypeVar("T")
Explain = Callable[[str], InputError]


def try_variants(config: Config, data: ImageDataset, variants: Sequence[str]) -> None:
    """Build, train and export the network of each variant, on three images.

    Raises InputError, naming the variant, if its network can't be built, exported or repeated, if
    it does not return finite logits `[N, num_classes]`, or if a part of its recipe fails. Prints a
    warning if training does not reach a parameter.
    """
    for variant in variants:
        _try_network(replace(config, variant=variant), data)


def _try_network(config: Config, data: ImageDataset) -> None:
    def attempt(what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # whatever the user's code raises
            reason = str(error) if isinstance(error, InputError) else explain(error)
            raise InputError(f"variant {config.variant!r}: {what}: {reason}") from None

    cpu = torch.device("cpu")
    network = attempt("its network can't be built", lambda: build_network(config, data))
    again = attempt("its network can't be built", lambda: build_network(config, data))
    attempt("its initial weights can't be repeated", lambda: _check_same(network, again))
    attempt("its network does not compute", lambda: _check_outputs(network, data))
    parts = attempt("its recipe can't be set up", lambda: prepare(config, data, cpu))
    attempt("its recipe can't be set up", lambda: _check_others(config, parts[2]))
    alone = len(data.training) % config.batch_size == 1
    unreached = attempt("it can't be trained", lambda: _train_once(parts, data, alone))
    if unreached:
        print(
            f"warning: variant {config.variant!r}: training does not reach {', '.join(unreached)}",
            file=sys.stderr,
        )
    attempt("it can't be exported as pt2", lambda: _check_export(network, data))


def _check_same(one: nn.Module, other: nn.Module) -> None:
    for (name, value), (_, again) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        if not torch.equal(value, again):
            raise InputError(f"{name} differs with the same seed; draw from torch alone")


@torch.no_grad()
def _check_outputs(network: nn.Module, data: ImageDataset) -> None:
    network.eval()
    images = normalise(data.training.images[:2])
    for count in (2, 1):
        found, shape = network(images[:count]), (count, data.num_classes)
        if not isinstance(found, torch.Tensor) or found.shape != shape:
            got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise InputError(
                f"for {count} images it returns {got} instead of {list(shape)}: a logit for each"
                " class (a parameter num_classes of the network is set to their number)"
            )
        if not found.isfinite().all():
            raise InputError("it returns numbers that are not finite")
    if not torch.equal(network(images), network(images)):
        raise InputError("it returns other numbers at the second call, although in eval mode")


def _check_others(config: Config, optimizer: torch.optim.Optimizer) -> None:
    """Build the augmentation and the schedule."""
    ablation = load_ablation(config.ablation)
    ablation.augmentation_of(config.variant)
    if ablation.schedule:
        ablation.make(ablation.schedule, config.variant, optimizer, config.epochs)


def _train_once(
    parts: tuple[nn.Module, nn.Module, torch.optim.Optimizer], data: ImageDataset, alone: bool
) -> list[str]:
    """Take a step, and return the parameters that it does not reach.

    `alone`: the last batch of an epoch has a single image, which not every layer takes.
    """
    network, criterion, optimizer = parts
    network.train()
    for count in (1, 2) if alone else (2,):
        images, labels = normalise(data.training.images[:count]), data.training.labels[:count]
        try:
            criterion(network(images), labels).backward()
        except ValueError as error:
            hint = "; choose a batch_size that does not leave one image over" if count == 1 else ""
            raise InputError(f"{error}{hint}") from None
    optimizer.step()
    return [
        n for n, value in network.named_parameters() if value.requires_grad and value.grad is None
    ]


def _check_export(network: nn.Module, data: ImageDataset) -> None:
    """Export the network, and compute three images with it."""
    pixels = data.training.images[:3]
    with TemporaryDirectory() as folder, torch.no_grad():
        files = Path(folder) / "model"
        with redirect_stderr(StringIO()):  # torch also prints the program that it can't export
            save_network(network, data, files)
        try:
            found = mlflow.pyfunc.load_model(str(files)).predict(pixels.numpy())
        except Exception:  # of many kinds
            raise InputError(
                "it then takes 2 images only, as in the example; `len(x)` in a network does that,"
                " `x.size(0)` or `torch.flatten(x, 1)` does not"
            ) from None
        check_harmless(files, mlflow.models.Model.load(str(files)).flavors)
        expected = PixelClassifier(network.eval())(pixels).numpy()
    if not np.allclose(found, expected, atol=1e-4):
        raise InputError("what is exported computes other numbers than the network")
