"""SIGINT, SIGTERM and SIGHUP as an exception, so that a run that is stopped has a true status."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP: there a closed terminal ends the process.
HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
SIGNALS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number)

_held = 0  # how many `deferred` blocks are open
_pending: int | None = None  # the signal that came meanwhile


class Interrupted(BaseException):
    """The process was asked to stop. Not an Exception: nothing on the way may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        # What a shell reports of a process that died of the signal.
        self.exit_status = 128 + signal_number
        self.remedy = ""  # the command that goes on from here

    def __str__(self) -> str:
        stopped = super().__str__()
        return f"{stopped}; go on by: {self.remedy}" if self.remedy else stopped


def install() -> None:
    """Raise Interrupted in the main thread at the first of the signals."""
    for number in SIGNALS:
        # `nohup` has SIGHUP ignored, and that stays.
        if number != HANG_UP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold the signals back while a step is taken that must not be cut in two.

    A second Ctrl-C is not held back: whoever presses it again does not want to wait.
    Not by a signal mask, which holds for one thread: torch's other threads would take the signal.
    """
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _pending is not None and not _held:
            _raise(_pending)


@contextmanager
def inherited_blocked() -> Iterator[None]:
    """Have processes that are started meanwhile hold the signals back until they `unblock` them.

    Windows has no mask of signals: there Ctrl-C ends a process that is still importing.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Receive the signals that this process was started without."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def stop_this_process() -> None:
    """Have the main thread act as at SIGTERM; from any thread.

    Not by `os.kill`, which on Windows ends the process at once.
    """
    main = threading.main_thread().ident
    if main and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGTERM)  # also wakes it up where it waits
    else:
        _thread.interrupt_main(signal.SIGTERM)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    global _pending
    if not _held or (_pending is not None and number == signal.SIGINT):
        _raise(number)
    _pending = number


def _raise(number: int) -> None:
    global _pending
    _pending = None
    # Ctrl-C in `mlflow run` reaches its child twice: as SIGINT from the terminal, then as SIGTERM
    # from `mlflow run` itself. The second must not disturb the ending. Another Ctrl-C still does.
    # (Not SIG_IGN: Python raises an OSError if the signal has come before that, unhandled yet.)
    for other in SIGNALS:
        signal.signal(other, _ignore)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise Interrupted(number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
