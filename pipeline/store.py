"""The tracking store: whether it can be used, and what to do while it can't.

An outage (a server that restarts, a database that another process has locked) is waited for; what
no waiting mends (a full disk, a store that may not be written) is told at once.
"""

import errno
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from multiprocessing import parent_process
from pathlib import Path
from typing import ParamSpec, TypeVar

import mlflow
import requests
from filelock import FileLock
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.string_utils import quote
from mlflow.utils.uri import is_local_uri
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import InputError, MachineError
from pipeline.interruption import deferred

DEFAULT_STORE = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "0"
RETRY_SECONDS = 2
# How long to wait for another process that writes to the same database.
LOCK_SECONDS = 120
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LASTING = (
    "disk is full",
    "readonly",
    "unable to open",
    "no such table",
    "disk I/O error",
    "syntax error",
)
CONTENDED = re.compile("database is locked|unique constraint|duplicate (key|entry)", re.IGNORECASE)
PASSING_CODES = {408, 429, *range(500, 600)}  # of HTTP
# What MLflow says of a server that can't be reached.
UNREACHED = re.compile("API request to .* failed with (exception|timeout)|ownload")
# What SQLAlchemy may put before the reason.
AUTOFLUSH = (
    "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block if"
    " this flush is occurring prematurely)"
)
WRITABLE = "make it writable, or set MLFLOW_TRACKING_URI to a store elsewhere"
AWAY = "start that server, or check MLFLOW_TRACKING_URI"
# What helps, by what the store says; for what is not listed no advice is better than a wrong one.
ADVICE = tuple(
    (re.compile(said, re.IGNORECASE), helps)
    for said, helps in (
        ("read-?only|unable to open|not a directory|is a directory|file exists", WRITABLE),
        ("could not parse|unsupported uri|must be a database|not a valid", WRITABLE),
        (
            "table .* already exists",
            "it was not completed when it was made; if it is new, delete it",
        ),
        ("file is not a database|disk image is malformed", "restore that file, or move it away"),
        (
            r"error code 40[13]\b|permission_denied|unauthenticated",
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        ),
        (
            r"error code 40[45]\b|valid JSON format",
            "no MLflow 3 server answers there; MLFLOW_TRACKING_URI is an address such as"
            " http://127.0.0.1:5000",
        ),
        (
            "password authentication failed|access denied",
            "check user and password in MLFLOW_TRACKING_URI",
        ),
        ("connection failed|can't connect", AWAY),
        (
            "sqlite3.*syntax error",
            "MLflow can't keep runs where the path holds both ' and \"; use another folder",
        ),
    )
)
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)

