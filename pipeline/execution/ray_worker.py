"""What runs in the processes of a Ray cluster: a study's runs, and what ends them if it dies.

What is slow to import waits until the process has its place.
"""

import os
import platform
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue

from pipeline import interruption
from pipeline.config import Config
from pipeline.execution import tasks
from pipeline.execution.tasks import Event, Progress, Task

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pipeline.data.dataset import ImageDataset
    from pipeline.runs.run_result import RunResult

# Variables that a run needs wherever it trains: the tracking store and its credentials, this
# project's own, and how threads wait for each other.
PASSED_ON = ("MLFLOW_", "PIPELINE_", "AWS_", "AZURE_", "GOOGLE_", "DATABRICKS_", "GOMP_", "OMP_")
NOT_PASSED_ON = {
    "MLFLOW_RUN_ID",  # of `mlflow run`: every worker would continue that run
    "OMP_NUM_THREADS",  # Ray sets it to a task's CPUs
}
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")


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


def this_place() -> Place:
    """The place of this process."""
    import mlflow

    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) and name not in NOT_PASSED_ON
    }
    return Place(str(Path.cwd()), {**passed, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()})


def train(number: int, task: Task, parent: "Run", events: Queue, place: Place) -> None:
    """Train one run of the study `parent`; put what happens into `events`, with the `number`."""

    def send(event: Event) -> None:
        with suppress(RayError):  # the study is gone, and this process soon will be
            events.put((number, event))

    place.enter()
    with _interruptible():
        send(Progress())
        with interruption.deferred():
            tasks.set_up()
        send(tasks.outcome(partial(_train_or_continue, task, parent, send), send))


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


def _train_or_continue(task: Task, parent: "Run", send: Callable[[Event], None]) -> "RunResult":
    """Train the task's run, or continue that of an earlier try of the same task.

    If Ray has started the task again, the process of the earlier try is gone.
    """
    from pipeline.runs.run_result import read_result

    tries = earlier_tries(parent, task.cell)
    end(tries)
    for run in tries:
        if run.info.status == "FINISHED":
            return read_result(run)
    begun = (run for run in tries if run.data.params)  # else it ended before it could be continued
    return tasks.train(task._replace(continued=next(begun, task.continued)), parent, send)


def earlier_tries(parent: "Run", cell: Config) -> "list[Run]":
    """The runs of a cell of the study `parent`, newest first."""
    from pipeline.runs.queries import PARENT_TAG, find_runs

    tags = {
        PARENT_TAG: parent.info.run_id,
        "variant": cell.variant,
        "seed": str(cell.seed),
        "lr": str(cell.lr),
    }
    return find_runs(parent.info.experiment_id, tags, *STATUSES)


def end(runs: "Iterable[Run]") -> None:
    """End those runs that are RUNNING, because their processes are known to be gone."""
    from pipeline.store import liveness

    for run in runs:
        if run.info.status == "RUNNING":
            liveness.mark_dead(run)


class Survivor:
    """An actor that outlives the study's process, and ends its runs if it is killed."""

    def end_runs(self, alive: Queue, parent: "Run", place: Place) -> None:
        """Wait until the study's process is gone, and end its runs.

        `alive` is empty, and ends with that process; Ray ends the workers too.
        """
        with suppress(RayError):
            alive.get()
        place.enter()
        from pipeline.runs.queries import PARENT_TAG, find_runs, get_run
        from pipeline.store import waiting

        waiting.wait_from_the_start()
        study_id = parent.info.run_id
        end(find_runs(parent.info.experiment_id, {PARENT_TAG: study_id}, "RUNNING"))
        end([get_run(study_id)])
        ray.actor.exit_actor()


def describe(settings: Mapping[str, str], place: Place) -> dict[str, str]:
    """What a run in this process would compute with, once its data is here."""
    place.enter()
    from pipeline.ablation.loading import load_data
    from pipeline.store import liveness, waiting
    from pipeline.training.device import choose_device, choose_precision

    config = Config(**settings)  # type: ignore[arg-type]
    waiting.wait_from_the_start()
    liveness.mark_dead_runs()  # of this machine
    precision = choose_precision(config.precision, choose_device(config.device))
    return {**versions(config, load_data(config)), "precision": precision}


def versions(config: Config, data: "ImageDataset") -> dict[str, str]:
    """What must be the same everywhere."""
    from pipeline.runs import provenance

    packages = provenance.versions()
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": packages["torch"],
        "numpy": packages["numpy"],
        "code": provenance.code_digest(config.ablation),
        data.name: data.digest,
    }
