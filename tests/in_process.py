"""An engine that trains a study's runs in this process, one after the other.

It reports what the processes of `pipeline.execution.jobs` do, without the 5 s of a processor that
each of those takes to import torch and MLflow. Real ones are tested in tests/execution.
"""

from collections.abc import Sequence
from functools import partial

from mlflow.entities import Run

from pipeline.ablation.loading import load_ablation
from pipeline.ablation.source import source_digest
from pipeline.errors import StoreError
from pipeline.execution.tasks import (
    Event,
    Events,
    Progress,
    Task,
    _load_checked,
    outcome,
    printing_to,
    train,
)
from pipeline.runs.provenance import code_digest


def one_by_one(tasks: Sequence[Task], parent: Run, jobs: int, gpus: Sequence[str]) -> Events:
    """As `in_parallel`; a run's progress is told when it has ended."""
    forget_files()  # as a process that starts
    _load_checked.cache_clear()
    for task in tasks:
        yield task.cell, Progress()
        told: list[Event] = []
        with printing_to(told.append):
            ended = outcome(partial(train, task, parent, told.append))
        for event in told:
            yield task.cell, event
        if isinstance(ended, StoreError):
            raise ended
        yield task.cell, ended


def forget_files() -> None:
    """Read files again, as a new process does: another one of that name may have been written."""
    load_ablation.cache_clear()
    source_digest.cache_clear()
    code_digest.cache_clear()
