"""Whether what trains a network fits it and the loop: a step, criterion, optimizer, schedule."""

from collections.abc import Iterator
from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pipeline.data.augmentation import Augmentation
from pipeline.errors import InputError, shortlist
from pipeline.models.trial.repeating import KEEP, few, leaves_one_over
from pipeline.store.outages.failures import first_line
from pipeline.training.batches import TrainingBatches
from pipeline.training.epoch import logits_of, mapped
from pipeline.training.loop import fast_step
from pipeline.training.spec import RunSpec
from pipeline.training.stateful import OF_MODULES, Parts

TOLERANCE = 1e-3  # below which a loss says nothing of its relation to another one
MEAN = "the mean loss of the batch"


def train_once(spec: RunSpec) -> tuple[list[str], list[str]]:
    """Take a step as in training.

    Returns the attributes that changed and are not saved, and what is wrong without preventing it.
    """
    augmentation = spec.augmentation
    if not isinstance(augmentation, Augmentation):
        raise InputError(f"augmentation returns {augmentation!r}; it must be an Augmentation")
    network, criterion, optimizer = spec.build()
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer returns {optimizer!r}; it must be a torch.optim.Optimizer")
    closure = signature(type(optimizer).step).parameters.get("closure")
    if closure and closure.default is closure.empty:
        raise InputError(
            f"the optimizer {type(optimizer).__name__} needs a closure to compute the loss again;"
            " choose one whose step() takes none"
        )
    warnings = _neglected(spec.config.lr, network, criterion, optimizer)
    warnings += _check_schedule(spec, optimizer)
    parts = Parts(network, criterion, optimizer)
    step = fast_step(network, criterion, optimizer, spec.precision, spec.config.batch_size)
    network.train()
    for count in (1, 2) if leaves_one_over(spec) else (2,):
        split = few(spec.data.training, count)
        batches = TrainingBatches(split, count, spec.config.seed, spec.device, augmentation)
        ((images, labels),) = batches
        try:
            outputs = network(images)
            _check_logits(outputs, (count, spec.data.num_classes))
            _check_criterion(spec, criterion, outputs, labels)
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
        warnings.append(f"training does not reach {shortlist(unreached)}")
    if unsaved:
        warnings.append(
            f"{shortlist(unsaved)} changes in training, and a continued run begins with a new one;"
            f" {KEEP}"
        )
    return unsaved, warnings


def _neglected(
    lr: float, network: nn.Module, criterion: nn.Module, optimizer: Optimizer
) -> list[str]:
    """Say which parameters a new optimizer does not train, and whether it ignores `lr`."""
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    missing = [name for name, one in _trained(network, criterion).items() if id(one) not in held]
    warnings = [f"the optimizer does not hold {shortlist(missing)}"] if missing else []
    if all(group.get("lr") != lr for group in optimizer.param_groups):
        warnings.append(f"no group of the optimizer's parameters has the lr {lr:g}")
    if unlisted := [*_unregistered(network, "network"), *_unregistered(criterion, "criterion")]:
        warnings.append(
            f"{shortlist(unlisted)} is not trained, since it is in a plain list or dictionary; use"
            " nn.ModuleList, nn.ModuleDict or nn.ParameterList"
        )
    return warnings


def _unregistered(root: nn.Module, part: str) -> list[str]:
    """The attributes that hold parameters in a list or a dictionary, of which torch knows nothing.

    Not one that lists what is registered elsewhere, nor what needs no gradient.
    """
    known = {id(parameter) for parameter in root.parameters()}
    return [
        ".".join(filter(None, (part, path, name)))
        for path, module in root.named_modules()
        for name, value in vars(module).items()
        if name not in OF_MODULES
        and any(one.requires_grad and id(one) not in known for one in _listed(value))
    ]


def _listed(value: object) -> Iterator[nn.Parameter]:
    """The parameters in lists and dictionaries, at any depth."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _listed(one)


def _trained(network: nn.Module, criterion: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are to be trained, by name."""
    named = (
        *network.named_parameters(),
        *((f"criterion.{name}", one) for name, one in criterion.named_parameters()),
    )
    return {name: one for name, one in named if one.requires_grad}


def _check_schedule(spec: RunSpec, optimizer: Optimizer) -> list[str]:
    """Raise InputError if the scheduler is made for another number of steps than it will take.

    Returns warnings about what is planned for another number of steps and may be meant so.
    """
    steps_per_epoch, epochs = spec.steps_per_epoch, spec.config.epochs
    scheduler, each_batch = spec.schedule(optimizer), spec.is_scheduled_by_batch
    if scheduler is None:
        _check_some_schedule(spec)
        return []
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
    steps = epochs * (steps_per_epoch if each_batch else 1)
    planned = getattr(scheduler, "total_steps", steps)
    if planned != steps:
        raise InputError(
            f"schedule returns {kind} for {planned} steps, and takes {steps}: one after each"
            f" {'batch' if each_batch else 'epoch'}; a schedule with a parameter steps_per_epoch"
            " takes one after each batch, others after each epoch"
        )
    parts = {
        one: getattr(one, "T_max", getattr(one, "total_steps", steps))
        for one in _chained(scheduler)
    }
    short = steps_per_epoch > 1 and each_batch
    return [
        f"schedule plans {type(one).__name__} for {planned} steps, and it takes {steps}"
        for one, planned in parts.items()
        if planned > steps or (short and planned <= epochs)
    ]


def _check_some_schedule(spec: RunSpec) -> None:
    """Raise InputError if a schedule returns None for every variant, as without its `return`."""
    try:
        others = (spec.changed(variant=variant) for variant in spec.ablation.variants)
        if not spec.ablation.schedule or any(one.has_schedule for one in others):
            return
    except Exception:  # a variant that can't be built is reported if it is asked for
        return
    raise InputError(
        "schedule returns None for every variant; it must return a scheduler of torch for some, or"
        " be left out"
    )


def _chained(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """A scheduler, and those that it chains."""
    yield scheduler
    for one in getattr(scheduler, "_schedulers", ()):
        yield from _chained(one)


def _check_logits(outputs: object, shape: tuple[int, int]) -> None:
    """Raise InputError unless accuracy can be measured in training."""
    found = logits_of(outputs)
    if not isinstance(found, Tensor) or found.shape != shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        among = "" if found is outputs else f" as the first of its {type(outputs).__name__}"
        raise InputError(
            f"in training its network returns {got}{among} instead of the logits {list(shape)};"
            " they must come first, or be called `logits` in a dictionary"
        )


def _check_criterion(spec: RunSpec, criterion: nn.Module, outputs: object, labels: Tensor) -> None:
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
    losses = list[float]()
    with suppress(Exception):  # it may take outputs that can't be repeated
        for times in (1, 2, 3):
            repeated = _repeated(outputs, times), _repeated(labels, times)
            losses.append(float(spec.criterion()(*repeated).detach()))
    ratios = [loss / losses[0] for loss in losses[1:] if abs(losses[0]) > TOLERANCE]
    if len(ratios) == 2 and all(abs(r - n) < 0.1 * n for n, r in enumerate(ratios, 2)):
        raise InputError(f"criterion returns a sum over the batch; it must return {MEAN}")


def _repeated(outputs: Any, times: int) -> Any:
    """The outputs for several times as many images, which are the same."""
    return mapped(lambda one: torch.cat([one] * times) if one.ndim else one, outputs)
