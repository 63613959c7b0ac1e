"""Compare anybody's runs, or rows of a table, and write nothing but the comparison's own run."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

import mlflow
import pandas as pd

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
)
from pipeline.runs.lifecycle import track
from pipeline.runs.others import Candidate, Question, chooses_by_metric, measure, search_candidates
from pipeline.runs.queries import experiment_id
from pipeline.runs.tables import candidates_of
from pipeline.statistics.intervals import Design
from pipeline.store.initialization import check_experiment_of
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND
from pipeline.study.looks import (
    COMPARISON_FILE,
    UNPLANNED,
    check_planned,
    choose_design_of,
    planned,
    values_read,
)
from pipeline.study.selection import Selection, select


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
    _check_keys(found, question)
    found = measure(found, question.outcomes)
    selection = select(found, question.by, question.pair, question.baseline)
    runs = [one.run for one in selection.runs]
    check_experiment_of(runs[0].run_id, runs[0].experiment_id)
    design = choose_design_of(selection, question, where_they_are)
    analysis = _analyse(selection, question, design, experiment)
    read = {
        "question": question.as_dict(),
        "runs": sorted(one.run_id for one in runs),
        "values": values_read(selection),
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
    check_planned(selection, question)
    not_known = "whoever planned them says that nobody looked at a part of them"
    design = planned(question, not_known) if question.planned else UNPLANNED
    analysis = _analyse(selection, question, design, "table")
    facts = _facts(question, selection, analysis, len(found))
    subtitle = _subtitle(analysis)
    page = report_files(analysis, subtitle, facts, selection.unused)["report.html"].decode()
    return Published(analysis, subtitle, page, selection.unused)


def _check_outcomes(found: Sequence[Candidate], question: Question) -> None:
    """Raise InputError if no run has measured an outcome at all."""
    counts = Counter(name for one in found for name in one.logged)
    known = Counter({name: n for name, n in counts.items() if not name.startswith("system/")})
    if any(one.adopted for one in found):
        return  # of other runs, which are read with the histories
    for outcome in question.outcomes:
        if outcome.metric not in counts:
            guess = get_close_matches(outcome.metric, known, n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            there = shortlist([name for name, _ in known.most_common()], 8) or "none"
            raise InputError(
                f"none of {plural(len(found), 'run')} has a metric {outcome.metric!r}; the metrics"
                f" are: {there}{hint}"
            )


def _check_keys(found: Sequence[Candidate], question: Question) -> None:
    """Raise InputError if no run has one of the parameters or tags that are asked for."""
    known = Counter(key for one in found for key in {**one.others, **one.by, **one.pair})
    for key in (*question.by, *question.pair):
        if key not in known:
            guess = get_close_matches(key, known, n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            there = shortlist([name for name, _ in known.most_common()], 8) or "nothing"
            raise InputError(
                f"none of {plural(len(found), 'run')} has {key}; they have: {there}{hint}"
            )


def _analyse(selection: Selection, question: Question, design: Design, about: str) -> RunsAnalysis:
    what = Compared(
        about=about,
        outcomes=question.outcomes,
        settings=selection.settings,
        contrasts=selection.contrasts,
        by=question.by,
        pair=question.pair,
        only=selection.only,
        by_result=chooses_by_metric(question.where),
        lost=selection.lost,
        follows=selection.differ.follows,
        notes=selection.differ.notes,
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
        **{f"also differs, {n}": one for n, one in enumerate(selection.differ.follows, 1)},
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
