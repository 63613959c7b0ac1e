"""Find runs, studies and experiments in MLflow, and link a run to its study."""

import json
import os
from collections.abc import Mapping, Sequence

import mlflow
from mlflow.entities import Run

from pipeline.errors import InputError, shortlist
from pipeline.runs.run_result import config_of, recipe
from pipeline.store.initialization import deleted_experiment
from pipeline.store.lookup import get_run, match_run, not_found, search
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import PARENT_TAG, tags_of

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")


@in_store
def find_runs(experiment_id: str | None, tags: Mapping[str, str], *statuses: str) -> list[Run]:
    """Find the training runs of an experiment, or of all, that have these tags, newest first.

    Filtered by `statuses`; by default, the finished ones.
    """
    conditions = [f"tags.{name} = '{value}'" for name, value in {"kind": "train", **tags}.items()]
    runs = search(" and ".join(conditions), experiment_id)
    found = [run for run in runs if run.info.status in (statuses or ("FINISHED",))]
    return [run for run in found if not why_foreign(run)]


def check_ours(run: Run) -> None:
    """Raise InputError for a training run that this project has not recorded."""
    if reason := why_foreign(run):
        raise InputError(f"run {run.info.run_id} is not of this project: {reason}")


def why_foreign(run: Run) -> str:
    """Why a run of our kind `train` can't be ours, in one line; empty if it can be read."""
    try:
        config, tags = config_of(run), tags_of(run)
        if not isinstance(json.loads(tags.get("settings", "{}")), dict):
            return f"its settings are {tags['settings']!r}"
        if run.info.status == "FINISHED":
            recipe(config, tags)
            int(tags["num_parameters"])
    except KeyError as error:
        return f"it does not say its {error.args[0]}"
    except ValueError as error:
        return str(error)
    return ""


def is_training(run: Run) -> bool:
    """Whether a run of this project trained, or was to train, one variant."""
    return run.data.tags.get("kind") == "train" and not why_foreign(run)


def is_finished_training(run: Run) -> bool:
    """Whether a run has trained one variant to its end."""
    return is_training(run) and run.info.status == "FINISHED"


def get_runs(references: Sequence[str]) -> list[Run]:
    """Return finished training runs by id, the beginning of one, or name; each once.

    Raises InputError for anything else.
    """
    runs = {}
    for reference in references:
        run = match_run(reference, is_finished_training)
        if run and run.data.tags.get("kind") == "train":
            check_ours(run)
        if run is None or not is_finished_training(run):
            raise not_found(reference, "finished training run", is_finished_training)
        runs[run.info.run_id] = run
    return list(runs.values())


@in_store
def given_run() -> Run | None:
    """Return the run named by `mlflow run --run-id`, if a command of this project began it.

    Raises InputError if no run has that id.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    run = get_run(run_id) if run_id else None
    return run if run and "kind" in run.data.tags else None


@in_store
def set_parent(run: Run, parent: Run) -> None:
    """Make a run a child of `parent`."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, PARENT_TAG, parent.info.run_id)


@in_store
def studies_named(name: str) -> list[Run]:
    """Every study with that name in the store, newest first."""
    studies = search("tags.kind = 'study'")
    # Not in the filter, whose strings can't escape a quote.
    return [study for study in studies if study.data.tags.get("study") == name]


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
