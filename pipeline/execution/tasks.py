"""The training of a study's runs in another process, and what that process reports.

Slow imports are left to the functions, for processes that set up signal handlers first.
"""

import io
import os
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from pipeline.config import AUTO, Config
from pipeline.errors import InputError, MachineError, StoreError, percent

if TYPE_CHECKING:
    from pipeline.execution.parallelism import Jobs
    from pipeline.runs.record import ProgramRecord, RunRecord, StudyRecord
    from pipeline.training.history import History
    from pipeline.training.spec import RunSpec


# Seconds without news from its runs after which a study checks its own sign of life.
LOOK_SECONDS = 60


class Progress(NamedTuple):
    """A run's progress: complete epochs, what it has reached, and the last epoch's seconds."""

    epochs: int = 0
    reached: str = ""
    epoch_seconds: float = 0.0


# What is known of a run that has ended well: a `RunRecord` or a `ProgramRecord`. Studies don't know
# which.
Made: TypeAlias = Any
# What is reported about a cell: its progress, a line it prints, or how it ended.
Event: TypeAlias = "Progress | str | Made | Exception"
Events: TypeAlias = Generator[tuple[Config, Event]]


class Task(Protocol):
    """A run of a study, to be made in another process; it can be sent there.

    What makes it is the task's own affair: this project's training, or somebody's program.
    """

    @property
    def cell(self) -> Config:
        """Which run it is."""

    @staticmethod
    def set_up() -> None:
        """Import what making it needs."""

    def make(self, study: "StudyRecord", send: Callable[[Event], None]) -> "Made":
        """Make the run, as a child of the study's; `send` gets its progress."""

    def on(self, settings: Mapping[str, str]) -> "Task":
        """The same task, for the hardware that a cluster's engine has chosen."""

    def tries(self, study: "StudyRecord", others: Collection[str]) -> "list[Made]":
        """The runs that the study has begun for it, newest first; without those of these ids."""

    def complete(self, finished: "Made") -> "Made | None":
        """The record of a try that is FINISHED, with what came of it; None if it is half done."""

    def after(self, tries: "Sequence[Made]") -> "Task":
        """The same task, after tries that did not end."""


class NetworkTask(NamedTuple):
    """A network to train, and with how many threads.

    continued: an earlier study's run to continue. start: a finished run of fewer epochs to go on
    from. keep_state: also once the run is finished.
    """

    cell: Config
    threads: int
    continued: "RunRecord | None" = None
    start: "RunRecord | None" = None
    keep_state: bool = False

    @staticmethod
    def set_up() -> None:
        """Import what training needs."""
        from pipeline.runs import training_run  # noqa: F401

    def make(self, study: "StudyRecord", send: Callable[[Event], None]) -> "RunRecord":
        """Train the network.

        Raises InputError if the data or the code are not those that the study began with.
        """
        from pipeline.runs.training_run import Beginning, train_run

        def show(history: "History") -> None:
            last = history[-1]
            reached = f"validation accuracy {percent(last.val_accuracy)}"
            send(Progress(len(history), reached, last.epoch_seconds))

        # The same for all cells: they differ in none of the settings that decide about the data.
        shared = replace(self.cell, variant=AUTO, seed=0, lr=Config.lr)
        checked = _specify_checked(shared, study.data_digest, study.code_digest)
        spec = replace(checked, config=self.cell, threads=self.threads)
        how = Beginning(self.continued, self.start, study, "none", self.keep_state)
        return train_run(spec, how, show)

    def on(self, settings: Mapping[str, str]) -> "NetworkTask":
        """The same, on this device and in this precision."""
        return self._replace(cell=replace(self.cell, **settings))  # type: ignore[arg-type]

    def tries(self, study: "StudyRecord", others: Collection[str]) -> "list[RunRecord]":
        """The runs that the study has begun or continued for it."""
        from pipeline.runs.queries import STATUSES, find_runs
        from pipeline.store.tags import PARENT_TAG

        tags = {PARENT_TAG: study.run_id, "variant": self.cell.variant}
        found = find_runs(study.experiment_id, tags, *STATUSES)
        own = self.continued.run_id if self.continued else ""
        return [
            record
            for record in found.records
            if (record.run_id not in others or record.run_id == own)
            and (record.identity.seed, record.identity.lr) == (self.cell.seed, self.cell.lr)
        ]

    def complete(self, finished: "RunRecord") -> "RunRecord":
        """The record with its history."""
        from pipeline.runs.results import read_results

        return read_results(finished)

    def after(self, tries: "Sequence[RunRecord]") -> "NetworkTask":
        """The same, as what continues the newest of the tries."""
        return self._replace(continued=next(iter(tries), self.continued))


