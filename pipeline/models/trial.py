"""Try each variant on a few images before any training: what fails now would fail after hours."""

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import replace
from inspect import signature
from io import BytesIO, StringIO
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.ablation.definition import Settings
from pipeline.ablation.loading import explain, load_ablation
from pipeline.ablation.recording import record_inputs
from pipeline.config import Config
from pipeline.data.augmentation import Augmentation, normalise
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.models.export import PixelClassifier, export_network, portable_network
from pipeline.models.repeating import (
    DRAW,
    KEEP,
    check_continued,
    check_repeated,
    few,
    leaves_one_over,
    steps_of,
    train_epochs,
)
from pipeline.models.safety import check_archive
from pipeline.store.failures import first_line
from pipeline.training.batches import TrainingBatches
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.epoch import mapped
from pipeline.training.loop import (
    build_network,
    fast_step,
    make_criterion,
    network_settings,
    prepare,
    schedule_of,
    unlike_baseline,
)
from pipeline.training.state import Parts

T = TypeVar("T")
CPU = torch.device("cpu")
TOLERANCE = 1e-3  # relative
MEAN = "the mean loss of the batch"
MOST_NAMES = 5  # of classes, in a warning


def try_variants(config: Config, data: ImageDataset, variants: Iterable[str]) -> None:
    """Build, train and export the network of each variant, on up to three images.

    Raises InputError, naming the variant, if its network can't be built, repeated or exported, if
    it does not return finite logits `[N, num_classes]`, or if a part of its recipe fails. Prints a
    warning if training does not reach a parameter, or if validation lacks classes.
    """
    _warn_of_classes(data)
    ablation = load_ablation(config.ablation)
    record_inputs(config, data, ablation)
    baseline = next(iter(ablation.variants))
    # Each run compares its initial weights with the baseline's.
    _attempt(baseline, "its network can't be built", build_network, _of(config, baseline), data)
    for variant in variants:
        _try_network(_of(config, variant), data)


def _warn_of_classes(data: ImageDataset) -> None:
    present = set(data.validation.labels.tolist())
    lacking = [repr(name) for label, name in enumerate(data.class_names) if label not in present]
    if lacking:
        shown = ", ".join(lacking[:MOST_NAMES])
        more = f" and {len(lacking) - MOST_NAMES} more" if len(lacking) > MOST_NAMES else ""
        kind = "held-out" if data.test else "validation"
        why = ": they have only one training image" if data.test else ""
        print(f"warning: no {kind} image is of {shown}{more}{why}", file=sys.stderr)


def _of(config: Config, variant: str) -> Config:
    return replace(config, variant=variant)


def _attempt(variant: str, what: str, action: Callable[..., T], *arguments: object) -> T:
    """Return what `action` returns, or say in one line what fails."""
    try:
        return action(*arguments)
    except Exception as error:  # whatever the user's code raises
        reason = str(error) if isinstance(error, InputError) else explain(error)
        raise InputError(f"variant {variant!r}: {what}: {reason}") from None


def _try_network(config: Config, data: ImageDataset) -> None:
    name = config.variant
    network = _attempt(name, "its network can't be built", build_network, config, data)
    _attempt(name, "its initial weights can't be repeated", _check_weights, network, config, data)
    if apart := unlike_baseline(config, data, network):
        more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
        print(
            f"note: variant {name!r}: {apart[0]}{more} of its parameters can't start out as in the"
            " baseline",
            file=sys.stderr,
        )
    _attempt(name, "its network fails on images", _check_outputs, network, data)
    unsaved, warnings = _attempt(name, "it can't be trained", _train_once, config, data)
    for warning in warnings:
        print(f"warning: variant {name!r}: {warning}", file=sys.stderr)
    first = _attempt(name, "it can't be trained", train_epochs, config, data)
    _attempt(name, "a run can't be repeated", check_repeated, config, data, first)
    _attempt(name, "a run can't be continued", check_continued, config, data, first, unsaved)
    settings = network_settings(config, data)
    _attempt(name, "it can't be exported as pt2", _check_export, network, settings, data)


def _check_weights(network: nn.Module, config: Config, data: ImageDataset) -> None:
    again = build_network(config, data).state_dict()
    for name, value in network.state_dict().items():
        if not torch.equal(value, again[name]):
            raise InputError(f"{name} differs with the same seed; {DRAW}")


@torch.no_grad()
def _check_outputs(network: nn.Module, data: ImageDataset) -> None:
    network.eval()
    images = normalise(few(data.training, 2).images)
    answers = list[Tensor]()
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
        answers.append(found[:1])
    if not torch.equal(network(images), network(images)):
        raise InputError("it returns other numbers at the second call, although in eval mode")
    in_two, alone = answers
    if not torch.allclose(in_two, alone, rtol=TOLERANCE, atol=TOLERANCE):
        raise InputError(
            "in eval mode its answer to an image depends on the others in the batch, so a"
            " prediction would depend on what else is predicted"
        )


