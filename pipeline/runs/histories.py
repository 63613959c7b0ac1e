"""What a run has logged of a metric: the value that counts, and a curve for a figure.

MLflow's own `run.data.metrics` has the value of the highest step, of equal steps that of the latest
time, and at equal time the larger one: a program that logs without steps, twice in a millisecond,
would keep whichever number is larger.
"""

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities import Metric

from pipeline.errors import plural
from pipeline.outcome import MAX_STEP, Outcome, mean_of
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import LoggedPoint, is_database, logged_points

MAX_POINTS = 200  # of a curve
RUNS_AT_ONCE = 500  # in one query of a database
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


def read_histories(run_ids: Sequence[str], outcome: Outcome) -> dict[str, Measured]:
    """What each run has measured of an outcome. Of long histories, only what is shown is kept."""

    @in_store
    def read(some: Sequence[str]) -> dict[str, Measured]:
        points = groupby(logged_points(some, outcome.metric), key=lambda one: one.run_id)
        return {run_id: measured(history, outcome) for run_id, history in points}

    size = RUNS_AT_ONCE if is_database(mlflow.get_tracking_uri()) else 1
    parts = [run_ids[n : n + size] for n in range(0, len(run_ids), size)]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        found = {n: one for known in pool.map(read, parts) for n, one in known.items()}
    return {run_id: found.get(run_id) or measured((), outcome) for run_id in run_ids}


def measured(history: Iterable[Metric | LoggedPoint], outcome: Outcome) -> Measured:
    """Choose the value of a history that counts, and thin its curve out."""
    steps, times, values = array("q"), array("q"), array("d")
    for one in history:
        step = _step(one.step)
        if step is None:
            what = "of NumPy's, which SQLite keeps as bytes"
            if not isinstance(one.step, bytes):
                what = f"{one.step!r}, which is no whole number"
            problem = f"logged {outcome.metric} with a step {what}; log step=int(step)"
            return Measured(None, problem)
        steps.append(step)
        times.append(one.timestamp)
        values.append(as_number(one.value))
    if not steps:
        return Measured(None, f"has no {outcome.metric}")
    return _measured(np.array(steps), np.array(times), np.array(values), outcome)


def _measured(
    steps: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    outcome: Outcome,
) -> Measured:
    order = np.lexsort((values, times, steps))
    steps, times, values = steps[order], times[order], values[order]
    newest = np.flatnonzero(np.append(steps[1:] != steps[:-1], True))  # of each step
    length = len(newest)
    chosen = newest[-(mean_of(outcome.value) or 1) :]
    if isinstance(outcome.value, int):
        chosen = newest[steps[newest] == outcome.value]
        if not len(chosen):
            problem = f"has no {outcome.metric} of step {outcome.value}"
            return Measured(None, problem, length=length)
    elif length < (count := mean_of(outcome.value)):
        has = f"has {outcome.metric} of only {plural(length, 'step')}"
        return Measured(None, f"{has}, and {outcome.value} takes {count}", length=length)
    counted, value = steps[chosen].tolist(), float(values[chosen].mean())
    notes = []
    if outcome.value in ("max", "min") and math.isfinite(value):
        finite = values[np.isfinite(values)]
        value = float(finite.max() if outcome.value == "max" else finite.min())
    else:
        first = np.searchsorted(steps, counted)  # the points of a step are next to each other
        for step, begin, end in zip(counted, first, chosen + 1, strict=True):
            last = np.unique(values[begin:end][times[begin:end] == times[end - 1]])
            if len(last) > 1:
                shown = " and ".join(f"{value:g}" for value in last)
                return Measured(
                    None,
                    f"logged {outcome.metric} {shown} in the same millisecond and step {step}, so"
                    " that nobody knows which was last; log it with step=",
                    length=length,
                )
        latest = int(times.argmax())
        if not isinstance(outcome.value, int) and times[latest] > times[-1]:
            notes.append(
                f"its step {steps[latest]} was logged after its step {counted[-1]}, whose"
                f" {outcome.metric} counts"
            )
        if (often := chosen + 1 - first).max() > 1:  # one of them says it
            place = int(often.argmax())
            notes.append(
                f"logged {outcome.metric} {often[place]} times at step {counted[place]}; the latest"
                " counts"
            )
    if length > MAX_POINTS:  # with both ends
        newest = newest[np.linspace(0, length - 1, MAX_POINTS).round().astype(int)]
    curve = list(zip(steps[newest].tolist(), values[newest].tolist(), strict=True))
    return Measured(value, "", curve, length, "; ".join(notes))


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
    is_whole = isinstance(step, int) or (isinstance(step, float) and step.is_integer())
    return int(step) if is_whole and abs(step) <= MAX_STEP else None
