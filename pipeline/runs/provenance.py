"""What a run's result depends on, for its tags and inputs: code, environment, data and files."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

import mlflow
import torch
from mlflow.data.dataset import Dataset
from mlflow.data.numpy_dataset import from_numpy

from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import (
    INPUTS_FILE,
    NOTHING,
    Inputs,
    differences_here,
    digest_of,
    input_differences,
)
from pipeline.ablation.recording import inputs_of
from pipeline.ablation.source import (
    PACKAGE,
    file_of,
    source_files,
)
from pipeline.ablation.syntax import combined_digest
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset, Split
from pipeline.errors import InputError
from pipeline.runs.identity import Identity
from pipeline.runs.record import ProgramRecord, RunRecord, StudyRecord
from pipeline.store import uploads
from pipeline.store.artifacts import read_artifact
from pipeline.store.outages.waiting import in_store
from pipeline.training.spec import RunSpec

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


@cache
def _result_code_digest() -> str:
    """sha256 (hex) of this project's part of the code, as this process found it."""
    return combined_digest(sorted(p for one in RESULT_CODE for p in PACKAGE.glob(one)))


def code_digest(ablation: Ablation) -> str:
    """sha256 (hex) of the code that determines a run's numbers.

    It includes the ablation's file and what that imports from its own folder. Comments, docstrings
    and formatting do not count.

    Runs with equal digests may be compared and reused, whatever else a commit has changed.
    """
    return hashlib.sha256((_result_code_digest() + ablation.source_digest).encode()).hexdigest()


def identity_of(spec: RunSpec) -> Identity:
    """What makes a run that of the spec."""
    config, data = spec.config, spec.data
    shared = {one.name: getattr(config, one.name) for one in fields(Config)} | data.identity
    return Identity(
        **{one.name: shared[one.name] for one in fields(Identity) if one.name in shared}
        | {
            "ablation": spec.ablation.name,
            "device": spec.device.type,
            "precision": spec.precision,
            "threads": spec.threads,
            "code_digest": code_digest(spec.ablation),
            "torch": str(torch.__version__),
        }
    )


@in_store
def log_dataset(
    data: ImageDataset, contexts: Sequence[str] = ("training", "validation", "test")
) -> None:
    """Log the splits of `data` as inputs of the active run; missing splits are skipped."""
    splits: dict[str, Split] = {
        context: split for context in contexts if (split := getattr(data, context)) is not None
    }
    datasets: list[Dataset | None] = [
        from_numpy(
            split.images.numpy(),
            targets=split.labels.numpy(),
            source=data.source,  # type: ignore[arg-type]  # None: the code is the source
            name=f"{data.name}-{context}",
            digest=split.digest[:DIGEST_CHARACTERS],
        )
        for context, split in splits.items()
    ]
    mlflow.log_inputs(datasets, contexts=list(splits), tags_list=[None for _ in splits])


def log_ablation(ablation: Ablation) -> None:
    """Store the code of an ablation with the active run: its file may change."""
    files = source_files(ablation.source)
    folder = Path(os.path.commonpath([path.parent for path in files]))
    # Byte by byte: a file may have any encoding.
    uploads.log_files(
        {
            f"{ABLATION_FOLDER}/{path.relative_to(folder).as_posix()}": path.read_bytes()
            for path in files
        }
    )


def inputs_of_run(spec: RunSpec, study: StudyRecord | None) -> Inputs:
    """What was recorded for a run: in this process, or by its study, which has tried it.

    Raises InputError if something has changed since the study began.
    """
    source = spec.ablation.source
    if study is None:
        return inputs_of(source, spec.variant)
    recorded = read_inputs(study, spec.variant)
    if now := differences_here(recorded, source):
        raise InputError(f"not as when the study began: {now}; start the study again")
    return recorded._replace(folder=str(file_of(source).parent))


def log_inputs(inputs: Mapping[str, Inputs]) -> None:
    """Store what variants depend on with the active run, if there is anything."""
    if any(one.digest for one in inputs.values()):
        values = {name: one.as_dict() for name, one in inputs.items()}
        uploads.log_files({INPUTS_FILE: json.dumps(values, indent=2).encode()})


def read_inputs(record: RunRecord | ProgramRecord | StudyRecord, variant: str) -> Inputs:
    """What a run has recorded for a variant."""
    if not record.inputs_digest:
        return NOTHING
    recorded = json.loads(read_artifact(record.artifact_uri, INPUTS_FILE, expected=True) or b"{}")
    return Inputs.from_dict(recorded[variant]) if variant in recorded else NOTHING


def changed_inputs(record: RunRecord | ProgramRecord, variant: str, now: Inputs) -> str:
    """Say in one line what has changed since a run of a variant; empty if nothing has."""
    if record.inputs_digest == digest_of(now):
        return ""
    return input_differences(read_inputs(record, variant), now)
