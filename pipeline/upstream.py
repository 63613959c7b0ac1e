"""Code that depends on MLflow's and torch's internals: private names and workarounds.

Everything here was checked with MLflow 3.17.2 and torch 2.14.1. Look here first when either is
upgraded: `tests/test_upstream.py` fails for each entry that the installed version no longer needs.
"""

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import mlflow
import psutil
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from mlflow.utils.string_utils import quote
from mlflow.utils.uri import is_local_uri
from sqlalchemy import Select, select
from sqlalchemy.engine import Engine

from pipeline.errors import InputError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PAGE = 10_000  # values of a metric that are in memory at once

# These log what we report in one line, or repeat a message every few seconds in an outage.
for _name in ("mlflow.store.db.utils", "mlflow.system_metrics", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def is_generated_name(run_name: str) -> bool:
    """Whether MLflow made up a run's name (`polite-cod-123`).

    `mlflow run` without --run-name does, and no tag distinguishes it from a user's own.
    """
    predicate, noun, number = [*run_name.split("-"), "", ""][:3]
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdecimal()


def shell_quote(text: str) -> str:
    """Quote a word as `mlflow run` quotes parameters for this system's shell.

    Not documented. MLflow's own is needed to recognise what MLflow has quoted.
    """
    return str(quote(text))


def local_path(address: str) -> Path | None:
    """Where artifacts are in the file system, as MLflow finds them; None if they are elsewhere.

    Neither function is documented, and no documented one parses an artifact address.
    """
    try:
        if not is_local_uri(address):  # type: ignore[no-untyped-call]
            return None
    except MlflowException:  # a folder of another machine: `file://machine/folder`
        return None
    return Path(local_file_uri_to_path(address))  # type: ignore[no-untyped-call]


def name_and_version(model_uri: str) -> list[str]:
    """Resolve `models:/name@alias` and the like to name and version; `models:/m-…` to the id alone.

    Not documented. `mlflow.models.get_model_info` also resolves an alias, but fetches files first.
    """
    found = get_model_name_and_version(mlflow.MlflowClient(), model_uri)  # type: ignore[no-untyped-call]
    return [str(part) for part in found]


def download_file(artifact_uri: str, name: str) -> bytes:
    """Fetch a file by a single request; raise whatever that kind of artifact store raises.

    `mlflow.artifacts.download_artifacts` first lists the name, in case it is a folder.
    """
    repository = get_artifact_repository(artifact_uri)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        repository._download_file(name, str(path))  # type: ignore[no-untyped-call]
        return path.read_bytes()


def upload_file(artifact_uri: str, path: Path, folder: str = ".") -> None:
    """Store a file in a folder of artifacts.

    `MlflowClient` does so for a run or model by its id, which it looks up by another request.
    """
    repository = get_artifact_repository(artifact_uri)
    repository.log_artifact(str(path), None if folder == "." else folder)  # type: ignore[no-untyped-call]


def delete_file(artifact_uri: str, name: str) -> None:
    """Delete a file, if it is there; raise whatever that kind of artifact store raises.

    No documented function deletes a single one.
    """
    get_artifact_repository(artifact_uri).delete_artifacts(name)  # type: ignore[no-untyped-call]


def list_files(artifact_uri: str) -> list[str]:
    """The paths of what lies directly in a folder of artifacts: files with content, and folders.

    `MlflowClient` lists those of a run or model by its id, which it looks up by another request.
    """
    listed = get_artifact_repository(artifact_uri).list_artifacts()
    return [str(one.path) for one in listed if one.is_dir or one.file_size != 0]


def project_defaults(folder: Path) -> dict[str, dict[str, str | None]]:
    """The entry points of an MLproject, each with its parameters and their defaults, or None.

    Not documented; the file's format is, except for what MLflow makes of it. Raises InputError.
    """
    from mlflow.projects._project_spec import load_project

    try:
        project = load_project(str(folder))  # type: ignore[no-untyped-call]
        return {
            str(name): {
                str(key): None if one.default is None else str(one.default)
                for key, one in point.parameters.items()
            }
            for name, point in project._entry_points.items()
        }
    except Exception as error:  # of YAML, of MLflow, or of what is no mapping
        reason = " ".join(str(error).split())
        raise InputError(f"the MLproject in {folder} can't be read: {reason}") from None


def is_database(tracking_uri: str) -> bool:
    """Whether a tracking store is a database, which MLflow opens with SQLAlchemy. Undocumented."""
    return tracking_uri.startswith(tuple(DATABASE_ENGINES))


def connect_once(database_uri: str) -> None:
    """Connect to a database as MLflow does; raise what SQLAlchemy raises.

    MLflow itself tries for 100 seconds to reach a server that is down, without saying so.
    """
    _database_engine(database_uri).connect().close()


def create_tables(database_uri: str) -> None:
    """Create MLflow's tables in an empty database, and close it.

    The public way to open a store creates them too, but keeps the file open, and Windows can't
    rename open files. `store.initialization` says why it is renamed.
    """
    from mlflow.store.db.utils import _initialize_tables

    engine = _database_engine(database_uri)
    try:
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


def _database_engine(uri: str) -> Engine:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    return create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call, no-any-return]


