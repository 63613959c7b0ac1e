"""Find runs, studies and experiments in MLflow, as records; name those that can't be understood."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import mlflow
from mlflow.entities import Run

from pipeline.errors import InputError, plural, shortlist
from pipeline.runs.record import (
    ProgramRecord,
    RunRecord,
    StudyRecord,
    UnreadableRunError,
    from_tags,
)
from pipeline.store.initialization import deleted_experiment
from pipeline.store.lookup import (
    SHORT_ID,
    datasets_of,
    get_run,
    match_run,
    not_found,
    outputs_of,
    search,
)
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND, PARENT_TAG, kind_of, unpack

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
KINDS = {RunRecord: "train", ProgramRecord: "program", StudyRecord: "study"}

T = TypeVar("T", RunRecord, ProgramRecord, StudyRecord)


@dataclass
class Found(Generic[T]):
    """What a search has found, the newest first; and, by name, why others can't be understood."""

    records: list[T] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """A line that names the runs that are left out; empty if none is."""
        if not self.unreadable:
            return ""
        reasons = shortlist((f"{run}: {why}" for run, why in self.unreadable.items()), 3, "; ")
        return f"{plural(len(self.unreadable), 'run')} left out: {reasons}"


@in_store
def find_runs(
    experiment_id: str | None, tags: Mapping[str, str], *statuses: str
) -> Found[RunRecord]:
    """Find the training runs of an experiment, or of all, that have these tags, newest first.

    Filtered by `statuses`; by default, the finished ones.
    """
    return _find(RunRecord, experiment_id, tags, statuses or ("FINISHED",))


def find_program_runs(
    experiment_id: str | None, tags: Mapping[str, str], *statuses: str
) -> Found[ProgramRecord]:
    """Find the runs of programs in an experiment, or in all, that have these tags, newest first."""
    return _find(ProgramRecord, experiment_id, tags, statuses or ("FINISHED",))


def find_studies(experiment_id: str | None = None) -> Found[StudyRecord]:
    """Find the studies of an experiment, or of all, newest first."""
    return _find(StudyRecord, experiment_id, {}, STATUSES)


def _find(
    kind: type[T], experiment_id: str | None, tags: Mapping[str, str], statuses: Sequence[str]
) -> Found[T]:
    wanted = {KIND: KINDS[kind], **tags}
    condition = " and ".join(f"tags.{name} = '{value}'" for name, value in wanted.items())
    found = Found[T]()
    for run in search(condition, experiment_id):
        if run.info.status in statuses:
            try:
                found.records.append(read_record(kind, run))
            except UnreadableRunError as error:
                found.unreadable[named(run)] = str(error)
    return found


def children_of(experiment_id: str, study_id: str, *statuses: str) -> list[str]:
    """The ids of a study's runs, whatever they are of."""
    found = search(f"tags.`{PARENT_TAG}` = '{study_id}'", experiment_id)
    return [run.info.run_id for run in found if run.info.status in (statuses or STATUSES)]


def read_record(kind: type[T], run: Run) -> T:
    """Read what a run says. Raises UnreadableRunError if that can't be understood."""
    return from_tags(
        kind,
        unpack(run),
        run_id=run.info.run_id,
        experiment_id=str(run.info.experiment_id),
        name=run.info.run_name,
        status=run.info.status,
        started=run.info.start_time,
        ended=run.info.end_time,
        artifact_uri=run.info.artifact_uri,
        metrics=run.data.metrics,
        models=tuple(one.model_id for one in outputs_of(run)),
        datasets=datasets_of(run),
    )


def named(run: Run) -> str:
    """A run in a message: its name, and the beginning of its id."""
    return f"{run.info.run_name} ({run.info.run_id[:SHORT_ID]})"


def check_ours(run: Run, way_out: str = "") -> RunRecord:
    """Read a training run. Raises InputError, with the `way_out`, if it can't be understood."""
    try:
        return read_record(RunRecord, run)
    except UnreadableRunError as error:
        what = f"run {run.info.run_id} is not of this project, or was edited"
        raise InputError(f"{what}: {error}{way_out}") from None


def is_readable(run: Run, kind: type[T] = RunRecord) -> bool:  # type: ignore[assignment]
    """Whether a run is of this kind, and can be understood."""
    try:
        return kind_of(run) == KINDS[kind] and bool(read_record(kind, run))
    except UnreadableRunError:
        return False


def is_finished_training(run: Run) -> bool:
    """Whether a run has trained one variant to its end."""
    return run.info.status == "FINISHED" and is_readable(run)


def get_runs(references: Sequence[str]) -> list[RunRecord]:
    """Return finished training runs by id, the beginning of one, or name; each once.

    Raises InputError for anything else.
    """
    runs = {}
    for reference in references:
        run = match_run(reference, is_finished_training)
        if run is None or kind_of(run) != "train" or run.info.status != "FINISHED":
            raise not_found(reference, "finished training run", is_finished_training)
        runs[run.info.run_id] = check_ours(run)
    return list(runs.values())


@in_store
def given_run() -> Run | None:
    """Return the run named by `mlflow run --run-id`, if a command of this project began it.

    Raises InputError if no run has that id.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    run = get_run(run_id) if run_id else None
    return run if run and kind_of(run) else None


@in_store
def set_parent(run_id: str, parent_id: str) -> None:
    """Make a run a child of another."""
    mlflow.MlflowClient().set_tag(run_id, PARENT_TAG, parent_id)


@in_store
def experiment_id(name: str) -> str:
    """Return the id of an experiment. Raises InputError if there is none, or if it is deleted."""
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        known = shortlist(experiment.name for experiment in mlflow.search_experiments())
        raise InputError(f"no experiment is named {name!r}; there are: {known}")
    if experiment.lifecycle_stage == "deleted":
        raise InputError(deleted_experiment(experiment))
    return str(experiment.experiment_id)
