"""Runs in MLflow: begin, fill and end them.

Other modules that call MLflow: `outbox` (metrics and states, which wait for the store), `registry`
(models), `finished` (reads runs back), `liveness`, `store`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
import psutil
import torch
from filelock import FileLock, Timeout
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from platformdirs import user_state_path

from pipeline import finished, outbox
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, MachineError
from pipeline.grid import MAX_NAME
from pipeline.interruption import Interrupted, deferred
from pipeline.liveness import this_process
from pipeline.store import (
    STORE_ERRORS,
    first_line,
    in_store,
    local_path,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# MLflow allows a data set's digest 36 characters; tags hold all 64 of the sha256.
DIGEST_CHARACTERS = 32


@contextmanager
def track(
    name: str,
    settings: Mapping[str, object],
    tags: Mapping[str, object],
    experiment_id: str | None = None,
    parent: Run | None = None,
    run_id: str | None = None,
) -> Iterator[Run]:
    """Run the body as an MLflow run and end it with its true status.

    FINISHED, or KILLED when the process is asked to stop, or FAILED, with the reason as a tag.
    With `run_id` an unfinished run is continued. Inside `mlflow run` the run that it created is
    taken over. The run of a study is the `parent` of others, in its process and elsewhere.
    `settings` become parameters, except those that `mlflow run` has logged as they were typed:
    MLflow refuses to log `0.1` over `1e-1`.
    """
    with _claimed(run_id) if run_id else nullcontext():
        yield from _track(name, settings, tags, experiment_id, parent, run_id)


def _track(
    name: str,
    settings: Mapping[str, object],
    tags: Mapping[str, object],
    experiment_id: str | None,
    parent: Run | None,
    run_id: str | None,
) -> Iterator[Run]:
    run: Run | None = None
    status = "FAILED"
    if parent:
        experiment_id = parent.info.experiment_id
        tags = {**tags, MLFLOW_PARENT_RUN_ID: parent.info.run_id}
    if not mlflow.active_run():
        # Taken here, since MLflow forgets it when its first attempt fails.
        run_of_project = os.environ.pop("MLFLOW_RUN_ID", None)
        run_id = run_id or run_of_project
    try:

        @in_store
        def begin() -> Run:
            nonlocal run
            with deferred():  # what has begun is known here, and will be ended
                # With its tags from the beginning: were it killed now, they say what it was.
                run = _begin(run_id, experiment_id, {**tags, **this_process()})
                return run

        run = begin()
        outbox.open_for(run)
        _describe(run, name, settings)
        yield in_store(mlflow.get_run)(run.info.run_id)  # with its tags
        outbox.deliver()
        _end_well(run.info.run_id)
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except Exception as error:
        if run:
            # The store may be what has failed.
            with deferred(), suppress(*STORE_ERRORS):
                mlflow.set_tag("failure", first_line(error))
        raise
    finally:
        if run:
            with deferred(), suppress(*STORE_ERRORS):
                outbox.close(run)
                mlflow.end_run(status)


@contextmanager
def _claimed(run_id: str) -> Iterator[None]:
    """Keep other processes of this user from continuing the run at the same time.

    Raises InputError if one is about to.
    """
    path = user_state_path("cifar100-cnn") / f"{run_id}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"run {run_id} is being continued by another process") from None
    except OSError as error:
        raise MachineError(f"{path} can't be made ({error})") from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows deletes no file that is open
            path.unlink(missing_ok=True)
        lock.release()


def _begin(run_id: str | None, experiment_id: str | None, tags: Mapping[str, object]) -> Run:
    if run_id:
        # Before it is RUNNING again: `liveness` must not take this process for the one before.
        for key, value in this_process().items():
            mlflow.MlflowClient().set_tag(run_id, key, value)
    tags = {**tags, "git_dirty": _git_dirty(), "torch": torch.__version__}
    return mlflow.start_run(
        run_id=run_id,
        experiment_id=experiment_id,
        nested=True,
        tags={name: str(value) for name, value in tags.items()},
        log_system_metrics=True,
    )


@in_store
def _describe(run: Run, name: str, settings: Mapping[str, object]) -> None:
    if _is_made_up(run.info.run_name):
        # A server's database refuses more; the URI of an evaluated model may be longer.
        mlflow.set_tag("mlflow.runName", name[:MAX_NAME])
    if "failure" in run.data.tags:
        mlflow.delete_tag("failure")
    mlflow.log_params({k: v for k, v in settings.items() if k not in run.data.params})
    mlflow.log_dict(dict(settings), "config.json")
    mlflow.log_text(_environment(), "environment.txt")


@in_store
def given_run() -> Run | None:
    """Return the run that `mlflow run --run-id` names, if a command of this project began it.

    Raises InputError if there is none of that id.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    run = finished.get_run(run_id) if run_id else None
    return run if run and "kind" in run.data.tags else None


