"""Send what a run logs from a thread, so that training never waits for the store."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, RLock, Thread
from typing import TypeVar

import mlflow
from mlflow.entities import Metric, Run, RunTag
from platformdirs import user_state_path

from pipeline.config import APPLICATION
from pipeline.errors import MachineError, StoreError
from pipeline.store.address import is_server, shown_uri
from pipeline.store.artifacts import (
    at_once,
    delete_artifact,
    read_artifact,
    replace_artifact,
    upload_folder,
    write_atomically,
)
from pipeline.store.outages.advice import as_store_error
from pipeline.store.outages.failures import STORE_ERRORS, is_contended, is_outage
from pipeline.store.outages.waiting import RETRY_SECONDS, in_store
from pipeline.store.tags import resume_command
from pipeline.upstream import SystemSamples

log = logging.getLogger(__name__)
T = TypeVar("T")

METRICS_AT_ONCE, TAGS_AT_ONCE = 1000, 100  # MLflow's limits
STATE_FILE = "training_state.pt"

# Writing takes at most 1/31 of the time, about 3 %, and is never put off for longer than this.
SHARE, MOST_SECONDS = 30, 300.0
# A server is shared: what one run writes less often leaves it free for others.
METRICS_SECONDS, STATE_SECONDS = 10.0, 60.0
# What a run says of what it would train again after kill -9, or if its machine died.
REPEATED_TAG = "pipeline.repeated_if_killed"
SHOWN_SECONDS = 1, 2, 5, 10, 30, 60, 120, 300


class Pace:
    """When to write again: when `SHARE` times as long as writing took has passed.

    least: seconds before the first write, and between two, in any case.
    """

    def __init__(self, least: float = 0.0) -> None:
        self.least = least
        self.due = time.monotonic() + least

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self.due

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measure how long writing takes."""
        started = time.monotonic()
        yield
        now = time.monotonic()
        self.due = now + min(max(SHARE * (now - started), self.least), MOST_SECONDS)


class Uploads:
    """What the store has not yet received of a run, and the thread that sends it.

    Each metric keeps the time at which it was measured. MLflow uses it to recognise a metric that
    it already has, so resending one that got no answer does not duplicate it.

    is_new: whether nothing was logged before. known: names and steps that an earlier process
    logged; they are not logged again.
    failure: why nothing can be sent, for the thread that logs. The lists only grow at their end,
    except for the thread that holds `sending`.
    """

    def __init__(self, run: Run, is_new: bool) -> None:
        self.run_id, self.address, self.is_new = run.info.run_id, run.info.artifact_uri, is_new
        self.known = set() if is_new else _logged_steps(run)
        self.metrics: list[Metric] = []
        self.tags: list[RunTag] = []
        self.files: list[tuple[str, bytes]] = []
        self.state = self.sent_state = self.kept_state = b""
        self.is_kept, self.shown = False, 0
        self.pace = Pace(METRICS_SECONDS if is_server() else 0.0)
        self.state_pace = Pace(STATE_SECONDS if is_server() else 0.0)
        self.samples = SystemSamples(run)
        self.sampling = Pace(self.samples.sampling_interval)
        self.store_answers, self.next_try = True, 0.0
        self.failure: StoreError | MachineError | None = None
        self.sending, self.changed, self.closed = RLock(), Event(), False
        self.thread = Thread(target=self._work, name="Uploads", daemon=True)
        self.thread.start()

    def send(self, state_too: bool) -> None:
        """Send everything. Raises what the store raises; what it does not have is kept.

        state_too: also a state that is not the last one.
        """
        with self.sending:
            self._send(everything=True, state_too=state_too)

    def close(self) -> None:
        """Stop sending. A state that the store does not have is kept in a file."""
        self.closed = True
        self.changed.set()
        self.thread.join()
        self._keep_state()

    def _work(self) -> None:
        """Send what is due, until the run ends or nothing more can be sent."""
        while not self.closed and not self.failure:
            self.changed.wait(max(0.0, self._next_time() - time.monotonic()))
            self.changed.clear()
            with self.sending:
                if self.sampling.is_due:
                    with self.sampling.writing():
                        self.samples.take()
                try:
                    if not self._try():
                        self._keep_state()  # this process may end before the store is back
                except (StoreError, MachineError) as error:
                    self.failure = error

    def _next_time(self) -> float:
        """When there is something to do."""
        times = [self.pace.due] if self.metrics or self.tags or self.samples.are_enough else []
        if self.files:
            times.append(0.0)
        if self.state is not self.sent_state:
            times.append(0.0 if self.is_kept else self.state_pace.due)
        return min([self.sampling.due, *(max(one, self.next_try) for one in times)])

    def _try(self) -> bool:
        """Send what is due. Returns whether the store answers; in an outage it is tried rarely.

        Raises StoreError for a lasting failure.
        """
        started = time.monotonic()
        if self.closed:
            return True
        if started < self.next_try:
            return False
        try:
            self._send()
        except STORE_ERRORS as error:
            if not is_outage(error):
                raise as_store_error(error) from None
            # A request to a hung server takes half a minute to fail; the next one is tried after
            # three times as long as this one took.
            now = time.monotonic()
            wait = max(RETRY_SECONDS, 3 * (now - started))
            self.next_try = now + wait * random.uniform(0.5, 1.5)
            if self.store_answers and not is_contended(error):
                self.store_answers = False
                _report("does not answer; training continues, and its metrics wait")
            return False
        return True

    def _send(self, everything: bool = False, state_too: bool = False) -> None:
        """Send what is due, or everything."""
        actions: list[Callable[[], None]] = []
        if self.pace.is_due:
            self.metrics += self.samples.mean()
        if (self.metrics or self.tags) and (everything or self.pace.is_due):
            actions.append(self._send_batch)
        if self.files:
            actions.append(self._send_files)
        if self.state is not self.sent_state and (
            state_too or self.is_kept or self.state_pace.is_due
        ):
            actions.append(self._send_state)
        at_once(actions)
        if actions and not self.store_answers:
            self.store_answers = True
            _report("answers again")

    def _send_batch(self) -> None:
        client = mlflow.MlflowClient()
        while self.metrics or self.tags:
            with (
                self.pace.writing(),
                _first(self.metrics, METRICS_AT_ONCE) as metrics,
                _first(self.tags, TAGS_AT_ONCE) as tags,
            ):
                client.log_batch(self.run_id, metrics=metrics, tags=tags)

    def _send_files(self) -> None:
        with _first(self.files) as files, TemporaryDirectory() as folder:
            for name, content in files:
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            upload_folder(self.address, Path(folder))

    def _send_state(self) -> None:
        state = self.state
        with self.state_pace.writing():
            replace_artifact(self.address, STATE_FILE, state)
        self.sent_state = state
        seconds = self.state_pace.due - time.monotonic()
        shown = next(limit for limit in SHOWN_SECONDS if seconds <= limit)
        if shown != self.shown:
            self.shown = shown
            self.tags.append(RunTag(REPEATED_TAG, f"about {shown} s and an epoch"))

    def _keep_state(self) -> None:
        if self.state not in (self.sent_state, self.kept_state):
            state = self.state
            keep_state(self.run_id, state)
            self.kept_state = state


