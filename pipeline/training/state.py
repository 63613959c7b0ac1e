"""The state from which training can be continued, and its serialisation."""

import hashlib
import io
import pickle
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

DIGEST_BYTES = hashlib.sha256().digest_size

# What `torch.load` reads without running code, once it is told so of NumPy's numbers, and the rest.
NUMBERS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
LISTS = (list, tuple, set, frozenset, torch.Size)
MAPPINGS = (dict, OrderedDict, Counter)
ALLOWED: list[Any] = [
    frozenset,
    *(np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0], np.ndarray, np.dtype),
    *{type(np.dtype(code)) for code in np.typecodes["All"]},
]

# The part that an attribute is in, the path of its owner there, and its name.
AttributePath = tuple[str, str, str]


class StateError(ValueError):
    """A state can't be used; the message says why, as in `the state … is damaged`."""


class TrainingState(NamedTuple):
    """Everything needed to continue training after an epoch.

    history: the metrics of each epoch. network, criterion, optimizer, scheduler: their state dicts.
    attributes: what else has changed in these, by part, owner and name. frozen: the parameters that
    need no gradient. unsaved: what has changed and is not in here, by name. The random streams have
    no state: each is seeded in every epoch from seed and epoch (`pipeline.randomness`).
    """

    history: list[dict[str, float]]
    network: dict[str, Any]
    criterion: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    attributes: dict[AttributePath, Any]
    frozen: tuple[str, ...] = ()
    unsaved: tuple[str, ...] = ()


def is_plain(value: object) -> bool:
    """Whether a value is data: it can be saved, and loaded without running code."""
    kind = type(value)
    if kind is np.ndarray:
        return bool(value.dtype != object)  # type: ignore[attr-defined]
    if kind in LISTS:
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if kind in MAPPINGS:
        return all(map(is_plain, (*value.keys(), *value.values())))  # type: ignore[attr-defined]
    return kind in (*NUMBERS, Tensor) or isinstance(value, np.generic)


def pack(state: TrainingState, fingerprint: str) -> bytes:
    """Return the state as bytes: a sha256, then the output of `torch.save`.

    fingerprint: of the run, to which it belongs.
    """
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
        with safe_globals(ALLOWED):
            loaded = torch.load(io.BytesIO(saved), weights_only=True)
    except (pickle.UnpicklingError, EOFError):  # other content, or none
        raise StateError("holds more than numbers and lists of them") from None
    if loaded.pop("fingerprint", "") != fingerprint:
        raise StateError("is that of another run")
    return TrainingState(**loaded)