# These log what is told in one line here, or what an outage repeats every few seconds.
for _name in ("mlflow.store.db.utils", "mlflow.system_metrics", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

P = ParamSpec("P")
T = TypeVar("T")


class StoreError(MachineError):
    """The tracking store can't be used, and waiting does not help."""


class StoreOutageError(StoreError):
    """The tracking store does not answer; later it may."""


def patience() -> float:
    """Seconds for which a run that has begun waits for a store that does not answer.

    Raises InputError if PIPELINE_STORE_PATIENCE is no such number.
    """
    given = os.environ.get("PIPELINE_STORE_PATIENCE", "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise InputError(f"PIPELINE_STORE_PATIENCE is {given!r}; it must be seconds, such as 600")
    return seconds


_is_inside = False  # whether a function that `in_store` has wrapped is being called


def in_store(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function that may be repeated, so that it waits for the end of an outage.

    Raises StoreOutageError, in one line, if the outage does not end in time (none is waited for
    before a run has begun; a job of a study has one from the start), and StoreError for what can't
    pass.
    """

    @wraps(function)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        global _is_inside
        if _is_inside:
            return function(*args, **kwargs)  # the outermost waits: in here signals are held back
        started, told = time.monotonic(), False
        while True:
            try:
                with uncut():
                    _is_inside = True
                    try:
                        return function(*args, **kwargs)
                    finally:
                        _is_inside = False
            except STORE_ERRORS as error:
                limit = patience() if mlflow.active_run() or parent_process() else 0.0
                if is_contended(error):
                    limit = max(limit, LOCK_SECONDS)
                if not is_outage(error) or time.monotonic() - started >= limit:
                    raise as_store_error(error) from None
                if not told and not is_contended(error):
                    told = True
                    print(
                        f"the tracking store {shown_uri()} does not answer; waiting for it for up"
                        f" to {limit:.0f} s",
                        file=sys.stderr,
                    )
                time.sleep(RETRY_SECONDS)

    return patient


def uncut() -> AbstractContextManager[None]:
    """Hold signals back while something is stored in a database.

    A signal's exception in the middle of SQLAlchemy can leave a transaction open. This process then
    waits in vain for its own lock when it wants to say how the run has ended, and so do others. A
    server is not cut short by what happens here; a request to it may be, since it can take long.
    """
    return nullcontext() if mlflow.get_tracking_uri().startswith("http") else deferred()


def is_contended(error: Exception) -> bool:
    """Whether another process has written to the database at this moment: again, it goes well.

    SQLite is locked meanwhile. Every database refuses the second of two that add the same row, such
    as the tag of a dead run: MLflow looks whether it is there, and then adds it.
    """
    return bool(CONTENDED.search(str(error)))


def is_outage(error: Exception) -> bool:
    """Whether what has failed may go well later."""
    said = str(error)
    if any(words in said for words in LASTING):
        return False
    if is_contended(error):
        return True
    if isinstance(error, requests.HTTPError):  # of a server that does answer
        return error.response is None or error.response.status_code in PASSING_CODES
    if isinstance(error, MlflowException):
        if mlflow.get_tracking_uri().startswith("http"):
            code = re.search(r"failed with error code (\d+)", said)
            return int(code[1]) in PASSING_CODES if code else bool(UNREACHED.search(said))
        return bool(error.error_code == "TEMPORARILY_UNAVAILABLE")  # a database
    return isinstance(error, requests.RequestException)


def as_store_error(error: Exception) -> StoreError:
    """Say in one line what is wrong with the store, and what to do."""
    uri, said = shown_uri(), without_password(first_line(error))
    if is_outage(error):
        return StoreOutageError(f"the tracking store {uri} does not answer ({said}); {AWAY}")
    advice = next((helps for cause, helps in ADVICE if cause.search(said)), "")
    if schema := re.search(r"(?:found version|Can't locate revision identified by) '?(\w+)", said):
        version = f"MLflow {mlflow.__version__}"
        if _is_known(schema[1]):
            said = f"an MLflow older than {version} made it"
            advice = f"make a copy of it, and bring it up to date by: mlflow db upgrade {_typed()}"
        else:
            said = f"an MLflow newer than {version} made it"
            advice = "use that version, or set MLFLOW_TRACKING_URI to another store"
    elif "migrate-filestore" in said and not (local_path(uri) or Path()).exists():
        said = "there is nothing"
        advice = "it must be an address such as sqlite:///mlflow.db or http://127.0.0.1:5000"
    elif "migrate-filestore" in said:
        said = "it holds runs as files, which MLflow no longer writes"
        advice = (
            "convert it by mlflow migrate-filestore, or move it away, or"
            " set MLFLOW_TRACKING_URI=sqlite:///mlflow.db to begin a new store beside it"
        )
    elif "disk is full" in said or getattr(error, "errno", None) in NO_ROOM:
        advice = "make room on its disk"
    elif isinstance(error, PermissionError):
        advice = WRITABLE
    elif isinstance(error, ImportError):
        advice = "install the driver of that database"
    return StoreError(
        "; ".join(filter(None, (f"the tracking store {uri} can't be used ({said})", advice)))
    )


def shown_uri() -> str:
    """The store's address, as it may be shown."""
    return without_password(mlflow.get_tracking_uri())


def without_password(said: str) -> str:
    """Replace every password in a text by `***`: `scheme://user:password@host`, `?password=…`."""
    said = re.sub(r"(://[^/:@\s]*):(?!\d+/)\S+@", r"\1:***@", said)
    return re.sub(r"((?:password|pwd)(?:=|%3D))[^&;%\s]+", r"\1***", said, flags=re.IGNORECASE)


def _typed() -> str:
    """The store's address as a shell takes it, without a password in it."""
    uri = mlflow.get_tracking_uri()
    return quote(uri) if uri == shown_uri() else '"$MLFLOW_TRACKING_URI"'


def _is_known(schema: str) -> bool:
    """Whether the installed MLflow has a migration that leads to this version of the schema."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        migrations = ScriptDirectory.from_config(_get_alembic_config(""))  # type: ignore[no-untyped-call]
        return bool(migrations.get_revision(schema))
    except CommandError:
        return False


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    said = str(error).strip().removeprefix(AUTOFLUSH).strip()
    return (said or type(error).__name__).splitlines()[0]


def check_store() -> None:
    """Make the tracking store if it is new; raise StoreError if it can't be used."""
    patience()
    is_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if not is_set and mlflow.get_tracking_uri().startswith("sqlite:"):
        # MLflow's default, by its relative address. The absolute one is percent-encoded, and MLflow
        # 3.17 makes a folder of that spelling (`my%20project`) beside `my project`.
        mlflow.set_tracking_uri(DEFAULT_STORE)
    if is_set and "MLFLOW_RUN_ID" in os.environ:
        check_relative()
    try:
        _make_sqlite(mlflow.get_tracking_uri())
    except (*STORE_ERRORS, ValueError) as error:  # ValueError: no address
        raise as_store_error(error) from None
    _open_store()


def check_relative() -> None:
    """Raise InputError if a store that `mlflow run` has used is not found from this folder."""
    database = sqlite_file(mlflow.get_tracking_uri())
    if database and not database.is_absolute() and not database.exists():
        raise InputError(
            f"there is no {database} in {Path.cwd()}, where `mlflow run` runs the project; give"
            " MLFLOW_TRACKING_URI the whole path"
        )


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, as SQLAlchemy reads the address; None if it has none."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    # SQLite's own addresses (`file:…`) say more than a path, and `:memory:` is none.
    return Path(database) if database and not database.startswith(("file:", ":")) else None


def local_path(address: str) -> Path | None:
    """Where artifacts lie in the file system, as MLflow finds them; None if they are elsewhere."""
    if not is_local_uri(address):  # type: ignore[no-untyped-call]
        return None
    return Path(local_file_uri_to_path(address))  # type: ignore[no-untyped-call]


def _make_sqlite(uri: str) -> None:
    """Make the tables of a new SQLite database, all of them or none.

    MLflow makes them when it first opens one. If several processes do so at the same moment, all
    but one fail; one that is killed in the middle leaves a database that no other can open.
    """
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    database = sqlite_file(uri)
    if database is None:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f"{database.name}.lock"), timeout=LOCK_SECONDS):
        if database.exists() and database.stat().st_size:  # SQLite leaves empty ones
            return
        new = database.with_name(f"{database.name}.new")
        # With its journals: SQLite would take those for the new file's own, and roll it back.
        files = [new, *(new.with_name(f"{new.name}{end}") for end in ("-journal", "-wal", "-shm"))]
        try:
            for left in files:
                left.unlink(missing_ok=True)
            address = make_url(uri).set(database=str(new)).render_as_string()
            engine = create_sqlalchemy_engine(address)  # type: ignore[no-untyped-call]
            try:
                _initialize_tables(engine)  # type: ignore[no-untyped-call]
            finally:
                engine.dispose()  # Windows renames no file that is open
            new.replace(database)
        finally:
            for left in files:
                left.unlink(missing_ok=True)


@in_store
def _open_store() -> None:
    from alembic.util import CommandError
    from mlflow.store.db.utils import create_sqlalchemy_engine

    uri = mlflow.get_tracking_uri()
    try:
        if uri.startswith(tuple(DATABASE_ENGINES)):  # MLflow tries to reach one for 100 seconds
            create_sqlalchemy_engine(uri).connect().close()  # type: ignore[no-untyped-call]
        mlflow.search_experiments(max_results=1)
        mlflow.MlflowClient().search_registered_models(max_results=1)
    except (ImportError, CommandError, ValueError) as error:
        # No driver for it; an unknown schema; no address.
        raise as_store_error(error) from None


@in_store
def check_experiment() -> str:
    """Return the name of the experiment that the variables name, MLflow's default without them.

    Raises InputError if no run can be put into it, and MachineError if no artifact can.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` may have been told another, and gives its id
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
    if not found and not name and number != DEFAULT_EXPERIMENT:  # one of that name MLflow makes
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


def where_to_look(run_id: str) -> str:
    """Where a run is seen: its page on the server, or the command that opens MLflow's interface."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        server = re.sub("//[^/]*@", "//", uri).rstrip("/")  # without user and password
        try:
            experiment = mlflow.get_run(run_id).info.experiment_id
        except STORE_ERRORS:  # it is away now; the run is stored all the same
            return server
        return f"{server}/#/experiments/{experiment}/runs/{run_id}"
    if not uri.startswith(tuple(DATABASE_ENGINES)):
        return shown_uri()
    database = sqlite_file(uri)
    if database and database.resolve() == Path("mlflow.db").resolve():
        command = "make ui" if Path(".venv/installed").exists() else "mlflow ui"
    else:
        command = f"mlflow ui --backend-store-uri {_typed()}"
    return f"{command} and open http://127.0.0.1:5000"
