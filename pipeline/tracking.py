"""Runs in MLflow: begin, fill and end them.

Models are in `pipeline.registry`, and `pipeline.finished` reads runs back; no other module calls
MLflow.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from sqlalchemy.exc import SQLAlchemyError

from pipeline.data.dataset import ImageDataset
from pipeline.errors import MachineError
from pipeline.interruption import Interrupted, deferred

# MLflow allows a data set's digest 36 characters; tags hold all 64 of the sha256.
DIGEST_CHARACTERS = 32


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what goes wrong in the tracking store into a MachineError of one line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise MachineError(
            f"the tracking store {mlflow.get_tracking_uri()} can't be used ({first_line(error)});"
            " set MLFLOW_TRACKING_URI to one that can be written, such as sqlite:///mlflow.db"
        ) from None


def check_store() -> None:
    """Raise MachineError, in one line, unless the tracking store can be read."""
    with store_errors():
        mlflow.search_experiments(max_results=1)


@contextmanager
def track(
    name: str,
    settings: Mapping[str, object],
    tags: Mapping[str, object],
    experiment_id: str | None = None,
) -> Iterator[Run]:
    """Run the body as an MLflow run and end it with its true status.

    FINISHED, or KILLED when the process is asked to stop, or FAILED, with the reason as a tag.
    Inside `mlflow run` the run that it created is taken over, within another `track` the run is its
    child. `settings` become parameters, except those that `mlflow run` has logged as they were
    typed: MLflow refuses to log `0.1` over `1e-1`.
    """
    run = None
    status = "FAILED"
    try:
        with store_errors(), deferred():
            run = mlflow.start_run(
                experiment_id=experiment_id, nested=True, log_system_metrics=True
            )
        with store_errors():
            if _is_made_up(run.info.run_name):
                mlflow.set_tag("mlflow.runName", name)
            mlflow.log_params({k: v for k, v in settings.items() if k not in run.data.params})
            mlflow.set_tags({**tags, "git_dirty": _git_dirty(), "torch": torch.__version__})
            mlflow.log_dict(dict(settings), "config.json")
            mlflow.log_text(_environment(), "environment.txt")
            complete = mlflow.get_run(run.info.run_id)  # with its tags
        yield complete
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except Exception as error:
        if run:
            # The store may be what has failed.
            with suppress(MlflowException, SQLAlchemyError, OSError):
                mlflow.set_tag("failure", first_line(error))
        raise
    finally:
        if run:
            with store_errors(), deferred():
                mlflow.end_run(status)


def keep_killed(run_id: str) -> None:
    """Leave a process behind that sets the run to KILLED once `mlflow run`, our parent, has ended.

    MLflow 3.17 sets FAILED over a child's KILLED: `mlflow.projects._maybe_set_run_terminated`
    looks for the name of the status among numbers, and so takes no run for terminated.
    """
    command = [sys.executable, "-c", _KEEP_KILLED, run_id, str(os.getppid())]
    # Nobody shall wait for it: it holds neither the terminal nor the pipes of this process.
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


_KEEP_KILLED = """
import contextlib, sys
import mlflow, psutil
with contextlib.suppress(psutil.Error):
    psutil.Process(int(sys.argv[2])).wait(timeout=30)
mlflow.MlflowClient().set_terminated(sys.argv[1], "KILLED")
"""


@store_errors()
def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log to the active run; do nothing if there is none (MLflow itself would start one)."""
    if mlflow.active_run():
        mlflow.log_metrics(dict(metrics), step=step)


@store_errors()
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


@store_errors()
def log_figure(figure: Figure, path: str) -> None:
    """Store a picture with the active run."""
    mlflow.log_figure(figure, path)


@store_errors()
def log_table(table: pd.DataFrame, path: str) -> None:
    """Store a table with the active run, as CSV."""
    mlflow.log_text(table.to_csv(index=False), path)


@store_errors()
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
    address = str(mlflow.get_artifact_uri("report.html"))
    if not address.startswith(("/", "file:")):
        return address
    local, here = Path(url2pathname(urlparse(address).path)), Path.cwd()
    return str(local.relative_to(here) if local.is_relative_to(here) else local)


def describe_machine() -> str:
    """The machine in words: processor, cores, memory, accelerator, system."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration), Path("/proc/cpuinfo").open() as lines:
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    memory = psutil.virtual_memory().total / 2**30
    parts = [name, f"{os.cpu_count()} cores", f"{memory:.0f} GiB of memory"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"{platform.system()} on {platform.machine()}"])


def _is_made_up(run_name: str) -> bool:
    """Whether MLflow chose the name (`polite-cod-123`), and not the user."""
    predicate, noun, number = [*run_name.split("-"), "", ""][:3]
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdecimal()


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _git_dirty() -> str:
    """Whether the package differs from the commit that MLflow notes; `unknown` without git."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "."]
    try:
        changes = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return "true" if changes else "false"


def _environment() -> str:
    """List every installed package, as in a requirements file."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}, key=str.lower))
