"""Runs, read back from MLflow."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.string_utils import quote

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.results import RunResult
from pipeline.store import deleted_experiment, in_store, is_outage, shown_uri
from pipeline.training import History

MOST_RUNS = 10_000  # that are read from a store


@in_store
def find_runs(experiment_id: str, tags: Mapping[str, str], *statuses: str) -> list[Run]:
    """Find the training runs of an experiment that have these tags, the newest first.

    Those of the given statuses; by default the finished ones.
    """
    conditions = [f"tags.{name} = '{value}'" for name, value in {"kind": "train", **tags}.items()]
    runs = mlflow.search_runs(
        [experiment_id],
        filter_string=" and ".join(conditions),
        max_results=MOST_RUNS,
        output_format="list",
    )
    return [run for run in runs if run.info.status in (statuses or ("FINISHED",))]


def _look_up(run_id: str) -> Run | None:
    """Return a run; None if there is none of that id, which an outage does not tell."""
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if is_outage(error):
            raise
        return None


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
    """Return finished training runs by their ids. Raises InputError for an id of anything else."""
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


def config_of(run: Run) -> Config:
    """A run's configuration. Settings that are younger than the run have their defaults."""
    settings: dict[str, Any] = {
        name: _read(run.data.params[name], type(default))
        for name, default in Config().as_dict().items()
        if name in run.data.params
    }
    # MLflow lets no parameter change, but a run may have been continued beyond its epochs.
    if "epochs" in run.data.tags:
        settings["epochs"] = int(run.data.tags["epochs"])
    return Config(**settings)


def _read(text: str, kind: type[str | int | float]) -> str | int | float:
    """Read a setting as `mlflow run` logs it: as it was typed (`1.0`), and quoted for the shell."""
    if text.startswith(("'", '"')):
        with suppress(ValueError):  # a quote of the text's own
            (inner,) = shlex.split(text)
            text = inner if quote(inner) == text else text
    return text if kind is str else kind(Decimal(text))


@in_store
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
    models = sorted(logged_models(run.info.run_id), key=lambda output: output.step)
    return RunResult(
        run.info.run_id,
        config_of(run),
        int(run.data.tags["num_parameters"]),
        f"models:/{models[-1].model_id}" if models else "",
        history,
        dict(run.data.tags),
    )


@in_store
def logged_models(run_id: str) -> list[LoggedModelOutput]:
    """The models that a run has logged and not deleted; `step` is the epoch of each."""
    # A search leaves out what a run has made.
    outputs = mlflow.get_run(run_id).outputs
    return [o for o in outputs.model_outputs if _exists(o.model_id)] if outputs else []


def _exists(model_id: str) -> bool:
    try:
        return bool(mlflow.MlflowClient().get_logged_model(model_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


@in_store
def parent_of(run: Run) -> Run | None:
    """Return the study that made a run; None if there was none, or if it has been deleted."""
    return _look_up(run.data.tags.get("mlflow.parentRunId", ""))


@in_store
def set_parent(run: Run, parent: Run) -> None:
    """Make a run a child of `parent`."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, "mlflow.parentRunId", parent.info.run_id)


@in_store
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