_uploads: dict[str, Uploads] = {}  # of the open tracked runs, by run id


def open_for(run: Run, is_new: bool) -> None:
    """Send what a run logs from a thread."""
    _uploads[run.info.run_id] = Uploads(run, is_new)


def close(run: Run) -> None:
    """Stop that."""
    uploads = _uploads.pop(run.info.run_id, None)
    if uploads:  # there is none if the run failed as it began
        uploads.close()


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Log to the active run; do nothing if there is none (MLflow itself would start one).

    Outside a tracked run the caller waits.
    """
    run = mlflow.active_run()
    if run is None:
        return
    uploads = _uploads.get(run.info.run_id)
    if uploads is None:
        in_store(mlflow.log_metrics)(dict(metrics), step=step)
        return
    now = time.time_ns() // 1_000_000
    uploads.metrics += [
        Metric(name, value, now, step)
        for name, value in metrics.items()
        if (name, step) not in uploads.known
    ]
    uploads.changed.set()


def set_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the active run."""
    uploads = _active()
    uploads.tags += [RunTag(name, value) for name, value in tags.items()]
    _notify(uploads)


def log_files(files: Mapping[str, bytes]) -> None:
    """Store files of the active run, by path."""
    uploads = _active()
    uploads.files += files.items()
    _notify(uploads)


def save_state(content: bytes, is_kept: bool) -> None:
    """Store the active run's training state, replacing the last one, as soon as that pays.

    It appears whole or not at all. One that is to be kept, as the last one, is stored at once.
    """
    uploads = _active()
    uploads.state, uploads.is_kept = content, is_kept
    _notify(uploads)


def load_state() -> bytes | None:
    """Return the newest state that the store has of the active run; None if there is none."""
    return read_artifact(_active().address, STATE_FILE)


def drop_state() -> None:
    """Delete the active run's state."""
    uploads = _active()
    with uploads.sending:
        if uploads.sent_state or not uploads.is_new:
            delete_artifact(uploads.address, STATE_FILE)
        uploads.sent_state = uploads.state


@in_store
def flush() -> None:
    """Wait until the store has all that the active run has logged, and the last state."""
    _active().send(state_too=False)


def send_last(run: Run) -> None:
    """Try once to send what is left of a run that ends early. Raises what the store raises."""
    uploads = _uploads.get(run.info.run_id)
    if uploads:  # there is none if the run failed as it began
        uploads.send(state_too=True)


def kept_state(run_id: str) -> Path:
    """The file of a state that the store could not be given; the same from every folder."""
    return user_state_path(APPLICATION) / f"{run_id}.pt"


def keep_state(run_id: str, content: bytes) -> Path:
    """Write a state to `kept_state`, atomically. Raises MachineError if that can't be done."""
    file = kept_state(run_id)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        raise MachineError(
            f"the store does not answer, and {file} can't be written ({error}); once both work,"
            f" continue by: {resume_command(run_id)}"
        ) from None
    return file


def _active() -> Uploads:
    run = mlflow.active_run()
    assert run
    return _uploads[run.info.run_id]


def _notify(uploads: Uploads) -> None:
    """Have it look at what is new. Raises StoreError or MachineError if nothing can be sent."""
    uploads.changed.set()
    if uploads.failure:
        raise uploads.failure


@contextmanager
def _first(items: list[T], most: int | None = None) -> Iterator[list[T]]:
    """The first items of a list, which are deleted from it if nothing is raised."""
    some = items[:most]
    yield some
    del items[: len(some)]


@in_store
def _logged_steps(run: Run) -> set[tuple[str, int]]:
    client = mlflow.MlflowClient()
    return {
        (name, metric.step)
        for name in run.data.metrics
        if not name.startswith("system/")
        for metric in client.get_metric_history(run.info.run_id, name)
    }


def _report(what: str) -> None:
    log.warning(f"the tracking store {shown_uri()} {what}")
