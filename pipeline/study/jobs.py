"""Run a study in parallel: each job is a process that trains one network after another.

Two networks with one thread each train faster in parallel than one after the other with two: most
operations of a step are too small to be worth splitting (docs/benchmarks/).

Slow imports are left to the process itself, after it has set up its signal handlers.
"""

import io
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from pipeline import interruption
from pipeline.config import Config
from pipeline.errors import InputError, MachineError, StoreError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pipeline.data.dataset import ImageDataset
    from pipeline.runs.run_result import RunResult
    from pipeline.training.state import History


# Seconds without news from its runs after which a study checks its own sign of life.
LOOK_SECONDS = 60


class Progress(NamedTuple):
    """A run's progress: complete epochs, the last one's validation accuracy, and its seconds."""

    epochs: int = 0
    val_accuracy: float = 0.0
    epoch_seconds: float = 0.0


# What is reported about a cell: its progress, a line it prints, or how it ended.
Event: TypeAlias = "Progress | str | RunResult | Exception"


class Task(NamedTuple):
    """A cell to train, an earlier study's run to continue, and the number of threads."""

    cell: Config
    continued: "Run | None"
    threads: int


def in_parallel(tasks: Sequence[Task], parent: "Run", jobs: int) -> Generator[tuple[Config, Event]]:
    """Train the cells of the study `parent` in `jobs` processes; yield their events.

    If a process dies, its run is ended, and a new process takes its place.

    Raises StoreError, which would affect the other cells too. Before that, and on a signal, every
    process ends its run as KILLED.
    """
    from pipeline.store import buffer, liveness

    waiting = deque(tasks)
    team: dict[Connection, _Job] = {}
    try:
        while waiting or team:
            while waiting and len(team) < jobs:
                with interruption.deferred():  # once started, a process is also ended
                    job = _Job(parent)
                    team[job.connection] = job
                yield job.begin(waiting.popleft())
            buffer.sample_again()
            for connection in wait(list(team), LOOK_SECONDS):
                connection = cast("Connection", connection)
                job = team[connection]
                cell = job.cell
                try:
                    event: Event = connection.recv()
                except (EOFError, OSError):  # OSError: in the middle of a message
                    event = job.died()
                    liveness.mark_dead_runs()
                    del team[connection]
                else:
                    if isinstance(event, StoreError):
                        raise event
                yield cell, event
                if connection in team and not isinstance(event, Progress | str):
                    if waiting:
                        yield job.begin(waiting.popleft())
                    else:
                        _stop([team.pop(connection)])
    finally:
        _stop(team.values())


class _Job:
    """A process, the connection to it, and the cell that it is training."""

    cell: Config

    def __init__(self, parent: "Run") -> None:
        context = get_context("spawn")  # a fork would inherit the locks of torch's threads
        self.connection, theirs = context.Pipe()
        # Closing it asks the process to end its run.
        # (On Windows, terminating a process kills it.)
        not_ours, self.go_on = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, not_ours), daemon=True)
        if sys.platform != "win32":
            resource_tracker.ensure_running()  # starting it would undo the mask
        try:
            with interruption.inherited_blocked():
                self.process.start()
        except OSError as error:
            raise MachineError(f"no process can be started for a run ({error})") from None
        theirs.close()  # so that the connection ends with the process
        not_ours.close()
        self._send(parent)

    def begin(self, task: Task) -> tuple[Config, Progress]:
        self.cell = task.cell
        self._send(task)
        return task.cell, Progress()

    def died(self) -> MachineError:
        """Say how the process ended unexpectedly."""
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return MachineError(f"its process {how}")

    def _send(self, what: "Run | Task") -> None:
        with suppress(OSError):  # it is already dead; reading its answer will show that
            self.connection.send(what)


def _stop(jobs: Iterable[_Job]) -> None:
    """Make all processes end their runs at the same time, and wait for them."""
    for job in jobs:
        job.go_on.close()
    for job in jobs:
        job.connection.close()
        job.process.join()


def _work(connection: Connection, go_on: Connection) -> None:
    """Train the cells received over the connection until `go_on` is closed."""
    lock = threading.RLock()  # MLflow's threads may print too

    def send(event: Event) -> None:
        with lock, suppress(OSError):  # the study is gone, and this process soon will be
            connection.send(event)

    def show(history: "History") -> None:
        last = history[-1]
        send(Progress(len(history), last["val_accuracy"], last["epoch_seconds"]))

    following = threading.Thread(target=_follow_study, args=(go_on,), daemon=True)

    def receive() -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            following.join()  # it interrupts here, not while Python exits
            raise EOFError from None

    interruption.install()
    with suppress(interruption.Interrupted, KeyboardInterrupt, EOFError):
        with interruption.deferred():
            interruption.unblock()
            following.start()
            os.environ["TQDM_DISABLE"] = "1"  # the study shows each run's progress
            from tqdm import tqdm

            # Not a multiprocessing lock, which would leak if this process is killed.
            tqdm.set_lock(threading.RLock())
            from pipeline.ablation.loading import load_data
            from pipeline.runs.training_run import train_run
            from pipeline.store.failures import first_line

        lines = _Lines(send)
        with redirect_stdout(lines), redirect_stderr(lines):
            parent, data = receive(), None
            while True:
                cell, continued, threads = receive()
                try:
                    data = data or _checked(load_data(cell), cell, parent)
                    send(train_run(cell, data, False, continued, parent, threads, show))
                except StoreError as error:
                    send(error)
                except Exception as error:  # it may hold objects we can't send
                    send(MachineError(first_line(error)))


def _checked(data: "ImageDataset", cell: Config, parent: "Run") -> "ImageDataset":
    """Return the data if it and the code are those that the study began with.

    Raises InputError otherwise.
    """
    from pipeline.runs.provenance import code_digest

    now = {"data_digest": data.digest, "code_digest": code_digest(cell.ablation)}
    for name, value in now.items():
        if value != parent.data.tags[name]:
            what = data.name if name == "data_digest" else "the code"
            raise InputError(f"{what} has changed since the study began; start the study again")
    return data


def _follow_study(go_on: Connection) -> None:
    """Stop this process when the study asks it to or is gone: either closes the connection."""
    wait([go_on])
    interruption.stop_this_process()


class _Lines(io.TextIOBase):
    """A stream that forwards each line."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self.send = send
        self.begun = ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.send(line)
        return len(text)