@in_store
def _end_well(run_id: str) -> None:
    """End a run as FINISHED, also one that was given up elsewhere during an outage."""
    client = mlflow.MlflowClient()
    if "failure" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "failure")
    client.set_terminated(run_id, "FINISHED")


def keep_status(run_id: str, status: str) -> None:
    """Leave a process behind that sets the run's status once `mlflow run`, our parent, has ended.

    MLflow 3.17 sets FAILED over a child's KILLED, and over what a run was that can't be continued:
    `mlflow.projects._maybe_set_run_terminated` looks for the name of the status among numbers, and
    so takes no run for terminated.
    """
    parent = os.getppid()
    # A shell, or on Windows Python's launcher, may stand between.
    with suppress(psutil.Error, StopIteration):
        parent = next(p.pid for p in psutil.Process().parents() if "run" in p.cmdline())
    command = [sys.executable, "-c", _KEEP_STATUS, run_id, status, str(parent)]
    # Nobody shall wait for it: it holds neither the terminal nor the pipes of this process.
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


_KEEP_STATUS = """
import contextlib, sys
import mlflow, psutil
with contextlib.suppress(psutil.Error):
    psutil.Process(int(sys.argv[3])).wait(timeout=30)
client = mlflow.MlflowClient()
if client.get_run(sys.argv[1]).info.status == "FAILED":
    client.update_run(sys.argv[1], status=sys.argv[2])
"""


@in_store
def log_dataset(data: ImageDataset, *contexts: str) -> None:
    """Name splits of `data`: `training`, `validation`, `test`, as inputs of the active run."""
    for context in contexts:
        split = getattr(data, context)
        mlflow.log_input(
            from_numpy(
                split.images.numpy(),
                targets=split.labels.numpy(),
                source=data.source,  # type: ignore[arg-type]  # None: the code is the source
                name=f"{data.name}-{context}",
                digest=split.digest[:DIGEST_CHARACTERS],
            ),
            context=context,
        )


@in_store
def set_tags(tags: Mapping[str, object]) -> None:
    """Set tags of the active run."""
    mlflow.set_tags(dict(tags))


@in_store
def log_figure(figure: "Figure", path: str) -> None:
    """Store a picture with the active run."""
    mlflow.log_figure(figure, path)


@in_store
def log_table(table: pd.DataFrame, path: str) -> None:
    """Store a table with the active run, as CSV."""
    mlflow.log_text(table.to_csv(index=False), path)


@in_store
def log_report(files: Mapping[str, bytes], headline: str, metrics: Mapping[str, float]) -> str:
    """Store a report with the active run: files by path, its description, its metrics.

    Returns where `report.html` lies: a path where the store is a folder, else a URI.
    """
    with TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        mlflow.log_artifacts(folder)
    mlflow.set_tag("mlflow.note.content", headline)
    mlflow.log_metrics(dict(metrics))
    address, here = str(mlflow.get_artifact_uri("report.html")), Path.cwd()
    local = local_path(address)
    if local is None:
        return address
    return str(local.relative_to(here) if local.is_relative_to(here) else local)


def _is_made_up(run_name: str) -> bool:
    """Whether MLflow chose the name (`polite-cod-123`), and not the user."""
    predicate, noun, number = [*run_name.split("-"), "", ""][:3]
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdecimal()


def _git_dirty() -> str:
    """Whether the package differs from the commit that MLflow notes; `unknown` without git."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "."]
    try:
        changes = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return "true" if changes else "false"


@cache
def _environment() -> str:
    """List every installed package, as in a requirements file."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}, key=str.lower))
