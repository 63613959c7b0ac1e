"""Turn SIGINT, SIGTERM and SIGHUP into an exception, from which `runs.lifecycle` sets KILLED."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP: closing the terminal ends the process.
HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
SIGNALS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number)

# Only the main thread gets signals, so only it reads and writes these.
_held = 0  # how many `deferred` blocks are open
_pending: int | None = None  # the signal received meanwhile


class Interrupted(BaseException):
    """The process was asked to stop. Not an Exception, so that no handler swallows it."""

    def __init__(self, signal_number: int, again: bool = False) -> None:
        more = " for the second time, before it could end properly" if again else ""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{more}")
        # What a shell reports for a process killed by the signal.
        self.exit_status = 128 + signal_number
        self.remedy = ""  # the command to continue from here

    def __str__(self) -> str:
        stopped = super().__str__()
        return f"{stopped}; continue by: {self.remedy}" if self.remedy else stopped


def install() -> None:
    """Raise Interrupted in the main thread on the first signal."""
    for number in SIGNALS:
        # Under `nohup` SIGHUP stays ignored.
        if number != HANG_UP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold signals back during a step that must not be interrupted.

    A second Ctrl-C is not held back: whoever presses it again does not want to wait.
    A signal mask covers only one thread: torch's other threads would take the signal. But only the
    main thread is interrupted, so another one has nothing to hold back.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _pending is not None and not _held:
            _raise(_pending)


@contextmanager
def inherited_blocked() -> Iterator[None]:
    """Make processes started meanwhile hold signals back until they `unblock` them.

    Windows has no signal mask: there Ctrl-C ends a process that is still importing.
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
    """Unblock the signals that were blocked at process start."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_at_once() -> None:
    """Let another Ctrl-C end the process, which has said all that it has to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_this_process() -> None:
    """Raise SIGTERM in the main thread, from any thread.

    Not with `os.kill`, which on Windows ends the process at once.
    """
    main = threading.main_thread().ident
    if main and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGTERM)  # also wakes it up if it waits
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
    # from `mlflow run` itself. The second must not disrupt the shutdown; another Ctrl-C still does.
    # (Not SIG_IGN: Python raises an OSError if a signal has arrived but is not handled yet.)
    for other in SIGNALS:
        signal.signal(other, _ignore)
    signal.signal(signal.SIGINT, _interrupt_again)
    raise Interrupted(number)


def _interrupt_again(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number, again=True)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
