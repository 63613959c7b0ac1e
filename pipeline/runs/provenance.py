"""What a run's result depends on, for its tags and inputs: code, environment and data."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.data.numpy_dataset import from_numpy

from pipeline.ablation.loading import DEFAULT_FILE, source_digest, source_files
from pipeline.data.dataset import ImageDataset, Split
from pipeline.machine import describe_machine
from pipeline.store.waiting import in_store

PACKAGE = Path(__file__).parents[1]
# The code that determines a run's numbers; a test checks the list against what training imports.
RESULT_CODE = ("config.py", "randomness.py", "data/*.py", "ablation/*.py", "training/*.py")
# MLflow limits a digest to 36 characters; tags hold all 64 of the sha256.
DIGEST_CHARACTERS = 32
ABLATION_FOLDER = "ablation"  # of a run's files


@cache
def code_digest(ablation: str) -> str:
    """sha256 (hex) of the code that determines a run's numbers, as this process found it.

    It includes the ablation's file and what that imports from its own folder.

    Runs with equal digests may be compared and reused, whatever else a commit has changed.
    """
    files = sorted(path for pattern in RESULT_CODE for path in PACKAGE.glob(pattern))
    contents = [*(path.read_bytes() for path in files), source_digest(ablation).encode()]
    return hashlib.sha256(b"".join(contents)).hexdigest()


def git_dirty() -> str:
    """Whether the code differs from the commit MLflow records; `unknown` without git."""
    command = ["git", "-C", str(PACKAGE), "status", "--porcelain", ".", str(DEFAULT_FILE.parent)]
    try:
        changes = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return "true" if changes else "false"


@cache
def versions() -> dict[str, str]:
    """What the last bits of a run's numbers depend on beside its code: libraries and machine."""
    return {"torch": str(torch.__version__), "numpy": np.__version__, "machine": describe_machine()}


@cache
def environment() -> str:
    """List every installed package, as in a requirements file."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}, key=str.lower))


@in_store
def log_dataset(
    data: ImageDataset, contexts: Sequence[str] = ("training", "validation", "test")
) -> None:
    """Log the splits of `data` as inputs of the active run; missing splits are skipped."""
    for context in contexts:
        split: Split | None = getattr(data, context)
        if split is None:
            continue
        mlflow.log_input(
            from_numpy(
                split.images.numpy(),
                targets=split.labels.numpy(),
                source=data.source,  # type: ignore[arg-type]  # None: the code is the source
                name=f"{data.name}-{context}",
                digest=split.digest[:DIGEST_CHARACTERS],
            ),
            context=context,
        )


@in_store
def log_ablation(reference: str) -> None:
    """Store the code of an ablation with the active run: its file may change."""
    files = source_files(reference)
    folder = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        name = path.relative_to(folder).as_posix()
        mlflow.log_text(path.read_text(encoding="utf-8"), f"{ABLATION_FOLDER}/{name}")
