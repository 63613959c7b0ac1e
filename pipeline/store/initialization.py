"""Create the tracking store if it is new, and check that it can take runs."""

import os
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from pipeline.errors import InputError, MachineError
from pipeline.store.address import sqlite_file
from pipeline.store.advice import as_store_error
from pipeline.store.failures import STORE_ERRORS
from pipeline.store.waiting import LOCK_SECONDS, in_store, patience
from pipeline.upstream import connect_once, create_tables, is_database, local_path

DEFAULT_STORE = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "0"


def check_store() -> None:
    """Create the tracking store if new; raise StoreError if it can't be used."""
    patience()
    is_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if not is_set and mlflow.get_tracking_uri().startswith("sqlite:"):
        # MLflow's default, as a relative address. The absolute one is percent-encoded, and MLflow
        # 3.17 creates a folder of that name (`my%20project`) next to `my project`.
        mlflow.set_tracking_uri(DEFAULT_STORE)
    if is_set and "MLFLOW_RUN_ID" in os.environ:
        check_relative()
    try:
        _make_sqlite(mlflow.get_tracking_uri())
    except (*STORE_ERRORS, ValueError) as error:  # ValueError: bad address
        raise as_store_error(error) from None
    _open_store()


def check_relative() -> None:
    """Raise InputError if the store used by `mlflow run` is not found from this folder."""
    database = sqlite_file(mlflow.get_tracking_uri())
    if database and not database.is_absolute() and not database.exists():
        raise InputError(
            f"there is no {database} in {Path.cwd()}, where `mlflow run` runs the project; give"
            " MLFLOW_TRACKING_URI the whole path"
        )


def _make_sqlite(uri: str) -> None:
    """Create the tables of a new SQLite database, all or none.

    MLflow creates them when it first opens one. If several processes do so at once, all but one
    fail; one that is killed midway leaves a database that no other can open.
    """
    database = sqlite_file(uri)
    if database is None:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f"{database.name}.lock"), timeout=LOCK_SECONDS):
        if database.exists() and database.stat().st_size:  # SQLite leaves empty ones
            return
        new = database.with_name(f"{database.name}.new")
        # And its journals: SQLite would apply old ones to the new file, and roll it back.
        files = [new, *(new.with_name(f"{new.name}{end}") for end in ("-journal", "-wal", "-shm"))]
        try:
            for left in files:
                left.unlink(missing_ok=True)
            address = make_url(uri).set(database=str(new)).render_as_string()
            create_tables(address)
            new.replace(database)
        finally:
            for left in files:
                left.unlink(missing_ok=True)


@in_store
def _open_store() -> None:
    from alembic.util import CommandError

    uri = mlflow.get_tracking_uri()
    try:
        if is_database(uri):
            connect_once(uri)
        mlflow.search_experiments(max_results=1)
        mlflow.MlflowClient().search_registered_models(max_results=1)
    except (ImportError, CommandError, ValueError) as error:
        # Missing driver; unknown schema; bad address.
        raise as_store_error(error) from None


@in_store
def check_experiment() -> str:
    """Return the name of the experiment that the environment selects, or MLflow's default.

    Raises InputError if it can't take runs, and MachineError if it can't take artifacts.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` may use another, and passes its id
        name = ""
    number = os.environ.get("MLFLOW_EXPERIMENT_ID", "" if name else DEFAULT_EXPERIMENT)
    try:
        found = mlflow.get_experiment_by_name(name) if name else mlflow.get_experiment(number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        found = None
    if found and found.lifecycle_stage == "deleted":
        raise InputError(deleted_experiment(found))
    if not found and not name and number != DEFAULT_EXPERIMENT:  # MLflow creates a named one
        known = (f"{e.experiment_id} ({e.name})" for e in mlflow.search_experiments())
        raise InputError(
            f"MLFLOW_EXPERIMENT_ID is {number!r}, but there are only: {', '.join(known)}; unset it,"
            " or set it to one of these"
        )
    if found and name and number and found.experiment_id != number:
        raise InputError(
            f"MLFLOW_EXPERIMENT_ID is {number}, but the experiment {name!r} of"
            f" MLFLOW_EXPERIMENT_NAME is {found.experiment_id}; unset one of the two"
        )
    if found is None:
        return name
    artifacts = local_path(found.artifact_location)
    if artifacts and not _is_writable(artifacts):
        raise MachineError(
            f"{artifacts} can't be written, where experiment {found.name!r} keeps its artifacts;"
            " make it writable, or work in another folder with another MLFLOW_EXPERIMENT_NAME"
        )
    return found.name


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def deleted_experiment(experiment: Experiment) -> str:
    """Say that an experiment is deleted, and how to bring it back."""
    return (
        f"the experiment {experiment.name!r} is deleted; name another one, or restore it by: mlflow"
        f" experiments restore --experiment-id {experiment.experiment_id}"
    )
