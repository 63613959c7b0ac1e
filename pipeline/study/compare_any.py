"""Compare anybody's runs, or rows of a table, and write nothing but the comparison's own run."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import mlflow
import pandas as pd
from mlflow.entities import Run, ViewType

from pipeline.errors import InputError, plural, shortlist
from pipeline.outcome import Outcome
from pipeline.report.files import report_files
from pipeline.report.publish import Published, command, publish
from pipeline.report.runs_analysis import (
    EARLY,
    Compared,
    MeasuredRun,
    RunsAnalysis,
    analyse_runs,
    noun_of,
)
from pipeline.runs.lifecycle import track
from pipeline.runs.others import Candidate, Question, measure, search_candidates
from pipeline.runs.plan import Plan
from pipeline.runs.queries import experiment_id
from pipeline.runs.tables import candidates_of
from pipeline.statistics.intervals import ALPHA, LATER_ALPHA, PLANNED_ALPHA, Design
from pipeline.store.artifacts import read_artifact
from pipeline.store.initialization import check_experiment_of
from pipeline.store.lookup import MAX_RUNS, SHORT_ID
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND, unpack
from pipeline.study.selection import Selection, select

log = logging.getLogger(__name__)
COMPARISON_FILE = "comparison.json"  # of a comparison's run: its question, and the runs it has read
UNSEEN = "no earlier comparison has seen a part of them"
UNPLANNED = Design(
    "anytime",
    "The runs were chosen for this comparison, and no plan says how many there would be.",
    ALPHA,
)


def compare_any(experiment: str, question: Question) -> Published:
    """Publish a report on the runs of an experiment, whoever has made them, as a run beside them.

    Raises InputError if nothing can be compared, or not as planned.
    """
    where_they_are = experiment_id(experiment)
    found = search_candidates(where_they_are, question.where, question.by, question.pair)
    if not found:
        that = " that where chooses" if question.where else ""
        raise InputError(f"experiment {experiment!r} has no runs{that}")
    _check_outcomes(found, question)
    found = measure(found, question.outcomes)
    selection = select(found, question.by, question.pair, question.baseline)
    runs = [one.run for one in selection.runs]
    check_experiment_of(runs[0].run_id, runs[0].experiment_id)
    design = _design(selection, question, where_they_are)
    analysis = _analyse(selection, question, design, experiment)
    read = {
        "question": question.as_dict(),
        "runs": sorted(one.run_id for one in runs),
        "values": _values(selection),
        "not_counted": selection.unused,
    }
    facts = {"experiment": experiment, **_facts(question, selection, analysis, len(found))}
    name = f"comparison of {question.outcomes[0].metric} by {', '.join(question.by)}"
    values = {KIND: "comparison", "planned": question.planned}
    with track(name, {"experiment": experiment, **_settings(question)}, values, where_they_are):
        # First: what is shown has been seen, even if the report fails.
        in_store(mlflow.log_dict)(read, COMPARISON_FILE)
        elsewhere = {one.name: (one.experiment_id, one.run_id) for one in runs}
        return publish(analysis, _subtitle(analysis), selection.unused, facts, elsewhere)


def compare_table(table: pd.DataFrame, question: Question) -> Published:
    """Return a report on the rows of a table; nothing is stored.

    Raises InputError if nothing can be compared, or not as planned.
    """
    if any(one.value != "last" for one in question.outcomes):
        raise InputError("value is for runs in a store, which have many; a row of a table has one")
    found = candidates_of(table, question)
    selection = select(found, question.by, question.pair, question.baseline)
    _check_planned(selection, question)
    not_known = "whoever planned them says that nobody looked at a part of them"
    design = _planned(question, not_known) if question.planned else UNPLANNED
    analysis = _analyse(selection, question, design, "table")
    facts = _facts(question, selection, analysis, len(found))
    subtitle = _subtitle(analysis)
    page = report_files(analysis, subtitle, facts, selection.unused)["report.html"].decode()
    return Published(analysis, subtitle, page, selection.unused)


def _check_outcomes(found: Sequence[Candidate], question: Question) -> None:
    """Raise InputError if no run has measured an outcome at all."""
    known = Counter(name for one in found for name in one.logged if not name.startswith("system/"))
    for outcome in question.outcomes:
        if outcome.metric not in known:
            guess = get_close_matches(outcome.metric, known, n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            there = shortlist([name for name, _ in known.most_common()], 8) or "none"
            raise InputError(
                f"none of {plural(len(found), 'run')} has a metric {outcome.metric!r}; the metrics"
                f" are: {there}{hint}"
            )


def _analyse(selection: Selection, question: Question, design: Design, about: str) -> RunsAnalysis:
    what = Compared(
        about=about,
        outcomes=question.outcomes,
        settings=selection.settings,
        contrasts=selection.contrasts,
        by=question.by,
        pair=question.pair,
        lost=selection.lost,
        follows=selection.follows,
        notes=selection.notes,
    )
    runs = [
        MeasuredRun(
            name=one.run.name,
            variant=one.variant,
            pair=one.pair,
            run_id=one.run.run_id,
            experiment_id=one.run.experiment_id,
            values={n: m.value for n, m in one.run.measured.items() if m.value is not None},
            curves={n: m.curve for n, m in one.run.measured.items()},
            lengths={n: m.length for n, m in one.run.measured.items()},
            notes=[m.note for m in one.run.measured.values() if m.note],
            stopped=any(name in EARLY for name in one.run.logged),
        )
        for one in selection.runs
    ]
    return analyse_runs(runs, what, design)


def _planned(question: Question, seen: str = UNSEEN) -> Design:
    noun = noun_of(question.pair)
    each = "" if question.pair else " of each variant"
    return Design(
        "planned",
        f"{plural(question.planned, noun)}{each} were planned: exactly so many there are, and"
        f" {seen}.",
        PLANNED_ALPHA,
    )


def _check_planned(selection: Selection, question: Question) -> None:
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


def _design(selection: Selection, question: Question, where: str) -> Design:
    """Choose intervals that are valid after what earlier reports have shown of these runs."""
    _check_planned(selection, question)
    ids = {one.run.run_id for one in selection.runs}
    asked, planned_before = json.loads(json.dumps(question.as_dict())), []
    values = _values(selection)
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
    reported = [one.run for one in selection.runs if one.run.reported_with]
    if reported and question.planned:
        raise InputError(
            f"planned is {question.planned}, but a study has reported some of these runs; leave it"
            " out"
        )
    if question.planned:
        return _planned(question)
    planned_before += [f"of {one.name}" for one in reported if _was_planned(one.reported_with)]
    if planned_before:
        return Design(
            "anytime",
            f"An earlier report ({planned_before[0]}) was planned, and contains some of these runs,"
            " so the choice of others may depend on its result.",
            LATER_ALPHA,
        )
    return UNPLANNED


def _values(selection: Selection) -> dict[str, dict[str, str]]:
    """What was read: the outcomes of each run by its id, as text, as JSON has no NaN."""
    return {
        one.run.run_id: {name: repr(m.value) for name, m in one.run.measured.items()}
        for one in selection.runs
    }


def _was_planned(text: str) -> bool:
    try:
        return not Plan.from_json(text).chosen_later
    except ValueError:  # another project's tag
        return False


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


def _settings(question: Question) -> dict[str, object]:
    """The parameters of a comparison's run."""
    first = question.outcomes[0]
    return {
        "outcome": ",".join(one.metric for one in question.outcomes),
        "by": ",".join(question.by),
        "pair": ",".join(question.pair) or "none",
        "where": question.where,
        "baseline": question.baseline or "auto",
        "better": ",".join(one.better or "-" for one in question.outcomes),
        "value": first.value,
        "unit": first.unit,
        "scale": first.scale,
        "margin": first.margin or "",
        "planned": question.planned or "no",
    }


