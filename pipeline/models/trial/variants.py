"""Try each variant on a few images before any training: what fails now would fail after hours."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from io import BytesIO, StringIO
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.ablation.definition import Arguments
from pipeline.ablation.loading import explain
from pipeline.data.augmentation import normalise
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, plural, shortlist
from pipeline.models.export import PixelClassifier, export_network, portable_network
from pipeline.models.safety import check_archive
from pipeline.models.trial.reading import record_inputs
from pipeline.models.trial.recipe import train_once
from pipeline.models.trial.repeating import (
    DRAW,
    check_continued,
    check_repeated,
    few,
    train_epochs,
)
from pipeline.training.device import set_up_torch
from pipeline.training.spec import RunSpec

log = logging.getLogger(__name__)
T = TypeVar("T")
CPU = torch.device("cpu")
TOLERANCE = 1e-3  # between the answers to one image in two batches
FEW_STEPS = 3  # per epoch, below which little is learned
SMALL = 0.01  # below which all parameters of a layer hide what it multiplies


def try_variants(spec: RunSpec, variants: Iterable[str]) -> None:
    """Build, train and export the network of each variant, on up to three images.

    Raises InputError, naming the variant, if its network can't be built, repeated or exported, if
    it does not return finite logits `[N, num_classes]`, or if a part of its recipe fails. Prints a
    warning if training does not reach a parameter, if an epoch has hardly a step, or if validation
    lacks classes.
    """
    spec = replace(spec, device=CPU)
    _warn_of_classes(spec.data)
    _warn_of_few_steps(spec)
    set_up_torch()
    record_inputs(spec)
    baseline = next(iter(spec.ablation.variants))
    # Each run compares its initial weights with the baseline's.
    first = spec.changed(variant=baseline)
    _attempt(baseline, "its network can't be built", first.network)
    for variant in variants:
        _try_network(spec.changed(variant=variant))


def _warn_of_classes(data: ImageDataset) -> None:
    present = set(data.validation.labels.tolist())
    lacking = [repr(name) for label, name in enumerate(data.class_names) if label not in present]
    if lacking:
        kind = "held-out" if data.test else "validation"
        why = ": they have only one training image" if data.test else ""
        log.warning(f"warning: no {kind} image is of {shortlist(lacking)}{why}")


def _warn_of_few_steps(spec: RunSpec) -> None:
    """Say that a small data set is trained on in few steps; a trial on a part of it is meant so."""
    images, steps = len(spec.data.training), spec.steps_per_epoch
    smaller = 2 ** max(0, (images // 4).bit_length() - 1)  # a power of two, for four steps or more
    if steps < FEW_STEPS and not spec.data.left_out:
        log.warning(
            f"note: {images} images at batch_size={spec.config.batch_size} are"
            f" {plural(steps, 'training step')} per epoch; try batch_size={smaller}"
        )


def _attempt(variant: str, what: str, action: Callable[..., T], *arguments: object) -> T:
    """Return what `action` returns, or say in one line what fails."""
    try:
        return action(*arguments)
    except Exception as error:  # whatever the user's code raises
        reason = str(error) if isinstance(error, InputError) else explain(error)
        raise InputError(f"variant {variant!r}: {what}: {reason}") from None


def _try_network(spec: RunSpec) -> None:
    name, data = spec.variant, spec.data
    network = _attempt(name, "its network can't be built", spec.network)
    _attempt(name, "its initial weights can't be repeated", _check_weights, network, spec)
    for other, apart in spec.unlike_earlier(network).items():
        more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
        log.warning(
            f"note: variant {name!r}: {apart[0]}{more} of its parameters can't start out as in"
            f" {other!r}"
        )
    _attempt(name, "its network fails on images", _check_outputs, network, data)
    unsaved, warnings = _attempt(name, "it can't be trained", train_once, spec)
    for warning in warnings:
        log.warning(f"warning: variant {name!r}: {warning}")
    first = _attempt(name, "it can't be trained", train_epochs, spec)
    _attempt(name, "a run can't be repeated", check_repeated, spec, first)
    _attempt(name, "a run can't be continued", check_continued, spec, first, unsaved)
    with _all_branches(network, data):
        settings = spec.network_settings
        _attempt(name, "it can't be exported as pt2", _check_export, network, settings, data)


def _check_weights(network: nn.Module, spec: RunSpec) -> None:
    again = spec.network().state_dict()
    for name, value in network.state_dict().items():
        if not torch.equal(value, again[name]):
            raise InputError(f"{name} differs with the same seed; {DRAW}")


@torch.no_grad()
def _check_outputs(network: nn.Module, data: ImageDataset) -> None:
    network.eval()
    images = normalise(few(data.training, 2).images)
    for count in (2, 1):
        found, shape = network(images[:count]), (count, data.num_classes)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"for {count} images it returns {got} instead of {list(shape)}: a logit for each"
                " class (a parameter num_classes of the network is set to their number)"
            )
        if not found.isfinite().all():
            raise InputError("it returns numbers that are not finite")
    with _all_branches(network, data):
        in_two, again, alone = network(images), network(images), network(images[:1])
    if not torch.equal(in_two, again):
        raise InputError("it returns other numbers at the second call, although in eval mode")
    if not torch.allclose(in_two[:1], alone, rtol=TOLERANCE, atol=TOLERANCE):
        raise InputError(
            "in eval mode its answer to an image depends on the others in the batch, so a"
            " prediction would depend on what else is predicted"
        )


@contextmanager
def _all_branches(network: nn.Module, data: ImageDataset) -> Iterator[None]:
    """Let heads and branches count that begin at zero, and hide what is in them.

    In place: what a hook has stored in a closure would be that of the network, not of a copy.
    """
    random, images = torch.Generator().manual_seed(0), normalise(few(data.training, 2).images)
    hiding = {
        parameter: parameter.detach().clone()
        for parameter in network.parameters()
        if parameter.requires_grad and parameter.numel() and (parameter.abs() < SMALL).all()
    }
    for parameter in hiding:
        scale = math.prod(parameter.shape[1:]) ** -0.5
        parameter.data.copy_(torch.randn(parameter.shape, generator=random) * scale)
    if hiding and not network(images).isfinite().all():
        _put_back(hiding)
    try:
        yield
    finally:
        _put_back(hiding)


def _put_back(values: Mapping[nn.Parameter, Tensor]) -> None:
    for parameter, value in values.items():
        parameter.data.copy_(value)


@torch.no_grad()
def _check_export(network: nn.Module, settings: Arguments, data: ImageDataset) -> None:
    """Export the network with two images as an example, and compute three with it."""
    archive = BytesIO()
    with redirect_stderr(StringIO()):  # torch also prints the program that it can't export
        program = export_network(portable_network(network), settings, data)
        torch.export.save(program, archive)
    pixels = few(data.training, 3).images
    program.module()(pixels[:2])
    try:
        program.module()(pixels)
    except Exception:  # of many kinds
        raise InputError(
            "it then takes 2 images only, as in the example; `len(x)` and `int(x.shape[0])` in a"
            " network do that, `x.size(0)` and `torch.flatten(x, 1)` do not"
        ) from None
    try:
        check_archive(archive.getvalue())
    except InputError as error:
        raise InputError(
            f"{error}, so the model would not be loaded; leave out conditions on the batch's size"
            " and operators that are not torch's"
        ) from None
    archive.seek(0)
    found = torch.export.load(archive).module()(pixels)
    if not torch.allclose(found, PixelClassifier(network)(pixels), atol=1e-4):
        raise InputError("what is exported computes other numbers than the network")
