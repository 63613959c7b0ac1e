"""SIGINT and SIGTERM as an exception, so that a run that is stopped ends with a true status."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Interrupted(BaseException):
    """The process was asked to stop. Not an Exception: nothing on the way may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        # What a shell reports of a process that died of the signal.
        self.exit_status = 128 + signal_number


def install() -> None:
    """Raise Interrupted in the main thread at the first SIGINT or SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold both signals back while a step is taken that must not be cut in two."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Ctrl-C in `mlflow run` reaches its child twice: as SIGINT from the terminal, then as SIGTERM
    # from `mlflow run` itself. The second must not disturb the ending. Another Ctrl-C still does.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise Interrupted(number)
