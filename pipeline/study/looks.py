"""Whether somebody has looked at runs before: which intervals a comparison may have."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import mlflow
from mlflow.entities import Run, ViewType

from pipeline.errors import InputError, plural, shortlist
from pipeline.report.runs_analysis import noun_of
from pipeline.runs.others import Question
from pipeline.runs.plan import Plan
from pipeline.statistics.intervals import ALPHA, LATER_ALPHA, PLANNED_ALPHA, WITHIN, Design
from pipeline.store.artifacts import read_artifact
from pipeline.store.lookup import MAX_RUNS, SHORT_ID
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND, unpack
from pipeline.study.margin import has_end
from pipeline.study.selection import Selection

COMPARISON_FILE = "comparison.json"  # of a comparison's run: its question, and the runs it has read
UNSEEN = "no earlier comparison has seen a part of them"
UNPLANNED = Design(
    "anytime",
    "The runs were chosen for this comparison, and no plan says how many there would be.",
    ALPHA,
)


def planned(question: Question, seen: str = UNSEEN) -> Design:
    """The design of runs that were planned. seen: who says that nobody has looked before."""
    noun = noun_of(question.pair)
    each = "" if question.pair else " of each variant"
    return Design(
        "planned",
        f"{plural(question.planned, noun)}{each} were planned: exactly so many there are, and"
        f" {seen}.",
        PLANNED_ALPHA,
    )


def check_planned(selection: Selection, question: Question) -> None:
    """Raise InputError unless there is exactly what was planned."""
    if not question.planned:
        return
    counts = Counter(one.variant for one in selection.runs)
    noun = noun_of(question.pair)
    wrong = [f"{plural(n, noun)} of {v}" for v, n in counts.items() if n != question.planned]
    pairs = {one.pair for one in selection.runs}
    if not wrong and question.pair and len(pairs) != question.planned:
        wrong = [f"{plural(len(pairs), noun)}, which not all variants have"]
    wrong += [f"{name}: {selection.unused[name]}" for name in selection.unexpected]
    if wrong:
        raise InputError(
            f"planned is {question.planned}, but found: {shortlist(wrong, 3, '; ')}; leave it"
            " out: the intervals are then valid whatever was planned, and longer"
        )


def choose_design_of(selection: Selection, question: Question, where: str) -> Design:
    """Choose intervals that are valid after what earlier reports have shown of these runs."""
    check_planned(selection, question)
    ids = {one.run.run_id for one in selection.runs}
    asked = json.loads(json.dumps(question.as_dict()))
    planned_before, same_outcome = [], True
    values = values_read(selection)
    for run, read in _earlier(where):
        name = f"run {run.info.run_id[:SHORT_ID]}"
        seen = ids if read is None else ids & set(read["runs"])
        if not seen:
            continue
        same = read is not None and (read["question"], read.get("values")) == (asked, values)
        if question.planned and not same:
            what = f"has seen {len(seen)} of these {plural(len(ids), 'run')}"
            if read is None:
                what = f"has lost its {COMPARISON_FILE}, and may have seen these runs"
            elif read["question"] == asked and seen == ids == set(read["runs"]):
                what = "has seen these runs, which have logged more since"
            raise InputError(
                f"planned is {question.planned}, but an earlier comparison ({name}) {what}; leave"
                " it out: the intervals are then valid whatever was seen, and longer"
            )
        if unpack(run).get("planned", "0") != "0":
            planned_before.append(name)
            same_outcome &= read is None or _outcome(read["question"]) == _outcome(asked)
    reported = [one.run for one in selection.runs if one.run.reported_with]
    if reported and question.planned:
        raise InputError(
            f"planned is {question.planned}, but a study has reported some of these runs; leave it"
            " out"
        )
    if question.planned:
        return planned(question)
    plans = {one.name: _plan(one.reported_with) for one in reported}
    studies = {name: one for name, one in plans.items() if one and not one.chosen_later}
    planned_before += [f"of {name}" for name in studies]
    same_outcome &= all(one.value == str(question.outcomes[0].value) for one in studies.values())
    if planned_before:
        ends = any(one and has_end(one) for one in plans.values())
        return Design(
            "anytime",
            f"An earlier report ({planned_before[0]}) was planned, and contains some of these runs,"
            + (
                " so the choice of others may depend on its result."
                if same_outcome
                else " and counted another value of them: what counts here was chosen later."
            ),
            LATER_ALPHA * (1 - WITHIN if ends else 1),
            exploratory=not same_outcome,
        )
    return UNPLANNED


def values_read(selection: Selection) -> dict[str, dict[str, str]]:
    """What was read: the outcomes of each run by its id, as text, as JSON has no NaN."""
    return {
        one.run.run_id: {name: repr(m.value) for name, m in one.run.measured.items()}
        for one in selection.runs
    }


def _outcome(question: Mapping[str, Any]) -> tuple[str, str]:
    """The primary outcome of a question, as JSON has it, and which value of a run counts."""
    first = question["outcomes"][0]
    return first["metric"], first["value"]


def _plan(text: str) -> Plan | None:
    try:
        return Plan.from_json(text)
    except ValueError:  # another project's tag
        return None


def _earlier(where: str) -> Iterator[tuple[Run, dict | None]]:  # type: ignore[type-arg]
    """The comparisons of an experiment, deleted ones too, with what they have read, if known."""
    for run in _comparisons(where):
        content = read_artifact(run.info.artifact_uri, COMPARISON_FILE)
        if content is None and "planned" not in unpack(run):
            continue  # of this project's own runs, which say themselves what has reported them
        try:
            read = json.loads(content or b"")
            known = "question" in read and all(isinstance(one, str) for one in read["runs"])
            yield run, read if known else None
        except (ValueError, TypeError, LookupError):
            yield run, None


@in_store
def _comparisons(where: str) -> list[Run]:
    return list(
        mlflow.search_runs(
            [where],
            filter_string=f"tags.{KIND} = 'comparison'",
            run_view_type=ViewType.ALL,
            max_results=MAX_RUNS,
            output_format="list",
        )
    )