def is_known_schema(revision: str) -> bool:
    """Whether the installed MLflow has a migration that leads to this revision of its tables.

    MLflow rejects older and newer tables with the same message.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        migrations = ScriptDirectory.from_config(_get_alembic_config(""))  # type: ignore[no-untyped-call]
        return bool(migrations.get_revision(revision))
    except CommandError:
        return False


class LoggedPoint(NamedTuple):
    """A value of a metric, as `mlflow.entities.Metric` has it."""

    run_id: str
    step: object  # SQLite keeps whatever was given
    timestamp: int
    value: float


def logged_points(run_ids: Sequence[str], metric: str) -> Iterator[LoggedPoint]:
    """All that runs have logged of a metric, one run after another.

    A database is asked once for all runs, a server page by page. The public function keeps a whole
    history in memory, and takes some 30 ms for a short one if SQLite holds 120,000 values
    (findings/mlflow_reads_that_metric_of_all_runs_for_the_history_of_one_on_sqlite.sh).
    """
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = mlflow.MlflowClient()._tracking_client.store
    if isinstance(store, SqlAlchemyStore):
        table: Any = SqlMetric
        query: Select[Any] = (
            select(table.run_uuid, table.step, table.timestamp, table.value, table.is_nan)
            .where(table.key == metric, table.run_uuid.in_(run_ids))
            .order_by(table.run_uuid)
        )
        with store.ManagedSessionMaker() as session:
            for row in session.execute(query, execution_options={"yield_per": PAGE}):
                run_id, step, timestamp, value, is_nan = row
                yield LoggedPoint(run_id, step, timestamp, math.nan if is_nan else value)
        return
    for run_id in run_ids:
        token: str | None = ""
        while token is not None:
            page = store.get_metric_history(run_id, metric, PAGE, token or None)
            token = page.token or None
            for one in page:
                yield LoggedPoint(run_id, one.step, one.timestamp, one.value)


class SystemSamples(SystemMetricsMonitor):
    """Samples processor, memory, disk, network and GPU for a run as MLflow does, but sends nothing.

    MLflow's own thread sends two requests for each sample, and stops for good at the first that
    fails.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run.info.run_id)  # type: ignore[no-untyped-call]
        logged = [one.step for one in run.data.to_proto().metrics if one.key.startswith("system/")]
        self._logging_step = max(logged, default=-1) + 1
        self.mlflow_logger: Any = self  # to which `publish_metrics` hands what it would send
        self.taken = 0
        self._mean: list[Metric] = []

    def take(self) -> None:
        """Take a sample."""
        self.collect_metrics()  # type: ignore[no-untyped-call]
        self.taken += 1

    @property
    def are_enough(self) -> bool:
        """Whether there are as many samples as MLflow is set to log the mean of."""
        return self.taken >= int(self.samples_before_logging)

    def mean(self) -> list[Metric]:
        """The mean of the samples since the last time, if they are enough."""
        if not self.are_enough:
            return []
        self.publish_metrics(self.aggregate_metrics())  # type: ignore[no-untyped-call]
        self.taken = 0
        return self._mean

    def record_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics from MLflow."""
        now = time.time_ns() // 1_000_000
        self._mean = [Metric(name, value, now, step) for name, value in metrics.items()]


def import_ahead() -> None:
    """Import what MLflow and torch import when a run first uses them."""
    for name in (
        "mlflow.pytorch",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "torch._dynamo",
        "torch._export.serde.serialize",
    ):
        import_module(name)


@contextmanager
def storing(program: "ExportedProgram") -> Iterator[None]:
    """Let MLflow store a program that is exported already, and write its file at once.

    MLflow exports whatever it stores. On a full disk torch's own writer raises an error that does
    not say so, or ends the process.
    """
    import torch  # not above: what runs somebody's program needs the store, and no torch

    save = torch.export.save

    def save_from_memory(program: "ExportedProgram", path: str) -> None:
        content = BytesIO()
        save(program, content)
        Path(path).write_bytes(content.getvalue())

    with (
        patch.object(torch.export, "save", save_from_memory),
        patch.object(torch.export, "export", lambda *_args, **_options: program),
    ):
        yield


def typed_in() -> Path:
    """The folder in which the command was typed; MLflow runs a project's in the project's folder.

    Its own parameter type `path` has no default that exists in every folder, and refuses modules.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        with suppress(psutil.Error, StopIteration):
            parents = psutil.Process().parents()
            mlflow_run = next(p for p in parents if "-m pipeline" not in " ".join(p.cmdline()))
            return Path(mlflow_run.cwd())
    return Path.cwd()


def keep_status(run_id: str, status: str) -> None:
    """Start a process that sets the run's status once `mlflow run`, our parent, has ended.

    `mlflow run` overwrites a child's KILLED, and the status of a run that was not continued, with
    FAILED: `mlflow.projects._maybe_set_run_terminated` asks `RunStatus.is_terminated`, which looks
    for the status's name among numbers.
    """
    parent = os.getppid()
    # A shell, or on Windows Python's launcher, may be in between.
    with suppress(psutil.Error, StopIteration):
        parent = next(p.pid for p in psutil.Process().parents() if "run" in p.cmdline())
    command = [sys.executable, "-P", "-c", _KEEP_STATUS, run_id, status, str(parent)]
    # Nothing must wait for it: it holds neither the terminal nor the pipes of this process.
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
