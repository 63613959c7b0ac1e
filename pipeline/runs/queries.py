"""Find runs, studies and experiments in MLflow, and link a run to its study."""

import os
from collections.abc import Mapping, Sequence

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.store.address import shown_uri
from pipeline.store.failures import is_outage
from pipeline.store.initialization import deleted_experiment
from pipeline.store.waiting import in_store

MOST_RUNS = 10_000  # maximum read from a store
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
PARENT_TAG = "mlflow.parentRunId"


@in_store
def find_runs(experiment_id: str | None, tags: Mapping[str, str], *statuses: str) -> list[Run]:
    """Find the training runs of an experiment, or of all, that have these tags, newest first.

    Filtered by `statuses`; by default, the finished ones.
    """
    conditions = [f"tags.{name} = '{value}'" for name, value in {"kind": "train", **tags}.items()]
    runs = mlflow.search_runs(
        [experiment_id] if experiment_id else None,
        search_all_experiments=experiment_id is None,
        filter_string=" and ".join(conditions),
        max_results=MOST_RUNS,
        output_format="list",
    )
    return [run for run in runs if run.info.status in (statuses or ("FINISHED",))]


@in_store
def get_run(run_id: str) -> Run:
    """Return a run by its id. Raises InputError if there is none, or if it is deleted."""
    run = _look_up(run_id)
    if run is None or run.info.lifecycle_stage == "deleted":
        raise InputError(
            f"{run_id!r} is not the id of a run in {shown_uri()}; it is on the run's"
            " page, 32 characters long"
        )
    return run


@in_store
def get_runs(run_ids: Sequence[str]) -> list[Run]:
    """Return finished training runs by their ids. Raises InputError for any other id."""
    runs = []
    for run_id in dict.fromkeys(run_ids):
        run = _look_up(run_id)
        if (
            run is None
            or run.info.lifecycle_stage == "deleted"
            or (run.info.status, run.data.tags.get("kind")) != ("FINISHED", "train")
        ):
            raise InputError(
                f"{run_id!r} is not the id of a finished training run; it is on the run's page, 32"
                " characters long"
            )
        runs.append(run)
    return runs


@in_store
def given_run() -> Run | None:
    """Return the run named by `mlflow run --run-id`, if a command of this project began it.

    Raises InputError if no run has that id.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    run = get_run(run_id) if run_id else None
    return run if run and "kind" in run.data.tags else None


@in_store
def find_run(run_id: str) -> Run | None:
    """Return a run; None if there is none of that id."""
    return _look_up(run_id)


@in_store
def set_parent(run: Run, parent: Run) -> None:
    """Make a run a child of `parent`."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, PARENT_TAG, parent.info.run_id)


@in_store
def studies_named(name: str) -> list[Run]:
    """Every study with that name in the store, newest first."""
    studies = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.kind = 'study'",
        max_results=MOST_RUNS,
        output_format="list",
    )
    # Not in the filter, whose strings can't escape a quote.
    return [study for study in studies if study.data.tags["study"] == name]


@in_store
def experiment_id(name: str) -> str:
    """Return the id of an experiment. Raises InputError if there is none, or if it is deleted."""
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        known = ", ".join(experiment.name for experiment in mlflow.search_experiments())
        raise InputError(f"no experiment is named {name!r}; there are: {known}")
    if experiment.lifecycle_stage == "deleted":
        raise InputError(deleted_experiment(experiment))
    return str(experiment.experiment_id)


def _look_up(run_id: str) -> Run | None:
    """Return a run, or None if no run has that id; an outage is raised instead."""
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if is_outage(error):
            raise
        return None
