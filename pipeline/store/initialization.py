"""Create the tracking store if it is new, and check that it can take runs."""

import errno
import os
from pathlib import Path
from urllib.parse import unquote

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from pipeline.config import check_text
from pipeline.errors import InputError, MachineError, shortlist
from pipeline.store.address import shown_uri, sqlite_file
from pipeline.store.artifacts import has_content
from pipeline.store.moving.detection import COMMAND, check_moved, is_there, owner_of
from pipeline.store.outages.advice import as_store_error
from pipeline.store.outages.failures import STORE_ERRORS, is_forbidden
from pipeline.store.outages.waiting import LOCK_SECONDS, in_store, patience
from pipeline.upstream import connect_once, create_tables, is_database, local_path

DEFAULT_STORE = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "0"
MAX_EXPERIMENT_NAME = 256  # characters in MLflow's databases; MLflow itself refuses 501


def check_store(may_be_moved: bool = False) -> None:
    """Create the tracking store if new; raise StoreError if it can't be used.

    Raises InputError if its artifacts were moved, unless it `may_be_moved`.
    """
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
    if not may_be_moved:
        check_moved()


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
    if has_content(database):  # in a folder that may only be read there can be no lock
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f"{database.name}.lock"), timeout=LOCK_SECONDS):
        if has_content(database):  # SQLite leaves empty ones
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
        try:
            mlflow.MlflowClient().search_registered_models(max_results=1)
        except MlflowException as error:
            if not is_forbidden(error):  # one may train without a right to registered models
                raise
    except (ImportError, CommandError, ValueError) as error:
        # Missing driver; unknown schema; bad address.
        raise as_store_error(error) from None


@in_store
def check_experiment(models: bool = False) -> str:
    """Return the name of the experiment that the environment selects, or MLflow's default.

    Raises InputError if it can't take runs, and MachineError if it can't take their artifacts, or
    `models`.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    check_text("MLFLOW_EXPERIMENT_NAME", name)
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
            f"MLFLOW_EXPERIMENT_ID is {number!r}, but there are only: {shortlist(known)}; unset it,"
            " or set it to one of these"
        )
    if found and name and number and found.experiment_id != number:
        raise InputError(
            f"MLFLOW_EXPERIMENT_ID is {number}, but the experiment {name!r} of"
            f" MLFLOW_EXPERIMENT_NAME is {found.experiment_id}; unset one of the two"
        )
    if found is None:
        if len(name) > MAX_EXPERIMENT_NAME:
            raise InputError(
                f"MLFLOW_EXPERIMENT_NAME has {len(name)} characters ({name[:40]}…); a database"
                f" takes {MAX_EXPERIMENT_NAME} at most"
            )
        return name
    check_artifacts(found, models)
    return str(found.name)


@in_store
def check_experiment_of(run_id: str, experiment_id: str, artifact_uri: str = "") -> None:
    """Raise an error if a run's experiment can't take another.

    artifact_uri: of the run, if that is to be continued.
    """
    check_artifacts(mlflow.get_experiment(experiment_id), models=bool(artifact_uri))
    if folder := unwritable_folder(artifact_uri):
        raise MachineError(
            f"{folder} can't be written, where run {run_id} keeps its artifacts; make it"
            " writable, or start the run again"
        )


def unwritable_folder(address: str) -> Path | None:
    """The folder of a run's artifacts if it can't be written, as another user's may be."""
    folder = local_path(address) if address else None
    return folder if folder and not _is_writable(folder.absolute()) else None


def check_artifacts(experiment: Experiment, models: bool = False) -> None:
    """Raise an error if an experiment's artifacts can't be written, or are not its own.

    MLflow keeps `models`, if there will be any, in a folder beside those of the runs.

    Creates nothing. Artifacts that are not in the file system are their server's concern.
    """
    database = sqlite_file(mlflow.get_tracking_uri())
    written = database.absolute() if database else None
    for path in (written, written.parent) if written else ():  # the folder takes its journal
        if not os.access(path, os.W_OK):
            raise as_store_error(PermissionError(errno.EACCES, "no right to write", str(path)))
    folder = local_path(experiment.artifact_location or "")
    if folder is None:
        return
    folder = folder.absolute()
    keeps = f"experiment {experiment.name!r} keeps its artifacts in {folder}"
    places = [Path.cwd(), *([database.absolute().parent] if database else [])]
    # MLflow decodes percent signs in paths, and so keeps the artifacts of `50%20off` next to it.
    places += [Path(unquote(str(place))) for place in places]
    if not any(folder.resolve().is_relative_to(place.resolve()) for place in places):
        other = owner_of(folder)
        if other:
            raise InputError(
                f"{keeps}, which belongs to {other}; if {shown_uri()} was copied or moved from"
                f" there, bring its artifacts here as well, and run: {COMMAND}. Or set"
                " MLFLOW_EXPERIMENT_NAME to a new name"
            )
        if not is_there(folder.parent):
            by_name = f", or name its new place by: {COMMAND} --artifacts FOLDER" * bool(database)
            raise InputError(
                f"{keeps}, which is not there; bring it back{by_name}. Or set"
                " MLFLOW_EXPERIMENT_NAME to a new name"
            )
    for place in (folder, folder / "models") if models else (folder,):
        if not _is_writable(place):
            raise MachineError(
                f"{place} can't be written, where experiment {experiment.name!r} keeps its"
                f" {'artifacts' if place == folder else 'models'}; make it writable, or work in"
                " another folder with another MLFLOW_EXPERIMENT_NAME"
            )


def _is_writable(folder: Path) -> bool:
    """Whether files can be written in a folder, or in the one that it would be created in."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def deleted_experiment(experiment: Experiment) -> str:
    """Say that an experiment is deleted, and how to bring it back."""
    return (
        f"the experiment {experiment.name!r} is deleted; name another one, or restore it by: mlflow"
        f" experiments restore --experiment-id {experiment.experiment_id}"
    )
