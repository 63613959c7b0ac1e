"""What a program has logged, read from its run."""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Run

from pipeline.errors import InputError
from pipeline.outcome import Outcome
from pipeline.store.outages.waiting import in_store

ADOPTED = "pipeline.adopted"  # the run that the outcome was logged to instead
# With early stopping, XGBoost and LightGBM log the best value again, after the last round.
EARLY_STOPPING = ("best_iteration", "stopped_iteration")


class Point(NamedTuple):
    """A value of a metric. timestamp: in milliseconds since 1970."""

    step: int
    timestamp: int
    value: float


@in_store
def outcome_values(run: Run, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The value of each outcome that a run, or the one that it has adopted, has logged.

    NaN and infinity say that the run has diverged. Raises InputError for steps that are no whole
    numbers.
    """
    client = mlflow.MlflowClient()
    read = [run]
    if adopted := run.data.tags.get(ADOPTED):
        read.append(client.get_run(adopted))
    found = {}
    for outcome in outcomes:
        for one in read:
            if outcome.metric in one.data.metrics:
                history: list[Any] = client.get_metric_history(one.info.run_id, outcome.metric)
                points = _points(outcome.metric, history)
                if (value := value_of(outcome, points)) is not None:
                    found[outcome.metric] = value
                    break
    return found


def value_of(outcome: Outcome, points: Sequence[Point]) -> float | None:
    """Which of a metric's values counts; None if there is none, as of that step.

    Of several at one step the one that was logged last, and of several in one millisecond the
    largest, which MLflow shows, or NaN.
    """
    last_of: dict[int, Point] = {}
    for point in sorted(points, key=lambda p: (p.timestamp, math.isnan(p.value), p.value)):
        last_of[point.step] = point
    if not last_of:
        return None
    values = [_as_logged(point.value) for point in last_of.values()]
    numbers = [value for value in values if not math.isnan(value)]
    if outcome.value in ("max", "min"):
        best = max if outcome.value == "max" else min
        return best(numbers, default=math.nan)
    step = outcome.value if isinstance(outcome.value, int) else max(last_of)
    return _as_logged(last_of[step].value) if step in last_of else None


def _points(metric: str, history: Sequence[Any]) -> list[Point]:
    for one in history:
        if not isinstance(one.step, int):  # SQLite stores a NumPy number as bytes
            raise InputError(
                f"the steps of {metric!r} are no whole numbers, as of NumPy; log step=int(step)"
            )
    return [Point(one.step, one.timestamp, one.value) for one in history]


def _as_logged(value: float) -> float:
    """A value as the program has logged it: databases hold the largest float for infinity."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def logged_datasets(run: Run) -> dict[str, str]:
    """The digests of the data sets that a run has logged with MLflow, by name.

    MLflow's own digest sees neither booleans nor dates, nor the rows beyond its sample: different
    ones show different data, equal ones show little.
    """
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {one.dataset.name: one.dataset.digest for one in inputs}


def logged_models(run: Run) -> tuple[str, ...]:
    """The ids of the models that a run has logged, the newest first."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return tuple(one.model_id for one in sorted(outputs, key=lambda one: -one.step))


def early_stopping(run: Run) -> tuple[str, ...]:
    """The metrics which show that a run has stopped early."""
    return tuple(name for name in EARLY_STOPPING if name in run.data.metrics)
