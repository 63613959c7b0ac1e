"""What a run measures, on its way to the store: training never waits for it."""

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities import Metric, Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.fluent import run_id_to_system_metrics_monitor

from pipeline.store import (
    RETRY_SECONDS,
    STORE_ERRORS,
    as_store_error,
    in_store,
    is_contended,
    is_outage,
    local_path,
    shown_uri,
    uncut,
)

METRICS_AT_ONCE = 1000  # MLflow takes no more
STATE_FILE = "training_state.pt"


class Outbox:
    """The metrics of a run that the store has not got yet.

    Each keeps the time at which it was measured. By that MLflow knows a metric which it has got
    already, so that sending it again, when no answer came, does not double it.
    known: names and steps that an earlier process has logged; they are not logged again.
    """

    def __init__(self, known: Collection[tuple[str, int]] = ()) -> None:
        self.metrics: list[Metric] = []
        self.known = known
        self.state = b""
        self.is_open = True
        self.next_try = 0.0

    def attempt(self, action: Callable[[], None]) -> bool:
        """Do what the store need not do now; during an outage it is left, or tried rarely.

        Returns whether it is done. Raises StoreError for what can't pass.
        """
        started = time.monotonic()
        if started < self.next_try:
            return False
        try:
            with uncut():
                action()
        except STORE_ERRORS as error:
            if not is_outage(error):
                raise as_store_error(error) from None
            # A server that hangs answers after half a minute that it does not; training goes on for
            # three times as long as an attempt took.
            now = time.monotonic()
            self.next_try = now + max(RETRY_SECONDS, 3 * (now - started))
            if self.is_open and not is_contended(error):
                self.is_open = False
                _tell("does not answer; training goes on, and what it measures waits")
            return False
        if not self.is_open:
            self.is_open = True
            _tell("answers again")
        sample_again()
        return True


_outboxes: dict[str, Outbox] = {}  # of the tracked runs that are open, by run id


def open_for(run: Run) -> None:
    """Let the metrics of a run wait while the store does not answer."""
    _outboxes[run.info.run_id] = Outbox(_logged_steps(run))


def close(run: Run) -> None:
    """Forget what is not delivered."""
    _outboxes.pop(run.info.run_id, None)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Log to the active run; do nothing if there is none (MLflow itself would start one).

    In a tracked run they are sent with the state of the epoch: each request takes longer than what
    it holds. They wait while the store does not answer; outside such a run the caller does.
    """
    run = mlflow.active_run()
    if run is None:
        return
    outbox = _outboxes.get(run.info.run_id)
    if outbox is None:
        in_store(mlflow.log_metrics)(dict(metrics), step=step)
        return
    now = time.time_ns() // 1_000_000
    outbox.metrics += [
        Metric(name, value, now, step)
        for name, value in metrics.items()
        if (name, step) not in outbox.known
    ]


@in_store
def deliver() -> None:
    """Wait until the store has all metrics of the active run, and its last state."""
    _send_metrics()
    _send_state()


def _send_metrics() -> None:
    run = mlflow.active_run()
    assert run
    waiting = _outboxes[run.info.run_id].metrics
    while waiting:
        some = waiting[:METRICS_AT_ONCE]
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics=some)
        del waiting[: len(some)]


@in_store
def _logged_steps(run: Run) -> set[tuple[str, int]]:
    client = mlflow.MlflowClient()
    return {
        (name, metric.step)
        for name in run.data.metrics
        if not name.startswith("system/")
        for metric in client.get_metric_history(run.info.run_id, name)
    }


def save_state(content: bytes) -> bool:
    """Store the state of a training with the active run, in place of the one before; and metrics.

    It appears whole or not at all. Returns whether the store has it; if not, it waits.
    """
    run = mlflow.active_run()
    assert run
    outbox = _outboxes[run.info.run_id]
    outbox.state = content
    return outbox.attempt(_send_metrics) and outbox.attempt(_send_state)


def _send_state() -> None:
    run = mlflow.active_run()
    assert run
    outbox = _outboxes[run.info.run_id]
    if outbox.state:
        _replace_artifact(outbox.state, STATE_FILE)
        outbox.state = b""


@in_store
def load_state(run_id: str) -> bytes | None:
    """Fetch what `save_state` has stored last; None if nothing."""
    folder = local_path(mlflow.get_run(run_id).info.artifact_uri)
    if folder:
        path = folder / STATE_FILE
        return path.read_bytes() if path.exists() else None
    if STATE_FILE not in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}:
        return None
    with TemporaryDirectory() as temporary:
        mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=STATE_FILE, dst_path=temporary
        )
        return Path(temporary, STATE_FILE).read_bytes()


def _replace_artifact(content: bytes, name: str) -> None:
    folder = local_path(str(mlflow.get_artifact_uri()))
    if folder:
        write_whole(folder / name, content)
        return
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(content)
        mlflow.log_artifact(str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, in place of the one before, that appears whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the name without the content
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def sample_again() -> None:
    """Sample CPU and memory again: MLflow gives it up at the first request that fails.

    Of a study and its child alike: the samples are also their sign of life.
    """
    for run_id, monitor in list(run_id_to_system_metrics_monitor.items()):
        if not monitor._process.is_alive():
            with uncut(), suppress(*STORE_ERRORS):  # which is away again; another time
                new = SystemMetricsMonitor(run_id, resume_logging=True)  # type: ignore[no-untyped-call]
                new.start()  # type: ignore[no-untyped-call]
                run_id_to_system_metrics_monitor[run_id] = new  # which mlflow.end_run ends


def _tell(what: str) -> None:
    print(f"the tracking store {shown_uri()} {what}", file=sys.stderr)
