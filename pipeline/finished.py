"""Finished runs, read back from MLflow."""

from collections.abc import Sequence
from typing import Any

import mlflow
from mlflow.entities import Run

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.results import RunResult
from pipeline.tracking import store_errors
from pipeline.training import History

MOST_RUNS = 10_000  # that are read from a store


@store_errors()
def find_results(experiment_ids: Sequence[str], chosen: str = "") -> list[tuple[Run, RunResult]]:
    """Read finished training runs of the experiments, the newest first; `chosen` filters them."""
    client = mlflow.MlflowClient()
    conditions = ["tags.kind = 'train'", "attributes.status = 'FINISHED'", *filter(None, [chosen])]
    runs = mlflow.search_runs(
        list(experiment_ids),
        filter_string=" and ".join(conditions),
        max_results=MOST_RUNS,
        output_format="list",
    )
    return [(run, _read_result(client, run)) for run in runs]


def _read_result(client: mlflow.MlflowClient, run: Run) -> RunResult:
    """Rebuild a run's result. Settings that are younger than the run have their defaults."""
    settings: dict[str, Any] = {
        name: type(default)(run.data.params[name])
        for name, default in Config().as_dict().items()
        if name in run.data.params
    }
    history: History = []
    for name in run.data.metrics:
        if not name.startswith("system/"):
            for metric in client.get_metric_history(run.info.run_id, name):
                history += [{} for _ in range(metric.step - len(history))]
                history[metric.step - 1][name] = metric.value
    # A search leaves out what a run has made.
    outputs = client.get_run(run.info.run_id).outputs
    assert outputs  # a finished run has logged its model
    (model,) = outputs.model_outputs
    return RunResult(
        run.info.run_id,
        Config(**settings),
        int(run.data.tags["num_parameters"]),
        f"models:/{model.model_id}",
        history,
        dict(run.data.tags),
        reused=True,
    )


@store_errors()
def adopt(run: Run) -> None:
    """Make a run a child of the active one, if the study that made it did not finish itself."""
    client = mlflow.MlflowClient()
    parent, active = run.data.tags.get("mlflow.parentRunId"), mlflow.active_run()
    if parent and active and client.get_run(parent).info.status in ("FAILED", "KILLED"):
        client.set_tag(run.info.run_id, "mlflow.parentRunId", active.info.run_id)


@store_errors()
def studies_named(name: str) -> list[Run]:
    """Every study of that name in the store, the newest first."""
    quoted = name.replace("'", "''")
    return list(
        mlflow.search_runs(
            search_all_experiments=True,
            filter_string=f"tags.study = '{quoted}'",
            output_format="list",
        )
    )


@store_errors()
def experiment_id(name: str) -> str:
    """Return the id of an experiment. Raises InputError if there is none of that name."""
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        known = ", ".join(experiment.name for experiment in mlflow.search_experiments())
        raise InputError(f"no experiment is named {name!r}; there are: {known}")
    return str(experiment.experiment_id)
