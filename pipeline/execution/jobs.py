"""Run a study in parallel: each job is a process that trains one network after another.

Two networks with one thread each train faster in parallel than one after the other with two: most
operations of a step are too small to be worth splitting (docs/benchmarks/).

Slow imports are left to the process itself, after it has set up its signal handlers.
"""

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, resource_tracker, set_forkserver_preload
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from pipeline import interruption
from pipeline.config import Config
from pipeline.errors import MachineError, StoreError
from pipeline.execution.tasks import (
    LOOK_SECONDS,
    Event,
    Events,
    Progress,
    Task,
    outcome,
    printing_to,
    set_up,
)
from pipeline.imports import importing

if TYPE_CHECKING:
    from pipeline.runs.record import StudyRecord

# With any text in this variable, a process that starts does not look for Python's own modules in
# the current folder, where a `random.py` may be. It then gets its parent's path.
SAFE_PATH, FOR_THE_START = "PYTHONSAFEPATH", "while it starts"

# On Linux the processes are forks of one that has imported what they need, and has computed nothing
# yet: a fork of this process would inherit the locks of torch's threads. Elsewhere each imports it.
IS_FORKED = sys.platform == "linux" and hasattr(os, "fork")


def import_ahead() -> None:
    """Start importing what runs of networks need, while this process has other things to do."""
    if IS_FORKED:
        from multiprocessing import forkserver  # which Windows does not have

        set_forkserver_preload(["pipeline.execution.preload"])
        with _starting():
            forkserver.ensure_running()


def in_parallel(
    tasks: Sequence[Task], study: "StudyRecord", jobs: int, gpus: Sequence[str]
) -> Events:
    """Train the cells of a study in `jobs` processes; yield their events.

    If a process dies, its run is ended, and a new process takes its place. With `gpus`, as in
    CUDA_VISIBLE_DEVICES, each process sees one of them, and all have the same number of processes.

    Raises StoreError, which would affect the other cells too. Before that, and on a signal, every
    process ends its run as KILLED.
    """
    from pipeline.store import liveness

    waiting = deque(tasks)
    team: dict[Connection, _Job] = {}
    try:
        while waiting or team:
            while waiting and len(team) < jobs:
                with interruption.deferred():  # once started, a process is also ended
                    taken = Counter(job.gpu for job in team.values())
                    job = _Job(
                        study, tasks[0].set_up, min(gpus, key=lambda gpu: taken[gpu], default="")
                    )
                    team[job.connection] = job
                yield job.begin(waiting.popleft())
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

    def __init__(self, study: "StudyRecord", imports: Callable[[], None], gpu: str) -> None:
        self.gpu = gpu
        context: Any = get_context("forkserver" if IS_FORKED else "spawn")
        self.connection, theirs = context.Pipe()
        # Closing it asks the process to end its run.
        # (On Windows, terminating a process kills it.)
        not_ours, self.go_on = context.Pipe(duplex=False)
        variables = dict(os.environ)  # a fork would have those of an earlier moment
        if gpu:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        self.process = context.Process(
            target=_work, args=(theirs, not_ours, imports, variables), daemon=True
        )
        try:
            with _starting(), _unknown_program():
                self.process.start()
        except OSError as error:
            raise MachineError(f"no process can be started for a run ({error})") from None
        theirs.close()  # so that the connection ends with the process
        not_ours.close()
        self._send(study)

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

    def _send(self, what: "StudyRecord | Task") -> None:
        with suppress(OSError):  # it is already dead; reading its answer will show that
            self.connection.send(what)


@contextmanager
def _starting() -> Iterator[None]:
    """Let a process start that holds signals back, and imports nothing of the current folder."""
    safe = os.environ.get(SAFE_PATH) or FOR_THE_START
    with patch.dict(os.environ, {SAFE_PATH: safe}):
        if sys.platform != "win32":
            resource_tracker.ensure_running()  # starting it would undo the mask
        with interruption.inherited_blocked():
            yield


@contextmanager
def _unknown_program() -> Iterator[None]:
    """Let a process that starts not execute this one's program again, as it would by default.

    A script that calls `ablate` then needs no `if __name__ == "__main__"`.
    """
    program: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {
        name: program[name] for name in ("__file__", "__spec__") if name in program
    }
    program.pop("__file__", None)
    program["__spec__"] = None
    try:
        yield
    finally:
        program |= {name: hidden[name] for name in ("__file__", "__spec__") if name in hidden}


def _stop(jobs: Iterable[_Job]) -> None:
    """Make all processes end their runs at the same time, and wait for them."""
    for job in jobs:
        job.go_on.close()
    for job in jobs:
        job.connection.close()
        job.process.join()


def _work(
    connection: Connection,
    go_on: Connection,
    imports: Callable[[], None],
    variables: Mapping[str, str],
) -> None:
    """Train the cells received over the connection until `go_on` is closed."""
    os.environ.clear()
    os.environ.update(variables)
    lock = threading.RLock()  # MLflow's threads may print too

    def send(event: Event) -> None:
        with lock, suppress(OSError):  # the study is gone, and this process soon will be
            connection.send(event)

    following = threading.Thread(target=_follow_study, args=(go_on,), daemon=True)

    def receive() -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            following.join()  # it interrupts here, not while Python exits
            raise EOFError from None

    interruption.install()
    with suppress(interruption.Interrupted, KeyboardInterrupt, EOFError):
        with importing():
            interruption.unblock()
            following.start()
            set_up(imports)
        with printing_to(send):
            study = receive()
            while True:
                task = receive()
                send(outcome(partial(task.make, study, send)))


def _follow_study(go_on: Connection) -> None:
    """Stop this process when the study asks it to or is gone: either closes the connection."""
    wait([go_on])
    interruption.stop_this_process()
