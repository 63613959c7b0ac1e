"""The state from which training can be continued, and its serialisation."""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from pipeline.config import Config

DIGEST_BYTES = hashlib.sha256().digest_size

History = list[dict[str, float]]  # the metrics of each epoch


class TrainingState(NamedTuple):
    """Everything needed to continue training after an epoch.

    history: the metrics of each epoch. network, optimizer, scheduler: their state dicts. The random
    streams have no state: each is seeded in every epoch from seed and epoch (`randomness`).
    """

    history: History
    network: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]


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


def unpack(content: bytes, fingerprint: str) -> TrainingState | None:
    """Return the packed state, on the CPU; None if any byte has changed.

    Also None if it belongs to another run. Only tensors and plain values are unpickled.
    """
    digest, saved = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(saved).digest() != digest:
        return None
    try:
        loaded = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError):  # other content, or none
        return None
    return TrainingState(**loaded) if loaded.pop("fingerprint", "") == fingerprint else None