class ProgramTask(NamedTuple):
    """A program to run, in a process of its own with so many threads."""

    cell: Config
    threads: int

    @staticmethod
    def set_up() -> None:
        """Import what it needs to be started."""
        from pipeline.runs.programs import run  # noqa: F401

    def make(self, study: "StudyRecord", send: Callable[[Event], None]) -> "ProgramRecord":
        """Run the program.

        Raises InputError if its code is not as it was when the study began, and MachineError if
        it fails, or measures nothing.
        """
        from pipeline.ablation.loading import load_ablation
        from pipeline.runs.programs.study import run_cell

        ablation = load_ablation(self.cell.ablation)
        record, notes = run_cell(ablation, self.cell, study, self.threads)
        for note in notes:
            send(note)
        send(Progress(1, "", record.seconds))
        return record

    def on(self, settings: Mapping[str, str]) -> "ProgramTask":
        """The same: a program chooses for itself."""
        return self

    def tries(self, study: "StudyRecord", others: Collection[str]) -> "list[ProgramRecord]":
        """The runs that the study has begun for it."""
        from pipeline.runs.programs.study import tries_of

        return [one for one in tries_of(self.cell, study) if one.run_id not in others]

    def complete(self, finished: "ProgramRecord") -> "ProgramRecord | None":
        """The same record, unless the program itself, or a failure, has made it FINISHED.

        What it has measured is read when runs are compared.
        """
        return finished if finished.exit_status == "0" and not finished.failure else None

    def after(self, tries: "Sequence[ProgramRecord]") -> "ProgramTask":
        """The same: a program begins anew."""
        return self


class Engine(NamedTuple):
    """What trains the runs of a study.

    threads: of each run, in running order. train: trains some of them, which belong to a parent
    run, and yields what happens.
    """

    device: str
    precision: str
    jobs: "Jobs"
    threads: Sequence[int]
    train: Callable[[Sequence[Task], "StudyRecord"], Events]


def set_up(imports: Callable[[], None]) -> None:
    """Import what a process of a study needs, and leave the display of progress to the study."""
    os.environ["TQDM_DISABLE"] = "1"
    from tqdm import tqdm

    # Not a multiprocessing lock, which would leak if this process is killed.
    tqdm.set_lock(threading.RLock())
    from pipeline.news import show_news
    from pipeline.store.outages import waiting

    imports()
    show_news()
    waiting.wait_from_the_start()


def outcome(training: Callable[[], "Made"]) -> "Made | Exception":
    """Run a training; return its record, or an error that can be sent."""
    from pipeline.store.outages.failures import first_line

    try:
        return training()
    except StoreError as error:
        return error
    except Exception as error:  # it may hold objects that can't be sent
        return MachineError(first_line(error))


@contextmanager
def printing_to(send: Callable[[str], None]) -> Iterator[None]:
    """Send the lines that would appear on the terminal."""
    lines = _Lines(send)
    with redirect_stdout(lines), redirect_stderr(lines):
        yield
    if lines.begun:
        send(lines.begun)


@cache
def _specify_checked(config: Config, data_digest: str, code_digest: str) -> "RunSpec":
    from pipeline.ablation.loading import load_ablation
    from pipeline.runs import provenance
    from pipeline.runs.resolve import specify

    spec = specify(config, load_ablation(config.ablation))
    for what, now, begun in (
        (spec.data.name, spec.data.digest, data_digest),
        ("the code", provenance.code_digest(spec.ablation), code_digest),
    ):
        if now != begun:
            raise InputError(f"{what} has changed since the study began; start the study again")
    return spec


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
