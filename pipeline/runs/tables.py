"""The rows of a table that somebody else has made, as what a comparison can use."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pandas as pd

from pipeline.errors import InputError, shortlist, shown
from pipeline.runs.histories import Measured, as_number
from pipeline.runs.others import Candidate, Question, with_keys, with_problem

# Columns of `mlflow.search_runs` that are no settings.
NO_SETTINGS = ("run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time")


def candidates_of(table: pd.DataFrame, question: Question) -> list[Candidate]:
    """Read each row as a run. Of `mlflow.search_runs`, those that have not ended well are left out.

    Raises InputError for columns that are not there, or that hold no numbers.
    """
    metrics = [one.metric for one in question.outcomes]
    columns = [str(name) for name in table.columns]
    if len(set(columns)) < len(columns):
        raise InputError("the table has two columns of the same name")
    for name in (*metrics, *question.by, *question.pair):
        if name not in columns:
            guess = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            raise InputError(
                f"the table has no column {name!r}; it has {shortlist(columns, 12)}{hint}"
            )
    if table.empty:
        raise InputError("the table has no rows")
    rows = table.set_axis(columns, axis="columns").to_dict("records")
    return [_candidate(place, row, question) for place, row in enumerate(rows)]


def _candidate(place: int, row: Mapping[Any, Any], question: Question) -> Candidate:
    is_run = {"run_id", "status"} <= row.keys()
    run_id = str(row["run_id"]) if is_run else ""
    name = run_id[:8] or f"row {place}"
    status = str(row["status"]) if is_run else "FINISHED"
    measured = {}
    for one in question.outcomes:
        value = row[one.metric]
        measured[one.metric] = (
            Measured(None, f"has no {one.metric}")
            if _is_missing(value)
            else Measured(_number(name, one.metric, value))
        )
    texts = {str(key): str(value) for key, value in row.items() if not _is_missing(value)}
    candidate = Candidate(
        name=name,
        run_id=run_id,
        started=place if not is_run else -place,  # the newest runs come first in MLflow's
        problem="" if status == "FINISHED" else f"did not end well ({status})",
        is_lost=status != "FINISHED",
        others={key: text for key, text in texts.items() if _is_setting(key, row[key], question)},
        measured=measured,
    )
    candidate = with_keys(candidate, texts, question.by, question.pair)
    return candidate if candidate.problem else with_problem(candidate, question.outcomes[0].metric)


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _number(name: str, metric: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{metric} of {name} is {shown(value)}; it must be a number") from None
    return as_number(number)


def _is_setting(name: str, value: Any, question: Question) -> bool:
    """Whether a column may be a setting: MLflow's parameters, else whatever is no fraction."""
    known = {*question.by, *question.pair, *(one.metric for one in question.outcomes), *NO_SETTINGS}
    if name in known or name.startswith(("metrics.", "tags.")):
        return False
    is_fraction = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
    return name.startswith("params.") or not is_fraction
