"""How commands run within a process of tests: an engine for studies, and what is computed once.

A new process takes 5 s of a processor to import torch and MLflow.
"""

from collections.abc import Sequence
from functools import cache, partial

from mlflow.store.db import utils as databases

from pipeline.ablation import syntax
from pipeline.data import synthetic
from pipeline.errors import StoreError
from pipeline.execution.tasks import (
    Event,
    Events,
    Progress,
    Task,
    _specify_checked,
    outcome,
    printing_to,
)
from pipeline.runs.record import StudyRecord


def one_by_one(tasks: Sequence[Task], study: StudyRecord, jobs: int, gpus: Sequence[str]) -> Events:
    """Train a study's runs here, one after the other, and tell what processes of their own would.

    It stands for `pipeline.execution.jobs.in_parallel`, which tests/execution test. A run's
    progress is told when it has ended.
    """
    _specify_checked.cache_clear()  # as a process that starts
    for task in tasks:
        yield task.cell, Progress()
        told: list[Event] = []
        with printing_to(told.append):
            ended = outcome(partial(task.make, study, told.append))
        for event in told:
            yield task.cell, event
        if isinstance(ended, StoreError):
            raise ended
        yield task.cell, ended


def compute_once() -> None:
    """Compute once what is always the same, and takes each command a part of a second."""
    synthetic.generate = cache(synthetic.generate)  # half of one
    syntax.ast_digest = cache(syntax.ast_digest)  # of each of the project's own files
    databases._get_latest_schema_revision = cache(databases._get_latest_schema_revision)
