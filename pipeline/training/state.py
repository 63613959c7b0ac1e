"""The state from which training can be continued, and its serialisation."""

import hashlib
import io
import json
import pickle
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping, Set
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.serialization import safe_globals

from pipeline.config import Config

DIGEST_BYTES = hashlib.sha256().digest_size

History = list[dict[str, float]]  # the metrics of each epoch

# What `torch.load` reads without running code, once it is told so of NumPy's numbers and arrays.
NUMBERS = (type(None), bool, int, float, complex, str, bytes)
LISTS = (list, tuple, set, frozenset)
MAPPINGS = (dict, OrderedDict, Counter)
NUMPY: list[Any] = [
    *(np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0], np.ndarray, np.dtype),
    *{type(np.dtype(code)) for code in np.typecodes["All"]},
]
# Attributes of every module and optimiser, which are neither set by a user nor in need of saving.
OF_MODULES = vars(nn.Module()).keys()
OF_OPTIMIZERS = vars(torch.optim.SGD([nn.Parameter(torch.zeros(()))])).keys()


# The part that an attribute is in, the path of its owner there, and its name.
Path = tuple[str, str, str]


class StateError(ValueError):
    """A state can't be used; the message says why, as in `the state … is damaged`."""


class TrainingState(NamedTuple):
    """Everything needed to continue training after an epoch.

    history: the metrics of each epoch. network, criterion, optimizer, scheduler: their state dicts.
    attributes: what else has changed in these, by part, owner and name. The random streams have no
    state: each is seeded in every epoch from seed and epoch (`pipeline.randomness`).
    """

    history: History
    network: dict[str, Any]
    criterion: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    attributes: dict[Path, Any]


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

    def state(self, history: History) -> TrainingState:
        """The state now. It shares its tensors, which the next step changes."""
        return TrainingState(
            history,
            self.network.state_dict(),
            self.criterion.state_dict(),
            self.optimizer.state_dict(),
            dict(self.scheduler.state_dict()) if self.scheduler else {},
            {path: value for path, value in self._changed() if _is_plain(value)},
        )

    def load(self, state: TrainingState) -> None:
        """Go back to a state."""
        self.network.load_state_dict(state.network)
        self.criterion.load_state_dict(state.criterion)
        self.optimizer.load_state_dict(state.optimizer)
        if self.scheduler:
            self.scheduler.load_state_dict(state.scheduler)
        for part, owner, held, _ in self._owners():
            for path, value in state.attributes.items():
                if path[:2] == (part, owner):
                    _put(held, path[2], value)

    def unsaved(self) -> list[str]:
        """The attributes that have changed, and that a state leaves out."""
        return [
            f"{part}.{owner}.{name}".replace("..", ".")
            for (part, owner, name), value in self._changed()
            if not _is_plain(value)
        ]

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

    def _changed(self) -> Iterator[tuple[Path, Any]]:
        for path, value in self._attributes():
            if _digest(value) != self.begun.get(path):
                yield path, value

    def _attributes(self) -> Iterator[tuple[Path, Any]]:
        """All that the parts hold and their state dicts leave out."""
        modules = (self.network, self.criterion)
        saved = {id(one) for module in modules for one in (*module.modules(), *module.parameters())}
        for part, owner, held, known in self._owners():
            for name, value in held.items():
                if name not in known and not _is_reference(value, saved):
                    yield (part, owner, name), value

    def _owners(self) -> Iterator[tuple[str, str, MutableMapping[str, Any], Set[str]]]:
        """A part, the path of an owner in it, what that holds, and the names of what is known."""
        for part, module in (("network", self.network), ("criterion", self.criterion)):
            for path, one in module.named_modules():
                if "_orig_mod" not in one._modules:  # what torch.compile puts around a module
                    yield part, path, vars(one), OF_MODULES
                saved = one._buffers.keys() - one._non_persistent_buffers_set
                yield part, f"{path} buffers", one._buffers, saved
        yield "optimizer", "", vars(self.optimizer), OF_OPTIMIZERS


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
    if isinstance(value, list | tuple) and value:
        return all(_is_reference(one, saved) for one in value)
    return id(value) in saved


@torch.no_grad()
def _put(held: MutableMapping[str, Any], name: str, value: Any) -> None:
    """Set an attribute; a tensor in place, since others may share its memory."""
    now = held.get(name)
    if isinstance(now, Tensor) and isinstance(value, Tensor) and now.shape == value.shape:
        now.copy_(value)
    else:
        held[name] = value


def _is_plain(value: object) -> bool:
    """Whether a value is data: it can be saved, and loaded without running code."""
    kind = type(value)
    if kind is np.ndarray:
        return bool(value.dtype != object)  # type: ignore[attr-defined]
    if kind in LISTS:
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    if kind in MAPPINGS:
        return all(map(_is_plain, (*value.keys(), *value.values())))  # type: ignore[attr-defined]
    return kind in (*NUMBERS, Tensor) or isinstance(value, np.generic)


def fingerprint(config: Config, tags: Mapping[str, object]) -> str:
    """sha256 (hex) of all that determines a run's results except its number of epochs.

    `tags` are the run's tags for data, code, device, precision and threads, which also say what an
    ablation, a folder or `auto` stands for.
    """
    free = ("ablation", "epochs", "data_dir", "device", "precision")
    settings = {name: value for name, value in config.as_dict().items() if name not in free}
    names = ("data_digest", "code_digest", "device", "precision", "threads")
    settings |= {name: str(tags[name]) for name in names}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def pack(state: TrainingState, fingerprint: str) -> bytes:
    """Return the state as bytes: a sha256, then the output of `torch.save`."""
    content = io.BytesIO()
    torch.save({"fingerprint": fingerprint, **state._asdict()}, content)
    return hashlib.sha256(content.getbuffer()).digest() + content.getbuffer()


def unpack(content: bytes, fingerprint: str) -> TrainingState:
    """Return the packed state, on the device where it was.

    Only tensors and plain values are unpickled. Raises StateError if any byte has changed, if the
    state belongs to another run, or if it holds anything else.
    """
    digest, saved = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(saved).digest() != digest:
        raise StateError("is damaged")
    try:
        with safe_globals(NUMPY):
            loaded = torch.load(io.BytesIO(saved), weights_only=True)
    except (pickle.UnpicklingError, EOFError):  # other content, or none
        raise StateError("holds more than numbers and lists of them") from None
    if loaded.pop("fingerprint", "") != fingerprint:
        raise StateError("is that of another run")
    return TrainingState(**loaded)
