"""The environment of a program: how it finds its run, and its share of the threads."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress

import mlflow
from mlflow.entities import Run

from pipeline.ablation.command import search_path
from pipeline.openmp import SPINS, WHY
from pipeline.runs.programs.supervisor import CONTEXT
from pipeline.store.address import absolute_uri
from pipeline.store.tags import BEGUN_BY
from pipeline.store.variables import VARIABLES

# What numerical libraries and their pools of processes look at.
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "LOKY_MAX_CPU_COUNT"),
)
# Ray's own: whether a worker that ends kills its children. Of ours that would be what watches over
# a program, which would then go on.
RAY_KILLS = "RAY_kill_child_processes_on_worker_exit"
# A name beside the experiment's id makes Transformers raise, and a bar that is switched off doesn't
# count, which a program may rely on.
NOT_PASSED_ON = (
    *("MLFLOW_EXPERIMENT_NAME", "TQDM_DISABLE", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"),
    RAY_KILLS,
)


def environment_of(run: Run, threads: int) -> dict[str, str]:
    """The variables for a program that is to join a run, and to compute with so many threads.

    The user's own, without what this project sets for itself.
    """
    here = {n: value for n, value in os.environ.items() if value != VARIABLES.get(n)}
    if WHY in here:  # how threads wait was chosen for training here
        here = {n: value for n, value in here.items() if n not in (SPINS, WHY)}
    addresses = {"MLFLOW_TRACKING_URI": absolute_uri(mlflow.get_tracking_uri())}
    if registry := here.get("MLFLOW_REGISTRY_URI"):
        addresses["MLFLOW_REGISTRY_URI"] = absolute_uri(registry)
    return {
        **{name: value for name, value in here.items() if name not in NOT_PASSED_ON},
        **addresses,
        "PATH": search_path(),
        **dict.fromkeys(THREADS, str(threads)),
        "MLFLOW_RUN_ID": run.info.run_id,
        "MLFLOW_EXPERIMENT_ID": str(run.info.experiment_id),
        # It drops calls that the store refuses, and the run is FINISHED all the same.
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        # MLflow gives these tags to each run that is begun through `mlflow.start_run`, autologging
        # or Lightning's logger.
        CONTEXT: json.dumps({**_context(here), BEGUN_BY: run.info.run_id}),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": here.get("PYTHONIOENCODING", "utf-8"),
    }


def _context(variables: Mapping[str, str]) -> dict[str, str]:
    """The tags that the user gives to every run."""
    with suppress(ValueError):
        given = json.loads(variables.get(CONTEXT, "{}"))
        if isinstance(given, dict):
            return given
    return {}
