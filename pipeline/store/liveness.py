"""Whether a run's process is still alive, on any machine.

A process killed with -9, or by a power cut, leaves its run RUNNING.
"""

import math
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import mlflow
import psutil
from mlflow.entities import Run

from pipeline.store.lookup import find_run, search
from pipeline.store.outages.failures import STORE_ERRORS, unless_forbidden
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import BEGUN_BY, PARENT_TAG, kind_of, say_failure

# A live run samples CPU and memory every few seconds. One on another machine, whose process can't
# be seen from here, is given up after a silence longer than any store outage should last.
SILENCE_SECONDS = 3600
HOST, PROCESS = "pipeline.host", "pipeline.process"
MAX_RUNS = 1000


def this_process() -> dict[str, str]:
    """Tags that identify this process: machine; process id and start time in seconds.

    The start time is given twice: since 1970, and since the machine booted, which a clock change
    does not alter.
    """
    started = psutil.Process().create_time()
    process = f"{os.getpid()} {started:.2f} {started - psutil.boot_time():.2f}"
    return {HOST: _host(), PROCESS: process}


class _Process(NamedTuple):
    """What a run's tags say of its process; nothing if somebody has edited them."""

    host: str = ""
    id: int = 0
    started: float = 0.0  # in seconds since 1970
    since_boot: float = 0.0

    def __str__(self) -> str:
        return f"process {self.id} on {self.host.split()[0]}" if self.id else "unknown process"


def _process_of(run: Run) -> _Process:
    with suppress(KeyError, ValueError):
        number, *times = run.data.tags[PROCESS].split()
        started, since_boot = map(float, times)
        host, known = run.data.tags[HOST].strip(), math.isfinite(started + since_boot)
        if host and known and 0 < int(number) < 2**31:
            return _Process(host, int(number), started, since_boot)
    return _Process()


def _host() -> str:
    """Name the machine and, where it has several, the namespace of process ids."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    address = uuid.getnode()
    made_up = address >> 40 & 1  # if no network card has one; it then differs in each process
    return f"{socket.gethostname()} {0 if made_up else address:x} {space}".strip()


@in_store
def is_alive(run: Run) -> bool:
    """Whether the process that began or continued the run is alive, as far as can be known.

    Judged by process id and start time on this machine, by its last sign of life elsewhere.
    """
    known = _process_of(run)
    if known.host == _host():
        try:
            process = psutil.Process(known.id)
            same = abs(process.create_time() - psutil.boot_time() - known.since_boot) < 1
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Or this user may not inspect it (`hidepid`, on shared servers).
            if not psutil.pid_exists(known.id):
                return False
    # A program need not log anything until it ends; its study does.
    study = find_run(run.data.tags.get(PARENT_TAG, "")) if kind_of(run) == "program" else None
    return time.time() - max(map(last_sign, filter(None, [run, study]))) < SILENCE_SECONDS


def is_taken_over(run_id: str) -> bool:
    """Whether another process continues a run of this one; False if the store does not answer."""
    mine = this_process()[PROCESS]
    with suppress(*STORE_ERRORS):
        return bool(mlflow.get_run(run_id).data.tags.get(PROCESS, mine) != mine)
    return False


def last_sign(run: Run) -> float:
    """When the run last logged anything, or it or its process began, in seconds since 1970."""
    times: list[int] = [
        run.info.start_time,
        *(metric.timestamp for metric in run.data.to_proto().metrics),
    ]
    return max(_process_of(run).started, max(times) / 1000)


@in_store
def mark_dead_runs() -> None:
    """Set every RUNNING run whose process is gone to KILLED, where this user may."""
    for run in mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"attributes.status = 'RUNNING' and tags.`{PROCESS}` != ''",
        max_results=MAX_RUNS,
        output_format="list",
    ):
        # It may just have ended, or been continued by another process.
        if not is_alive(run):
            now = mlflow.get_run(run.info.run_id)
            if now.info.status == "RUNNING" and not is_alive(now):
                with unless_forbidden():  # the run of somebody else, who will
                    mark_dead(now)


@in_store
def mark_dead(run: Run) -> None:
    """Set a run to KILLED, as of its last sign of life, and record the reason.

    And those that its program has begun, which nobody else ends.
    """
    reason = f"its {_process_of(run)} ended without reporting it"
    say_failure(run.info.run_id, "KILLED", reason)
    for one in (*search(f"tags.`{BEGUN_BY}` = '{run.info.run_id}'"), run):
        if one.info.status == "RUNNING":
            end_time = int(last_sign(one) * 1000)
            mlflow.MlflowClient().set_terminated(one.info.run_id, "KILLED", end_time=end_time)


def describe(run: Run) -> str:
    """Say which process a run belongs to, and when it last gave a sign of life."""
    process = _process_of(run)
    if process.host == _host():
        return str(process)
    silent = (time.time() - last_sign(run)) / 60
    patience = SILENCE_SECONDS // 60
    return f"{process}, silent for {silent:.0f} minutes; after {patience} it may be continued"
