"""What is trained and what trains it: how its state is taken, and put back."""

import hashlib
import pickle
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Set
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pipeline.errors import InputError, shortlist
from pipeline.training.state import AttributePath, TrainingState, is_plain

# Attributes of every module and optimiser, which are neither set by a user nor in need of saving.
OF_MODULES = vars(nn.Module()).keys()
OF_OPTIMIZERS = vars(torch.optim.SGD([nn.Parameter(torch.zeros(()))])).keys()
PARTS = ("network", "criterion", "optimizer", "scheduler")


class Owner(NamedTuple):
    """What holds attributes: the part that it is in, its path there, and what it holds by name.

    known: names of what is saved otherwise, or is no state. saves_itself: whether its class says
    what its state is.
    """

    part: str
    path: str
    held: MutableMapping[str, Any]
    known: Collection[str] = ()
    saves_itself: bool = False


class Parts:
    """What is trained and what trains it: all that has a state. Make it before the first step."""

    def __init__(
        self,
        network: nn.Module,
        criterion: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
    ) -> None:
        self.network, self.criterion = network, criterion
        self.optimizer, self.scheduler = optimizer, scheduler
        self.begun = {path: _digest(value) for path, value in self._attributes()}
        self.parameters = dict(self._parameters())  # kept, so that no other gets their ids
        self.structure = self._structure()

    def state(self, history: list[dict[str, float]]) -> TrainingState:
        """The state now. It shares its tensors, which the next step changes."""
        return TrainingState(
            history,
            self.network.state_dict(),
            self.criterion.state_dict(),
            self.optimizer.state_dict(),
            dict(self.scheduler.state_dict()) if self.scheduler else {},
            {path: value for path, value in self._changed() if is_plain(value)},
            tuple(name for name, one in self._parameters() if not one.requires_grad),
            tuple(self.unsaved()),
        )

    def load(self, state: TrainingState) -> None:
        """Go back to a state. Raises InputError, naming the part, if a new one can't take it."""
        for part in PARTS:
            one, saved = getattr(self, part), getattr(state, part)
            if one is None:
                continue
            try:
                one.load_state_dict(saved)
            except Exception:  # of many kinds, and a user's own
                other = sorted(map(str, saved.keys() ^ one.state_dict().keys()))
                names = f" ({shortlist(other)})" if other else ""
                raise InputError(
                    f"a new {part} can't take the state of a trained one{names}; make all layers,"
                    " buffers and groups of parameters in __init__, with their final shapes"
                ) from None
        for name, parameter in self._parameters():
            parameter.requires_grad_(name not in state.frozen)
        self._load_attributes(state)

    @torch.no_grad()
    def _load_attributes(self, state: TrainingState) -> None:
        """Set what the state dicts leave out; tensors share their memory with what they shared."""
        saved = _tensors({"network": state.network, "criterion": state.criterion}, state.attributes)
        held = _tensors(
            {"network": self.network.state_dict(), "criterion": self.criterion.state_dict()},
            dict(self._attributes()),
        )
        before, now = _sharing(saved), _sharing(held)
        for owner in self._owners():
            for path, value in state.attributes.items():
                if path[:2] != (owner.part, owner.path):
                    continue
                shared = before.get(path, set())
                weights = [name for name in shared if len(name) == 2 and _alike(name, held, saved)]
                if weights:  # which are loaded
                    place = value.shape, value.stride(), value.storage_offset()
                    owner.held[path[2]] = held[weights[0]].as_strided(*place)
                elif shared and shared == now.get(path) and held[path].shape == value.shape:
                    held[path].copy_(value)  # what has a reference to it sees it
                else:
                    owner.held[path[2]] = value

    def unsaved(self) -> list[str]:
        """What has changed and a state leaves out: attributes, layers, and which are trained."""
        own = {(owner.part, owner.path) for owner in self._owners() if owner.saves_itself}
        names = [
            _dotted(*path)
            for path, value in self._changed()
            if not is_plain(value) and path[:2] not in own
        ]
        now = self._structure()
        every = {**self.structure, **now}
        names += [name for name in every if now.get(name) != self.structure.get(name)]
        # Of a layer that is new, not its weights too.
        return [one for one in names if not any(one.startswith(f"{other}.") for other in names)]

    def held_by_python(self) -> bytes:
        """What Python holds of all this, and a CUDA graph would repeat as it was at its capture.

        Numbers, where tensors are on the network's device, tensors elsewhere, and the states of the
        random generators.
        """
        device = next(self.network.parameters()).device
        values: list[Any] = [value for _, value in self._attributes()]
        for module in (self.network, self.criterion):
            values += [*module.parameters(), *module.buffers()]
        for held in self.optimizer.state.values():
            values += held.values()
        values += [{**group, "params": None} for group in self.optimizer.param_groups]
        seen = [
            one.data_ptr() if isinstance(one, Tensor) and one.device == device else _digest(one)
            for one in values
        ]
        return pickle.dumps((seen, random.getstate(), np.random.get_state()))

    def _changed(self) -> Iterator[tuple[AttributePath, Any]]:
        for path, value in self._attributes():
            if _digest(value) != self.begun.get(path):
                yield path, value

    def _attributes(self) -> Iterator[tuple[AttributePath, Any]]:
        """All that the parts hold and their state dicts leave out."""
        saved = {
            id(one)
            for _, module in self._modules()
            for one in (*module.modules(), *module.parameters())
        }
        for owner in self._owners():
            for name, value in owner.held.items():
                if name not in owner.known and not _is_reference(value, saved):
                    yield (owner.part, owner.path, name), value

    def _structure(self) -> dict[str, object]:
        """By name, what a state can't change: kinds of layers, what is trained, shapes."""
        found: dict[str, object] = {name: id(one) for name, one in self._parameters()}
        for part, module in self._modules():
            found |= {_dotted(part, path): type(one) for path, one in module.named_modules()}
            for path, one in module.state_dict().items():
                found.setdefault(_dotted(part, path), getattr(one, "shape", None))
        groups = [[id(one) for one in group["params"]] for group in self.optimizer.param_groups]
        return found | {"optimizer.param_groups": groups}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, module in self._modules():
            for path, one in module.named_parameters(remove_duplicate=False):
                yield _dotted(part, path), one

    def _modules(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("network", self.network), ("criterion", self.criterion)

    def _owners(self) -> Iterator[Owner]:
        for part, module in self._modules():
            for path, one in module.named_modules():
                if "_orig_mod" not in one._modules:  # what torch.compile puts around a module
                    own = type(one).get_extra_state is not nn.Module.get_extra_state
                    yield Owner(part, path, vars(one), OF_MODULES, own)
                saved = one._buffers.keys() - one._non_persistent_buffers_set
                yield Owner(part, f"{path} buffers", one._buffers, saved)
            for path, parameter in module.named_parameters():
                marks = [name for name in vars(parameter) if name.startswith("_dynamo_")]
                yield Owner(part, path, vars(parameter), marks)
        own = type(self.optimizer).state_dict is not Optimizer.state_dict
        yield Owner("optimizer", "", vars(self.optimizer), OF_OPTIMIZERS, own)


def _dotted(*names: str) -> str:
    return ".".join(filter(None, names))


def _tensors(
    states: Mapping[str, Mapping[str, Any]], attributes: Mapping[AttributePath, Any]
) -> dict[tuple[str, ...], Tensor]:
    """The tensors of state dicts, by part and name, and those of attributes."""
    named: dict[tuple[str, ...], Any] = {
        (part, name): value for part, state in states.items() for name, value in state.items()
    }
    return {
        name: value
        for name, value in (*named.items(), *attributes.items())
        if isinstance(value, Tensor) and value.layout is torch.strided
    }


def _sharing(tensors: Mapping[tuple[str, ...], Tensor]) -> dict[tuple[str, ...], set[Any]]:
    """The names of all tensors in the memory of each one."""
    groups = defaultdict(set)
    for name, one in tensors.items():
        groups[one.untyped_storage().data_ptr()].add(name)
    return {name: group for group in groups.values() for name in group}


def _alike(name: tuple[str, ...], *tensors: Mapping[tuple[str, ...], Tensor]) -> bool:
    """Whether a tensor has the same place in its memory in both."""
    one, other = (
        (found.stride(), found.storage_offset()) if (found := held.get(name)) is not None else None
        for held in tensors
    )
    return one == other


def _digest(value: object) -> bytes:
    """sha256 of a value's content; of an object that can't be pickled, of what it holds."""
    try:
        content = pickle.dumps(value)
    except Exception:  # of many kinds
        held = getattr(value, "__dict__", {})
        with suppress(Exception):
            held = {name: pickle.dumps(one) for name, one in held.items() if not callable(one)}
        content = repr(sorted(held)).encode() + b"".join(
            one for one in held.values() if isinstance(one, bytes)
        )
    return hashlib.sha256(content).digest()


def _is_reference(value: object, saved: Set[int]) -> bool:
    """Whether a value is, or lists, only modules and parameters that are saved anyway."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and value:
        return all(_is_reference(one, saved) for one in value)
    return id(value) in saved
