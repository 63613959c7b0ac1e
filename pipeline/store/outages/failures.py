"""Classify failures of the tracking store: whether they may pass.

An outage (a restarting server, a database locked by another process) passes; a full disk or a store
that is not writable does not.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.interruption import Interrupted
from pipeline.store.address import is_server, shown_uri

log = logging.getLogger(__name__)

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)
LASTING = re.compile(
    "disk is full|readonly|unable to open|no such table|disk I/O error|syntax error"
)
CONTENDED = re.compile("database is locked|unique constraint|duplicate (key|entry)", re.IGNORECASE)
OVERLOADED = re.compile("QueuePool limit")
PASSING_CODES = {408, 429, *range(500, 600)}  # HTTP
# MLflow's messages about an unreachable server.
UNREACHED = re.compile("API request to .* failed with (exception|timeout)|ownload")
# SQLAlchemy may put this before the reason.
AUTOFLUSH = re.compile(r"^\s*\(raised as a result of Query-invoked autoflush[^)]*\)")


def is_contended(error: Exception) -> bool:
    """Whether a concurrent write by another process caused the error: a retry succeeds.

    SQLite is locked during a write. Every database rejects the second of two inserts of the same
    row, such as the tag of a dead run: MLflow checks whether it exists, then adds it.
    """
    return bool(CONTENDED.search(str(error)))


def is_overloaded(error: Exception) -> bool:
    """Whether all connections of a server to its database are in use, which it calls a bad request.

    They may be waiting for each other (findings/
    mlflow_creates_no_run_if_as_many_clients_ask_at_once_as_it_has_connections.sh). If all who have
    failed ask again at once, they will be again.
    """
    return bool(OVERLOADED.search(str(error)))


def is_outage(error: Exception) -> bool:
    """Whether a retry may succeed later."""
    message = str(error)
    if LASTING.search(message):
        return False
    if is_contended(error) or is_overloaded(error):
        return True
    if isinstance(error, requests.HTTPError):  # the server does answer
        return error.response is None or error.response.status_code in PASSING_CODES
    if isinstance(error, MlflowException):
        if is_server():
            code = re.search(r"failed with error code (\d+)", message)
            return int(code[1]) in PASSING_CODES if code else bool(UNREACHED.search(message))
        return bool(error.error_code == "TEMPORARILY_UNAVAILABLE")  # a database
    return isinstance(error, requests.RequestException)


def is_forbidden(error: Exception) -> bool:
    """Whether a server has refused because of who asks."""
    forbidden = getattr(error, "error_code", "") == "PERMISSION_DENIED"
    return forbidden or "error code 403" in str(error)


@contextmanager
def unless_forbidden(extra: str = "") -> Iterator[None]:
    """Go on without an `extra` that the server does not let this user do; a note says so."""
    try:
        yield
    except MlflowException as error:
        if not is_forbidden(error):
            raise
        if extra:
            log.warning(f"note: {shown_uri()} does not let you {extra} (403)")


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    message = AUTOFLUSH.sub("", str(error)).strip()
    return (message or type(error).__name__).splitlines()[0]


def reason_of(error: BaseException) -> str:
    """Why a run has ended, in one line."""
    if isinstance(error, Interrupted):
        return str(error.args[0])  # without a command: each run has its own
    return "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else first_line(error)
