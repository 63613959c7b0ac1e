"""What a run has logged of a metric: the value that counts, and a curve for a figure.

MLflow's own `run.data.metrics` has the value of the highest step, of equal steps that of the latest
time, and at equal time the larger one: a program that logs without steps, twice in a millisecond,
would keep whichever number is larger.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Metric

from pipeline.outcome import Outcome
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import metric_histories

MAX_POINTS = 200  # of a curve
RUNS_AT_ONCE = 50
REQUESTS_AT_ONCE = 8  # to a server
INT64 = 8  # bytes


class Measured(NamedTuple):
    """What a run has measured of an outcome.

    value: NaN or infinite if the run has diverged; None if there is none, for the reason `problem`.
    curve: steps and values in order, at most MAX_POINTS of them. length: the number of all steps.
    note: what is odd about it, though the value is known.
    """

    value: float | None
    problem: str = ""
    curve: Sequence[tuple[int, float]] = ()
    length: int = 0
    note: str = ""


class _Point(NamedTuple):
    """A value as it was logged. time: in milliseconds since 1970."""

    step: int
    time: int
    value: float


def read_histories(run_ids: Sequence[str], outcome: Outcome) -> dict[str, Measured]:
    """What each run has measured of an outcome. Of long histories, only what is shown is kept."""
    read_one = in_store(mlflow.MlflowClient().get_metric_history)
    found: dict[str, Measured] = {}

    def read(run_id: str) -> Measured:
        return measured(read_one(run_id, outcome.metric), outcome)

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for start in range(0, len(run_ids), RUNS_AT_ONCE):
            some = run_ids[start : start + RUNS_AT_ONCE]
            known = in_store(metric_histories)(some, outcome.metric)
            if known is None:  # a server, or long histories
                found |= zip(some, pool.map(read, some), strict=True)
            else:
                found |= {one: measured(known.get(one, ()), outcome) for one in some}
    return found


def measured(history: Iterable[Metric], outcome: Outcome) -> Measured:
    """Choose the value of a history that counts, and thin its curve out."""
    points = []
    for one in history:
        step = _step(one.step)
        if step is None:
            return Measured(
                None,
                f"logged {outcome.metric} with a step {one.step!r}, which is no whole number; log"
                " step=int(step)",
            )
        points.append(_Point(step, one.timestamp, as_number(one.value)))
    if not points:
        return Measured(None, f"has no {outcome.metric}")
    points.sort(key=lambda one: one[:2])
    newest: dict[int, float] = {one.step: one.value for one in points}
    steps = list(newest)
    wanted = outcome.value if isinstance(outcome.value, int) else steps[-1]
    if wanted not in newest:
        return Measured(None, f"has no {outcome.metric} of step {wanted}", length=len(newest))
    value = newest[wanted]
    if outcome.value in ("max", "min") and math.isfinite(value):
        finite = [one.value for one in points if math.isfinite(one.value)]
        value = max(finite) if outcome.value == "max" else min(finite)
    elif problem := _ambiguity(points, wanted, outcome.metric):
        return Measured(None, problem, length=len(newest))
    notes = _notes(points, wanted, outcome)
    return Measured(value, "", _thinned(list(newest.items())), len(newest), "; ".join(notes))


def as_number(value: float) -> float:
    """A logged value; MLflow stores infinity as the largest float."""
    largest = abs(value) >= sys.float_info.max
    return math.copysign(math.inf, value) if largest else float(value)


def _step(step: Any) -> int | None:
    """A step as a number; None if it is none.

    SQLite keeps a number of NumPy's as its bytes. Eight are one of `np.int64`; four may be those of
    a fraction.
    """
    if isinstance(step, bytes) and len(step) == INT64:
        return int.from_bytes(step, sys.byteorder, signed=True)
    return int(step) if isinstance(step, int | float) and step == int(step) else None


def _ambiguity(points: Sequence[_Point], step: int, metric: str) -> str:
    """Why the value of a step is not known: several were logged in the same millisecond."""
    here = [one for one in points if one.step == step]
    last = {one.value for one in here if one.time == here[-1].time}
    if len(last) < 2:
        return ""
    shown = " and ".join(f"{value:g}" for value in sorted(last))
    return (
        f"logged {metric} {shown} in the same millisecond and step {step}, so that nobody knows"
        " which was last; log it with step="
    )


def _notes(points: Sequence[_Point], counted: int, outcome: Outcome) -> list[str]:
    """What is odd about a history."""
    times = defaultdict[int, int](int)
    for one in points:
        times[one.step] += 1
    latest = max(points, key=lambda one: one.time)
    notes = []
    if outcome.value == "last" and latest.step < counted and latest.time > points[-1].time:
        notes.append(
            f"its step {latest.step} was logged after its step {counted}, whose {outcome.metric}"
            " counts"
        )
    if outcome.value in ("max", "min"):
        return notes
    if times[counted] > 1:
        notes.append(
            f"logged {outcome.metric} {times[counted]} times at step {counted}; the latest counts"
        )
    return notes


def _thinned(curve: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most MAX_POINTS of a curve, with both ends."""
    if len(curve) <= MAX_POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(place * last / (MAX_POINTS - 1))] for place in range(MAX_POINTS)]
