"""The state of a training as bytes, which tell whether they are whole."""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from platformdirs import user_state_path

from pipeline.config import Config
from pipeline.errors import MachineError
from pipeline.outbox import write_whole
from pipeline.training import TrainingState

DIGEST_BYTES = hashlib.sha256().digest_size


def fingerprint(config: Config, tags: Mapping[str, object]) -> str:
    """sha256 (hex) of all that decides a run's numbers but the number of its epochs.

    `tags` are the run's: they name data, code, device, precision and threads.
    """
    free = ("epochs", "data_dir", "device", "precision")
    settings = {name: value for name, value in config.as_dict().items() if name not in free}
    names = ("data_digest", "code_digest", "device", "precision", "threads")
    settings |= {name: str(tags[name]) for name in names}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def pack(state: TrainingState, fingerprint: str) -> bytes:
    """Return the state as bytes: a sha256, and what `torch.save` makes of it."""
    content = io.BytesIO()
    torch.save({"fingerprint": fingerprint, **state._asdict()}, content)
    return hashlib.sha256(content.getbuffer()).digest() + content.getbuffer()


def unpack(content: bytes, fingerprint: str) -> TrainingState | None:
    """Return the state that was packed, on the CPU; None if any byte is another one.

    Or if it belongs to another run. Nothing is unpickled but tensors and plain values.
    """
    digest, saved = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(saved).digest() != digest:
        return None
    try:
        loaded = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError):  # something else is in there, or nothing
        return None
    return TrainingState(**loaded) if loaded.pop("fingerprint", "") == fingerprint else None


def kept_file(run_id: str) -> Path:
    """Where the state of a run is kept until the store has it; the same from every folder."""
    return user_state_path("cifar100-cnn") / f"{run_id}.pt"


def keep(run_id: str, content: bytes) -> Path:
    """Keep the state of a run in a file, whole or not at all. Raises MachineError if it can't."""
    path = kept_file(run_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise MachineError(
            f"the store does not answer, and {path} can't be written ({error}); once both can be,"
            f" go on by: python -m pipeline train --resume {run_id}"
        ) from None
    return path