def _facts(
    question: Question, selection: Selection, analysis: RunsAnalysis, read: int
) -> dict[str, str]:
    """How the comparison was made."""

    def which(one: Outcome) -> str:
        return f": {one.words}" if analysis.has_steps else ""

    first = next(iter(selection.settings))
    return {
        "outcome": "; ".join(f"{one.metric}{which(one)}" for one in question.outcomes),
        "variants by": ", ".join(question.by),
        "pairs by": ", ".join(question.pair) or "none: independent samples",
        "where": question.where or "all",
        "baseline": f"{first}{'' if question.baseline else ', the first in order'}",
        "runs": f"{len(selection.runs)} of {read} are compared",
        "command": command(),
        **{f"also differs, {n}": one for n, one in enumerate(selection.follows, 1)},
    }


def _subtitle(analysis: RunsAnalysis) -> str:
    """What is compared, in a line."""
    primary = analysis.what.outcomes[0]
    better = f", {primary.better} is better" if primary.better else ""
    runs = plural(len(analysis.runs), "run")
    pairs = ""
    if analysis.pair:
        pairs = f" with {plural(analysis.table['pair'].nunique(), analysis.noun)}"
    which = f": {primary.words}" if analysis.has_steps else ""
    return f"{primary.metric}{better}{which}. {runs}{pairs}."
