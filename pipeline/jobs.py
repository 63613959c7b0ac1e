"""The runs of a study side by side: each job is a process that trains one network after another.

Two networks with a thread each train faster side by side than one after the other with two: most
operations of a step are too small to be worth dividing (docs/benchmarks/).

What takes long to import is imported by the process itself, once its signals are in order.
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
from pipeline.errors import MachineError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pipeline.results import RunResult
    from pipeline.training import History


# Seconds after which a study sees to its own sign of life, if it hears nothing of its runs.
LOOK_SECONDS = 60


class Progress(NamedTuple):
    """How far a run is: epochs that are complete, and the last one's validation accuracy."""

    epochs: int = 0
    val_accuracy: float = 0.0


# What is heard of a cell: its progress, a line that it prints, and how it ended.
Event: TypeAlias = "Progress | str | RunResult | Exception"


class Task(NamedTuple):
    """A cell to train, the run of an earlier study to go on with, and how many threads it has."""

    cell: Config
    continued: "Run | None"
    threads: int


def share_threads(cells: int, jobs: int, threads: int) -> list[int]:
    """How many of the machine's threads each of the cells has, in the order in which they run.

    Those that are left for the last round share all of them. For the same number of jobs it is the
    same when a study is continued: the last bits of a run depend on the number of its threads.
    """
    last = cells % jobs
    return [max(1, threads // jobs)] * (cells - last) + [max(1, threads // max(last, 1))] * last


def side_by_side(
    tasks: Sequence[Task], parent: "Run", jobs: int
) -> Generator[tuple[Config, Event]]:
    """Train the cells of a study, whose run is `parent`, in `jobs` processes; yield what is heard.

    A process that dies ends the run that it was at, and another takes its place.

    Raises StoreError, which the other cells would meet as well. Before that, and at a signal, every
    process ends its run as KILLED.
    """
    from pipeline import liveness, outbox
    from pipeline.store import StoreError

    waiting = deque(tasks)
    team: dict[Connection, _Job] = {}
    try:
        while waiting or team:
            while waiting and len(team) < jobs:
                with interruption.deferred():  # a process that is started is also ended
                    job = _Job(parent)
                    team[job.connection] = job
                yield job.begin(waiting.popleft())
            outbox.sample_again()
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
    """A process, the connection to it, and the cell that it is at."""

    cell: Config

    def __init__(self, parent: "Run") -> None:
        context = get_context("spawn")  # a fork would inherit the locks of torch's threads
        self.connection, theirs = context.Pipe()
        # Closing it asks the process to end its run. (To terminate a process is to kill it on
        # Windows.)
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
        """Say how a process ended that nobody had asked to."""
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return MachineError(f"its process {how}")

    def _send(self, what: "Run | Task") -> None:
        with suppress(OSError):  # it is dead already, which is told when its answer is read
            self.connection.send(what)


def _stop(jobs: Iterable[_Job]) -> None:
    """Have the processes end their runs, all at the same time, and wait for them."""
    for job in jobs:
        job.go_on.close()
    for job in jobs:
        job.connection.close()
        job.process.join()


def _work(connection: Connection, go_on: Connection) -> None:
    """Train the cells that come through the connection until `go_on` is closed."""
    lock = threading.RLock()  # MLflow's threads may print as well

    def send(event: Event) -> None:
        with lock, suppress(OSError):  # the study is gone, and so is this process in a moment
            connection.send(event)

    def show(history: "History") -> None:
        send(Progress(len(history), history[-1]["val_accuracy"]))

    following = threading.Thread(target=_follow_study, args=(go_on,), daemon=True)

    def receive() -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            following.join()  # it interrupts: here, not while Python exits
            raise EOFError from None

    interruption.install()
    with suppress(interruption.Interrupted, KeyboardInterrupt, EOFError):
        with interruption.deferred():
            interruption.unblock()
            following.start()
            os.environ["TQDM_DISABLE"] = "1"  # the study shows how far each run is
            from tqdm import tqdm

            # Not one for several processes, which would be left behind if this one is killed.
            tqdm.set_lock(threading.RLock())
            from pipeline.data import load
            from pipeline.runs import train_run
            from pipeline.store import StoreError, first_line

        lines = _Lines(send)
        with redirect_stdout(lines), redirect_stderr(lines):
            parent, data = receive(), None
            while True:
                cell, continued, threads = receive()
                try:
                    data = data or load(
                        cell.dataset, cell.data_dir, cell.train_images, cell.validation
                    )
                    send(train_run(cell, data, False, continued, parent, threads, show))
                except StoreError as error:
                    send(error)
                except Exception as error:  # which may hold what can't be sent
                    send(MachineError(first_line(error)))


def _follow_study(go_on: Connection) -> None:
    """Stop this process when the study asks for it, or is gone: either closes the connection."""
    wait([go_on])
    interruption.stop_this_process()


class _Lines(io.TextIOBase):
    """A stream that sends each line on."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self.send = send
        self.begun = ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.send(line)
        return len(text)
