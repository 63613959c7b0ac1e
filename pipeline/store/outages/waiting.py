"""Wait for the tracking store while it does not answer."""

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import mlflow

from pipeline.errors import InputError
from pipeline.interruption import deferred
from pipeline.store.address import is_server, shown_uri
from pipeline.store.outages.advice import as_store_error
from pipeline.store.outages.failures import STORE_ERRORS, is_contended, is_outage, is_overloaded

log = logging.getLogger(__name__)
RETRY_SECONDS, MOST_RETRY_SECONDS = 2, 60
# How long to wait for another process writing to the same database.
LOCK_SECONDS = 120

P = ParamSpec("P")
T = TypeVar("T")


def patience() -> float:
    """Seconds that a run, once begun, waits for a store that does not answer.

    Raises InputError if PIPELINE_STORE_PATIENCE is not a valid number.
    """
    given = os.environ.get("PIPELINE_STORE_PATIENCE", "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise InputError(
            f"PIPELINE_STORE_PATIENCE is {given!r}; it must be a number of seconds, such as 600"
        )
    return seconds


_waits_from_the_start = False  # in all threads of this process


def wait_from_the_start() -> None:
    """Wait for outages even if no run has begun here: this process works for a study that has."""
    global _waits_from_the_start
    _waits_from_the_start = True


_thread = threading.local()  # `is_inside`: whether it is running a function of `in_store`


def in_store(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function that is safe to retry, so that it waits for an outage to end.

    Raises StoreOutageError, in one line, if the outage does not end in time (there is no waiting
    before a run has begun, except in a process of a study), and StoreError for a lasting
    failure.
    """

    @wraps(function)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(_thread, "is_inside", False):
            return function(*args, **kwargs)  # the outermost call waits: here signals are held
        started, announced, pause = time.monotonic(), False, float(RETRY_SECONDS)
        # Here, since the function may end the run.
        limit = patience() if mlflow.active_run() or _waits_from_the_start else 0.0
        while True:
            try:
                with uncut():
                    _thread.is_inside = True
                    try:
                        return function(*args, **kwargs)
                    finally:
                        _thread.is_inside = False
            except STORE_ERRORS as error:
                is_busy = is_contended(error) or is_overloaded(error)
                most = max(limit, LOCK_SECONDS) if is_busy else limit
                if not is_outage(error) or time.monotonic() - started >= most:
                    raise as_store_error(error) from None
                if not announced and not is_contended(error):
                    announced = True
                    log.warning(
                        f"the tracking store {shown_uri()} does not answer; waiting for it for up"
                        f" to {most:.0f} s"
                    )
                if is_overloaded(error):
                    pause = min(2 * pause, MOST_RETRY_SECONDS)
                time.sleep(pause * random.uniform(0.5, 1.5))

    return patient


def uncut() -> AbstractContextManager[None]:
    """Hold signals back while a database is in use.

    An exception raised by a signal inside SQLAlchemy can leave a transaction open. This process
    then waits in vain for its own lock when it records how the run ended, and so do others. A
    server is not affected, so a request to it, which can take long, may be interrupted.
    """
    return nullcontext() if is_server() else deferred()
