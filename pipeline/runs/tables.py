"""The rows of a table that somebody else has made, as what a comparison can use."""

import math
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pandas as pd

from pipeline.errors import InputError, shortlist, shown
from pipeline.runs.histories import Measured, as_number
from pipeline.runs.others import (
    OF_MLFLOW,
    UNFINISHED,
    Candidate,
    Question,
    ending_problem,
    with_keys,
    with_problem,
)
from pipeline.runs.queries import STATUSES
from pipeline.store.liveness import PROCESS
from pipeline.store.lookup import SHORT_ID
from pipeline.store.tags import KIND, PARENT_TAG

# Columns of `mlflow.search_runs` that are no settings.
NO_SETTINGS = ("run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time")


def candidates_of(table: pd.DataFrame, question: Question) -> list[Candidate]:
    """Read each row as a run. Of `mlflow.search_runs`, those that have not ended well are left out.

    A table of another library needs its `to_pandas`. Raises InputError for columns that are not
    there, or that hold no numbers.
    """
    if not isinstance(table, pd.DataFrame):
        if not hasattr(table, "to_pandas"):
            raise InputError(f"runs is {shown(table)}; it must be a table of pandas")
        table = table.to_pandas()
    if table.empty:
        raise InputError("the table has no rows")
    named = [*(one.metric for one in question.outcomes), *question.by, *question.pair]
    table = table.set_axis([str(name) for name in table.columns], axis="columns")
    table = table.reset_index([n for n in table.index.names if n in named and n not in table])
    columns = list(table)
    if twice := [name for name, n in Counter(columns).items() if n > 1]:
        raise InputError(f"the table has two columns {shown(twice[0])}; rename one")
    for name in named:
        if name not in columns:
            guess = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            raise InputError(
                f"the table has no column {name!r}; it has {shortlist(columns, 12)}{hint}"
            )
    if (kind := f"tags.{KIND}") in columns and f"tags.{PROCESS}" in columns:
        table = table[(table[kind] != "comparison") | table[f"tags.{PROCESS}"].isna()]
    rows = table.to_dict("records")
    # Others' tables may have columns of these names, too.
    is_mlflow = {"run_id", "status"} <= set(columns) and table["status"].isin(
        [*STATUSES, *UNFINISHED]
    ).all()
    is_mlflow = is_mlflow and table["run_id"].astype(str).str[:SHORT_ID].is_unique
    return [_candidate(place, row, question, is_mlflow) for place, row in enumerate(rows)]


def _candidate(
    place: int, row: Mapping[Any, Any], question: Question, is_mlflow: bool
) -> Candidate:
    name, run_id, problem, is_lost, started = f"row {place}", "", "", False, place
    if is_mlflow:
        run_id = str(row["run_id"])
        name = f"{row.get('tags.mlflow.runName', 'run')} ({run_id[:SHORT_ID]})"
        started = -place  # MLflow's newest runs come first
        problem = ending_problem(row["status"])
        is_lost = row["status"] not in ("FINISHED", *UNFINISHED)
        if isinstance(begun := row.get("start_time"), pd.Timestamp):
            started = begun.value
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
        started=started,
        problem=problem,
        is_lost=is_lost,
        others={key: text for key, text in texts.items() if _is_setting(key, row[key], question)},
        parent=texts.get(f"tags.{PARENT_TAG}", ""),
        measured=measured,
        logged=[n.removeprefix("metrics.") for n in texts if n.startswith("metrics.")],
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
    """Whether a column may be a setting: MLflow's own kinds, else whatever is no fraction."""
    known = {*question.by, *question.pair, *(one.metric for one in question.outcomes), *NO_SETTINGS}
    if name in known or name.startswith(("metrics.", f"tags.{OF_MLFLOW}")):
        return False
    is_fraction = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
    return name.startswith(("params.", "tags.")) or not is_fraction
