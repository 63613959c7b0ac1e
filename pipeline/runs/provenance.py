"""What a run's result depends on, for its tags and inputs: code, environment, data and files."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run

from pipeline.ablation.inputs import NOTHING, Inputs, differences, differences_here
from pipeline.ablation.recording import inputs_of
from pipeline.ablation.source import (
    DEFAULT_FILE,
    PACKAGE,
    file_of,
    source_digest,
    source_files,
)
from pipeline.ablation.syntax import combined_digest
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset, Split
from pipeline.errors import InputError
from pipeline.machine import describe_machine
from pipeline.store.artifacts import read_artifact
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import DETAILS, tags_of

# The modules that compute a run's numbers; a test checks the list against what training imports.
# Those that read images are not among them, since what they read is digested.
RESULT_CODE = (
    "ablation/definition.py",
    "ablation/loading.py",
    "data/augmentation.py",
    "data/dataset.py",
    "data/strata.py",
    "randomness.py",
    "training/**/*.py",
)
# MLflow limits a digest to 36 characters; tags hold all 64 of the sha256.
DIGEST_CHARACTERS = 32
ABLATION_FOLDER = "ablation"  # of a run's files
# By variant, what its numbers depend on beside code and data. The tag is empty if that is nothing.
INPUTS_FILE = "inputs.json"
INPUTS_TAG = "inputs_digest"


@cache
def code_digest(ablation: str) -> str:
    """sha256 (hex) of the code that determines a run's numbers, as this process found it.

    It includes the ablation's file and what that imports from its own folder. Comments, docstrings
    and formatting do not count.

    Runs with equal digests may be compared and reused, whatever else a commit has changed.
    """
    files = sorted(path for pattern in RESULT_CODE for path in PACKAGE.glob(pattern))
    digests = combined_digest(files) + source_digest(ablation)
    return hashlib.sha256(digests.encode()).hexdigest()


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


def images_of(run: Run) -> str | None:
    """What a run says of its images, as `ImageDataset.description` does; None if it doesn't.

    The digest of the data does not cover their shape.
    """
    text = tags_of(run).get("images")
    if text and DETAILS not in run.data.tags:  # earlier versions gave the height first
        return re.sub(r"(\d+)x(\d+)(?= pixels)", r"\2x\1", text)
    return text


@in_store
def log_ablation(reference: str) -> None:
    """Store the code of an ablation with the active run: its file may change."""
    files = source_files(reference)
    folder = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:  # byte by byte: a file may have any encoding
        inner = path.parent.relative_to(folder).as_posix()
        mlflow.log_artifact(str(path), f"{ABLATION_FOLDER}/{inner}".removesuffix("/."))


def inputs_of_run(config: Config, parent: Run | None) -> Inputs:
    """What was recorded for a run: in this process, or by its study, which has tried it.

    Raises InputError if something has changed since the study began.
    """
    recorded = read_inputs(parent, config.variant) if parent else None
    if recorded is None:
        return inputs_of(config.ablation, config.variant)
    if now := differences_here(recorded, config.ablation):
        raise InputError(f"not as when the study began: {now}; start the study again")
    return recorded._replace(folder=str(file_of(config.ablation).parent))


def inputs_tag(*inputs: Inputs) -> dict[str, str]:
    """The tag for what variants depend on: a digest, since the list may be too long for a tag."""
    digests = sorted({one.digest for one in inputs} - {""})
    return {INPUTS_TAG: hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""}


@in_store
def log_inputs(inputs: Mapping[str, Inputs]) -> None:
    """Store what variants depend on with the active run, if there is anything."""
    if any(one.digest for one in inputs.values()):
        mlflow.log_dict({name: one.as_dict() for name, one in inputs.items()}, INPUTS_FILE)


def read_inputs(run: Run, variant: str) -> Inputs | None:
    """What a run has recorded for a variant; None if it has not, as those of earlier versions."""
    tag = tags_of(run).get(INPUTS_TAG)
    if not tag:
        return None if tag is None else NOTHING
    recorded = json.loads(read_artifact(run, INPUTS_FILE, expected=True) or b"{}")
    return Inputs.from_dict(recorded[variant]) if variant in recorded else None


def changed_inputs(run: Run, variant: str, now: Inputs) -> str:
    """Say in one line what has changed since a run of the variant; empty if nothing has.

    Runs of earlier versions have recorded nothing, and are known by their code.
    """
    if tags_of(run).get(INPUTS_TAG) in (None, inputs_tag(now)[INPUTS_TAG]):
        return ""
    return differences(read_inputs(run, variant) or NOTHING, now)
