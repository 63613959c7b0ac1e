"""Finished runs, read back from MLflow."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.results import RunResult
from pipeline.tracking import store_errors
from pipeline.training import History

MOST_RUNS = 10_000  # that are read from a store


@store_errors()
def find_runs(experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """Find the finished training runs of an experiment that have these tags, the newest first."""
    conditions = [f"tags.{name} = '{value}'" for name, value in {"kind": "train", **tags}.items()]
    return list(
        mlflow.search_runs(
            [experiment_id],
            filter_string=" and ".join(["attributes.status = 'FINISHED'", *conditions]),
            max_results=MOST_RUNS,
            output_format="list",
        )
    )


@store_errors()
def get_runs(run_ids: Sequence[str]) -> list[Run]:
    """Return finished training runs by their ids. Raises InputError for an id of anything else."""
    client, runs = mlflow.MlflowClient(), []
    for run_id in dict.fromkeys(run_ids):
        try:
            run = client.get_run(run_id)
        except MlflowException:
            run = None
        if not run or (run.info.status, run.data.tags.get("kind")) != ("FINISHED", "train"):
            raise InputError(
                f"{run_id!r} is not the id of a finished training run; it is on the run's page, 32"
                " characters long"
            )
        runs.append(run)
    return runs


def config_of(run: Run) -> Config:
    """A run's configuration. Settings that are younger than the run have their defaults."""
    settings: dict[str, Any] = {
        name: type(default)(run.data.params[name])
        for name, default in Config().as_dict().items()
        if name in run.data.params
    }
    return Config(**settings)


@store_errors()
def read_result(run: Run) -> RunResult:
    """Read all that is known of a finished run."""
    client = mlflow.MlflowClient()
    history: History = []
    for name in run.data.metrics:
        if not name.startswith("system/"):
            for metric in client.get_metric_history(run.info.run_id, name):
                history += [{} for _ in range(metric.step - len(history))]
                # MLflow stores infinity as the largest number.
                infinite = abs(metric.value) >= sys.float_info.max
                history[metric.step - 1][name] = math.inf if infinite else metric.value
    # A search leaves out what a run has made.
    outputs = client.get_run(run.info.run_id).outputs
    assert outputs  # a finished run has logged its model
    (model,) = outputs.model_outputs
    return RunResult(
        run.info.run_id,
        config_of(run),
        int(run.data.tags["num_parameters"]),
        f"models:/{model.model_id}",
        history,
        dict(run.data.tags),
    )


@store_errors()
def parent_of(run: Run) -> Run | None:
    """Return the study that made a run; None if there was none, or if it has been deleted."""
    try:
        return mlflow.get_run(run.data.tags["mlflow.parentRunId"])
    except (KeyError, MlflowException):
        return None


@store_errors()
def set_parent(run: Run, parent: Run) -> None:
    """Make a run a child of `parent`."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, "mlflow.parentRunId", parent.info.run_id)


@store_errors()
def studies_named(name: str) -> list[Run]:
    """Every study of that name in the store, the newest first."""
    studies = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.kind = 'study'",
        max_results=MOST_RUNS,
        output_format="list",
    )
    # Not by the filter, whose strings know no escape for a quote.
    return [study for study in studies if study.data.tags["study"] == name]


@store_errors()
def experiment_id(name: str) -> str:
    """Return the id of an experiment. Raises InputError if there is none of that name."""
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        known = ", ".join(experiment.name for experiment in mlflow.search_experiments())
        raise InputError(f"no experiment is named {name!r}; there are: {known}")
    return str(experiment.experiment_id)
