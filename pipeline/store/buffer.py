"""Buffer a run's metrics and state, so that training never waits for the store."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import mlflow
from mlflow.entities import Metric, Run

from pipeline import upstream
from pipeline.store.address import shown_uri
from pipeline.store.artifacts import delete_artifact, read_artifact, replace_artifact
from pipeline.store.liveness import PROCESS, this_process
from pipeline.store.outages.advice import as_store_error
from pipeline.store.outages.failures import STORE_ERRORS, is_contended, is_outage
from pipeline.store.outages.waiting import RETRY_SECONDS, in_store, uncut

log = logging.getLogger(__name__)

METRICS_AT_ONCE = 1000  # MLflow's limit
STATE_FILE = "training_state.pt"


class Buffer:
    """What the store has not yet received of a run.

    Each metric keeps the time at which it was measured. MLflow uses it to recognise a metric that
    it already has, so resending one that got no answer does not duplicate it.
    known: names and steps that an earlier process logged; they are not logged again.
    """

    def __init__(self, run_id: str, known: Collection[tuple[str, int]]) -> None:
        self.run_id = run_id
        self.metrics: list[Metric] = []
        self.known = known
        self.state = b""
        self.store_answers = True
        self.next_try = 0.0

    def attempt(self, action: Callable[[], None]) -> bool:
        """Run an action that can wait; during an outage skip it, or try it rarely.

        Returns whether it succeeded. Raises StoreError for a lasting failure.
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
            # A request to a hung server takes half a minute to fail; training continues for three
            # times as long as the attempt took.
            now = time.monotonic()
            self.next_try = now + max(RETRY_SECONDS, 3 * (now - started))
            if self.store_answers and not is_contended(error):
                self.store_answers = False
                _report("does not answer; training continues, and its metrics wait")
            return False
        if not self.store_answers:
            self.store_answers = True
            _report("answers again")
        sample_again()
        return True


_buffers: dict[str, Buffer] = {}  # of the open tracked runs, by run id


def open_for(run: Run) -> None:
    """Buffer the metrics of a run while the store does not answer."""
    _buffers[run.info.run_id] = Buffer(run.info.run_id, _logged_steps(run))


def close(run: Run) -> None:
    """Discard what the store has not received."""
    _buffers.pop(run.info.run_id, None)


def log_metrics(metrics: Mapping[str, float], step: int = 0) -> None:
    """Log to the active run; do nothing if there is none (MLflow itself would start one).

    In a tracked run they are sent with the next state, because a request costs more than its
    content. In an outage they are buffered; outside a tracked run the caller waits.
    """
    run = mlflow.active_run()
    if run is None:
        return
    buffer = _buffers.get(run.info.run_id)
    if buffer is None:
        in_store(mlflow.log_metrics)(dict(metrics), step=step)
        return
    now = time.time_ns() // 1_000_000
    buffer.metrics += [
        Metric(name, value, now, step)
        for name, value in metrics.items()
        if (name, step) not in buffer.known
    ]


def save_state(content: bytes) -> bool:
    """Store the active run's training state, replacing the last one, and its metrics.

    It appears whole or not at all. Returns whether the store has it; if not, it is buffered.
    """
    buffer = _active_buffer()
    buffer.state = content
    return buffer.attempt(send_metrics) and buffer.attempt(_send_state)


def load_state() -> bytes | None:
    """Return the active run's newest state stored by `save_state`; None if there is none."""
    run = mlflow.active_run()
    assert run
    return read_artifact(run.info.artifact_uri, STATE_FILE)


def drop_state() -> None:
    """Delete the active run's state."""
    delete_artifact(STATE_FILE)


@in_store
def flush() -> None:
    """Wait until the store has all metrics and the last state of the active run."""
    send_metrics()
    _send_state()


def send_metrics() -> None:
    """Send the active run's metrics that the store does not have yet."""
    run = mlflow.active_run()
    assert run
    buffer = _buffers.get(run.info.run_id)  # there is none if the run failed as it began
    while buffer and buffer.metrics:
        some = buffer.metrics[:METRICS_AT_ONCE]
        mlflow.MlflowClient().log_batch(buffer.run_id, metrics=some)
        del buffer.metrics[: len(some)]


def is_taken_over() -> bool:
    """Whether another process continues the active run; False while the store does not answer."""
    buffer, mine = _active_buffer(), this_process()[PROCESS]
    found: list[Run] = []
    buffer.attempt(lambda: found.append(mlflow.get_run(buffer.run_id)))
    return any(run.data.tags.get(PROCESS, mine) != mine for run in found)


def sample_again() -> None:
    """Have MLflow sample CPU and memory again, if an outage has stopped it.

    This covers a study and its runs alike: the samples are also their sign of life.
    """
    for run_id in upstream.unsampled_runs():
        with uncut(), suppress(*STORE_ERRORS):  # the store is down again; try another time
            upstream.restart_system_metrics(run_id)


def _active_buffer() -> Buffer:
    run = mlflow.active_run()
    assert run
    return _buffers[run.info.run_id]


def _send_state() -> None:
    buffer = _active_buffer()
    if buffer.state:
        replace_artifact(buffer.state, STATE_FILE)
        buffer.state = b""


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
