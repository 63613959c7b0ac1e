"""What runs in the processes of a Ray cluster: a study's runs, and what ends them if it dies.

Torch is imported after `Place.enter`, which sets variables that it reads.
"""

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue

from pipeline import interruption
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.execution.tasks import (
    LOOK_SECONDS,
    Event,
    Made,
    Progress,
    Task,
    outcome,
    printing_to,
    set_up,
)
from pipeline.imports import importing

if TYPE_CHECKING:
    from pipeline.runs.record import StudyRecord

# Variables that a run needs wherever it trains: this project's own, the tracking store's with its
# credentials, and how torch's threads wait.
CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_", "DATABRICKS_", "PG")
PASSED_ON = ("PIPELINE_", "MLFLOW_", "GOMP_", "OMP_", *CREDENTIALS)
NOT_PASSED_ON = {
    "MLFLOW_RUN_ID",  # of `mlflow run`: every worker would continue that run
    "OMP_NUM_THREADS",  # Ray sets it to a task's CPUs
}


class StoppedError(Exception):
    """The worker was asked to stop, as on a node that shuts down; Ray starts the task again."""


class Place(NamedTuple):
    """The folder and the variables of the study's process, for its workers.

    They are sent with each task, because Ray writes its own `runtime_env` to logs, and there are
    passwords among them.
    """

    folder: str
    variables: Mapping[str, str]

    def enter(self) -> None:
        """Make this process work as if it had been started there."""
        own = {"PIPELINE_DATA_DIR"} & os.environ.keys()  # a node may have its data elsewhere
        os.environ.update({k: v for k, v in self.variables.items() if k not in own})
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
            if self.folder not in sys.path:
                sys.path.append(self.folder)  # it may hold a module with the ablation


class Assignment(NamedTuple):
    """What the tasks of a study share.

    versions: that every node must have. before: ids of the runs that the study had when this
    command began.
    """

    parent: "StudyRecord"
    place: Place
    versions: Mapping[str, str]
    before: frozenset[str]


def this_place() -> Place:
    """The place of this process."""
    import mlflow

    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) and name not in NOT_PASSED_ON
    }
    # What Ray and `cluster.connect` set for workers is not for the programs that these start.
    own = {name: os.environ.get(name, "") for name in ("PYTHONPATH", "PYTHONBREAKPOINT")}
    uri = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return Place(str(Path.cwd()), {**passed, **own, **uri})


def train(number: int, task: Task, study: Assignment, events: Queue) -> "Made | Exception":
    """Train one run of a study, and return how it ended.

    `events` gets its progress and its lines, with the `number`.
    """
    looked = time.monotonic()

    def send(event: Event) -> None:
        nonlocal looked
        if isinstance(event, Progress) and time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            if run := mlflow.active_run():
                Thread(target=_end_if_taken_over, args=(run.info.run_id,), daemon=True).start()
        with suppress(RayError):  # the study is gone, and this process soon will be
            events.put((number, event))

    study.place.enter()
    with _interruptible():
        send(Progress())
        with importing():
            set_up(task.set_up)
            import mlflow
        with printing_to(send):
            return outcome(partial(_train_or_continue, task, study, send))


def _end_if_taken_over(run_id: str) -> None:
    """End this process if another one continues the run.

    Ray could not reach this node, takes it for dead, and trains the run elsewhere.
    """
    from pipeline.store.liveness import is_taken_over

    if is_taken_over(run_id):
        os._exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Interrupted on a signal, and tell Ray afterwards whether to start the task again."""
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.install()
    try:
        yield
    except interruption.Interrupted as stop:
        if stop.exit_status == 128 + signal.SIGINT:  # how Ray cancels a task
            raise KeyboardInterrupt from None
        raise StoppedError(str(stop)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train_or_continue(task: Task, study: Assignment, send: Callable[[Event], None]) -> Made:
    """Train the task's run, or continue that of an earlier try of the same task.

    If Ray has started the task again, the process of the earlier try is gone.
    """
    from pipeline.runs.identity import differences

    if now := differences(versions(), study.versions):
        raise InputError(f"node {platform.node()} has {now}")
    tries = task.tries(study.parent, study.before)
    end(one.run_id for one in tries)
    for record in tries:
        if record.status == "FINISHED" and (made := task.complete(record)):
            return made
    return task.after(tries).make(study.parent, send)


def end(run_ids: Iterable[str]) -> None:
    """End those runs that are RUNNING, because their processes are known to be gone."""
    from pipeline.store import liveness
    from pipeline.store.lookup import get_run

    for run_id in run_ids:
        run = get_run(run_id)  # which may have ended since
        if run.info.status == "RUNNING":
            liveness.mark_dead(run)


class Survivor:
    """An actor that outlives the study's process, and ends its runs if it is killed."""

    def end_runs(self, alive: Queue, study: Assignment) -> None:
        """Wait until the study's process is gone, and end its runs.

        `alive` is empty, and ends with that process; Ray ends the workers too.
        """
        with suppress(RayError):
            alive.get()
        study.place.enter()
        from pipeline.runs.queries import children_of
        from pipeline.store.outages import waiting

        waiting.wait_from_the_start()
        parent = study.parent
        end([*children_of(parent.experiment_id, parent.run_id, "RUNNING"), parent.run_id])
        ray.actor.exit_actor()


def describe(
    settings: Mapping[str, str], recorded: Mapping[str, Mapping[str, str]], place: Place
) -> dict[str, str]:
    """What a run in this process would compute with, once its data is here.

    recorded: what the study's process has found that its numbers depend on (`Inputs.as_dict`).
    """
    place.enter()
    from pipeline.ablation.inputs import Inputs, differences_here
    from pipeline.ablation.loading import load_ablation
    from pipeline.runs.provenance import code_digest
    from pipeline.runs.resolve import specify
    from pipeline.store import liveness

    config = Config(**settings)  # type: ignore[arg-type]
    liveness.mark_dead_runs()  # of this machine
    spec = specify(config, load_ablation(config.ablation))
    return {
        **versions(),
        "code": code_digest(spec.ablation),
        "data": spec.data.digest,
        "inputs": differences_here(Inputs.from_dict(recorded), config.ablation),
        "precision": spec.precision,
    }


def describe_program(source: str, variants: list[str], place: Place) -> dict[str, str]:
    """What a program in this process would depend on."""
    place.enter()
    from pipeline.ablation.loading import load_ablation
    from pipeline.runs.programs.study import program_digest
    from pipeline.store import liveness

    liveness.mark_dead_runs()  # of this machine
    return {**versions(), "program": program_digest(load_ablation(source), variants)}


def versions() -> dict[str, str]:
    """The versions that must be the same everywhere."""
    import numpy as np
    import torch

    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "torch": str(torch.__version__), "numpy": np.__version__}
