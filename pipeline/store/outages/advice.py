"""Advice for a tracking store that can't be used, by what it says."""

import errno
import re
from pathlib import Path

import mlflow

from pipeline.errors import StoreError, StoreOutageError
from pipeline.store.address import shell_uri, shown_uri, without_password
from pipeline.store.outages.failures import first_line, is_outage, is_overloaded
from pipeline.upstream import is_known_schema, local_path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITABLE = "make it writable, or set MLFLOW_TRACKING_URI to a store elsewhere"
MORE_CONNECTIONS = "set MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=80 where that server is started"
AWAY = "start that server, or check MLFLOW_TRACKING_URI"
# Advice by error message; for an unlisted one, no advice is better than wrong advice.
ADVICE = tuple(
    (re.compile(message, re.IGNORECASE), helps)
    for message, helps in (
        ("read-?only|unable to open|not a directory|is a directory|file exists", WRITABLE),
        ("could not parse|unsupported uri|must be a database|not a valid", WRITABLE),
        (
            "table .* already exists",
            "it was not completed when it was created; if it is new, delete it",
        ),
        ("file is not a database|disk image is malformed", "restore that file, or move it away"),
        (
            r"error code 401\b|unauthenticated",
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        ),
        (
            r"error code 403\b|permission_denied",
            "this user lacks a right there; ask for it, or be another user by"
            " MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_TOKEN",
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


def as_store_error(error: Exception) -> StoreError:
    """Say in one line what is wrong with the store, and what to do."""
    uri, message = shown_uri(), without_password(first_line(error))
    if is_outage(error):
        helps = MORE_CONNECTIONS if is_overloaded(error) else AWAY
        return StoreOutageError(f"the tracking store {uri} does not answer ({message}); {helps}")
    advice = next((helps for cause, helps in ADVICE if cause.search(message)), "")
    if schema := re.search(
        r"(?:found version|Can't locate revision identified by) '?(\w+)", message
    ):
        version = f"MLflow {mlflow.__version__}"
        if is_known_schema(schema[1]):
            message = f"an MLflow older than {version} made it"
            advice = (
                f"make a copy of it, and bring it up to date by: mlflow db upgrade {shell_uri()}"
            )
        else:
            message = f"an MLflow newer than {version} made it"
            advice = "use that version, or set MLFLOW_TRACKING_URI to another store"
    elif "migrate-filestore" in message and not (local_path(uri) or Path()).exists():
        message = "there is nothing"
        advice = "it must be an address such as sqlite:///mlflow.db or http://127.0.0.1:5000"
    elif "migrate-filestore" in message:
        message = "it holds runs as files, which MLflow no longer writes"
        advice = (
            "convert it by mlflow migrate-filestore, or move it away, or"
            " set MLFLOW_TRACKING_URI=sqlite:///mlflow.db to start a new store next to it"
        )
    elif "disk is full" in message or getattr(error, "errno", None) in NO_ROOM:
        advice = "make room on its disk"
    elif isinstance(error, PermissionError):
        advice = WRITABLE
    elif isinstance(error, ImportError):
        advice = "install the driver of that database"
    return StoreError(
        "; ".join(filter(None, (f"the tracking store {uri} can't be used ({message})", advice)))
    )