def _train_once(config: Config, data: ImageDataset) -> tuple[list[str], list[str]]:
    """Take a step as in training.

    Returns the attributes that changed and are not saved, and what is wrong without preventing it.
    """
    augmentation = load_ablation(config.ablation).augmentation_of(config.variant)
    if not isinstance(augmentation, Augmentation):
        raise InputError(f"augmentation returns {augmentation!r}; it must be an Augmentation")
    network, criterion, optimizer = prepare(config, data, CPU)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer returns {optimizer!r}; it must be a torch.optim.Optimizer")
    closure = signature(type(optimizer).step).parameters.get("closure")
    if closure and closure.default is closure.empty:
        raise InputError(
            f"the optimizer {type(optimizer).__name__} needs a closure to compute the loss again;"
            " choose one whose step() takes none"
        )
    warnings = _neglected(config, network, criterion, optimizer)
    _check_schedule(config, optimizer, steps_of(config, data))
    parts = Parts(network, criterion, optimizer)
    step = fast_step(network, criterion, optimizer, _precision(config), config.batch_size)
    network.train()
    for count in (1, 2) if leaves_one_over(config, data) else (2,):
        split = few(data.training, count)
        ((images, labels),) = TrainingBatches(split, count, config.seed, CPU, augmentation)
        try:
            outputs = network(images)
            _check_criterion(config, criterion, outputs, labels)
            step(images, labels)
        except ValueError as error:
            if count > 1 or isinstance(error, InputError):
                raise
            raise InputError(
                f"{error}; choose a batch_size that does not leave one image over"
            ) from None
    unsaved = parts.unsaved()
    trained = _trained(network, criterion)
    if unreached := [name for name, one in trained.items() if one.grad is None]:
        warnings.append(f"training does not reach {', '.join(unreached)}")
    if unsaved:
        warnings.append(
            f"{', '.join(unsaved)} changes in training, and a continued run begins with a new one;"
            f" {KEEP}"
        )
    return unsaved, warnings


def _neglected(
    config: Config, network: nn.Module, criterion: nn.Module, optimizer: Optimizer
) -> list[str]:
    """Say which parameters a new optimizer does not train, and whether it ignores `lr`."""
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    missing = [name for name, one in _trained(network, criterion).items() if id(one) not in held]
    warnings = [f"the optimizer does not hold {', '.join(missing)}"] if missing else []
    if all(group.get("lr") != config.lr for group in optimizer.param_groups):
        warnings.append(f"no group of the optimizer's parameters has the lr {config.lr:g}")
    return warnings


def _trained(network: nn.Module, criterion: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are to be trained, by name."""
    named = (
        *network.named_parameters(),
        *((f"criterion.{name}", one) for name, one in criterion.named_parameters()),
    )
    return {name: one for name, one in named if one.requires_grad}


def _check_schedule(config: Config, optimizer: Optimizer, steps_per_epoch: int) -> None:
    """Raise InputError if the scheduler is made for another number of steps than it will take."""
    scheduler, each_batch = schedule_of(config, optimizer, steps_per_epoch)
    kind = type(scheduler).__name__
    if each_batch and isinstance(scheduler, ReduceLROnPlateau):
        raise InputError(
            f"schedule returns {kind}, which takes a step after each epoch; leave its parameter"
            " steps_per_epoch out"
        )
    if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != "min":
        raise InputError(
            f"schedule returns {kind} with mode {scheduler.mode!r}; it follows the validation loss,"
            " which should fall: leave mode out"
        )
    steps = config.epochs * (steps_per_epoch if each_batch else 1)
    planned = getattr(scheduler, "total_steps", steps)
    if planned != steps:
        raise InputError(
            f"schedule returns {kind} for {planned} steps, and takes {steps}: one after each"
            f" {'batch' if each_batch else 'epoch'}; a schedule with a parameter steps_per_epoch"
            " takes one after each batch, others after each epoch"
        )


def _check_criterion(config: Config, criterion: nn.Module, outputs: object, labels: Tensor) -> None:
    """Raise InputError unless the criterion takes what the network returns, and gives a mean."""
    try:
        loss: object = criterion(outputs, labels)
    except Exception as error:
        if isinstance(outputs, Tensor):
            raise
        raise InputError(
            f"in training its network returns {type(outputs).__name__}, which the criterion"
            f" {type(criterion).__name__} does not take ({first_line(error)}); give one that does,"
            " or return the logits alone"
        ) from None
    if not isinstance(loss, Tensor) or loss.shape:
        found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"criterion returns {found}; it must return one number, {MEAN}")
    once, *more = [
        float(make_criterion(config)(_repeated(outputs, times), _repeated(labels, times)).detach())
        for times in (1, 2, 3)
    ]
    ratios = [loss / once for loss in more] if abs(once) > TOLERANCE else []
    if ratios and all(abs(r - times) < 0.1 * times for times, r in enumerate(ratios, 2)):
        raise InputError(f"criterion returns a sum over the batch; it must return {MEAN}")


def _repeated(outputs: Any, times: int) -> Any:
    """The outputs for several times as many images, which are the same."""
    return mapped(lambda one: torch.cat([one] * times), outputs)


def _precision(config: Config) -> str:
    return choose_precision(config.precision, choose_device(config.device))


@torch.no_grad()
def _check_export(network: nn.Module, settings: Settings, data: ImageDataset) -> None:
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
