"""Runs of anybody's programs, as findings: whatever they measure, paired or not."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from pipeline.errors import InputError, plural, shortlist
from pipeline.outcome import LARGEST, SMALLEST, Outcome, mean_of
from pipeline.report.contrasts import Contrast
from pipeline.report.effects import find_effects, make_finding, summarize_variants
from pipeline.report.findings import Analysis, NetworkAnalysis, RateResult
from pipeline.statistics.intervals import Design
from pipeline.statistics.outcomes import OutcomeMeasure, decimals_for

COLUMNS = ("run", "variant", "pair", "run_id", "lr", "step")  # of tables; others are outcomes
MAX_NAMED = 3  # differences in the answer
EARLY = ("best_iteration", "stopped_iteration")  # what XGBoost and LightGBM log as they stop early


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run that is compared: its variant, what pairs it with others, and what it has measured.

    values: by metric; NaN for a secondary outcome that it lacks. curves: steps and values, by
    metric; lengths: how many steps those had before they were thinned out. stopped: whether it
    says that it stopped early.
    """

    name: str
    variant: str
    pair: str = ""
    run_id: str = ""
    experiment_id: str = ""
    values: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared: the variants by their settings, and how they are told apart.

    about: whose runs they are. settings: of each variant, the baseline first. by, pair: names of
    what tells variants apart, and of what pairs runs; the latter may be empty. only: settings by
    which some of the runs were chosen. by_result: that runs were chosen by a metric. lost: how many
    runs of a variant are not counted, because they have failed, diverged or measured nothing.
    follows: what else differs with the variant. notes: what else is to be said.
    """

    about: str
    outcomes: Sequence[Outcome]
    settings: Mapping[str, Mapping[str, object]]
    contrasts: Sequence[Contrast]
    by: Sequence[str]
    pair: Sequence[str]
    only: Sequence[str] = ()
    by_result: bool = False
    lost: Mapping[str, int] = field(default_factory=dict)
    follows: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RunsAnalysis(Analysis):
    """What a report says about anybody's runs."""

    runs: Sequence[MeasuredRun]
    what: Compared

    @property
    def about(self) -> str:
        """Whose runs they are."""
        return self.what.about

    @property
    def headline(self) -> list[str]:
        """Each effect on the primary outcome, and what limits them."""
        lines = super().headline
        if self.what.follows:
            more = len(self.what.follows) - MAX_NAMED
            rest = f"; and {plural(more, 'more')}".removesuffix("s") if more > 0 else ""
            lines.append(
                "The variants differ in more, which may be the cause:"
                f" {'; '.join(self.what.follows[:MAX_NAMED])}{rest}."
            )
        if self.what.only:
            lines.append(f"Only runs with {' and '.join(self.what.only)} are compared.")
        if self.what.by_result:
            lines.append(
                "The runs were chosen by a metric, so effects may come from the choice, and"
                " intervals may be too short."
            )
        for variant, count in self.what.lost.items():
            others = sum(run.variant == variant for run in self.runs)
            of_all = f"{count} of {plural(count + others, 'run')}" if others else "every run"
            lines.append(
                f"Not counted: {of_all} of {variant}, which"
                f" {'has' if count == 1 or not others else 'have'} failed, diverged or measured no"
                f" {self.what.outcomes[0].metric}"
                f"{'; its mean is that of the others' if others else ''}."
            )
        return lines + self._unequal_lengths() + self._stopped_early()

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each run, outcome and step that is kept."""
        rows = (
            (run.name, run.run_id, run.variant, run.pair, metric, step, value)
            for run in self.runs
            for metric, curve in run.curves.items()
            for step, value in curve
        )
        header = ["run", "run_id", "variant", "pair", "outcome", "step", "value"]
        return pd.DataFrame(rows, columns=header)

    @property
    def has_steps(self) -> bool:
        """Whether runs have steps, of which one counts. A row of a table has none."""
        return any(any(run.lengths.values()) for run in self.runs)

    def _unequal_lengths(self) -> list[str]:
        """Say so if several steps count, and variants have different numbers of them."""
        primary = self.what.outcomes[0]
        lengths = {
            variant: sorted(
                {run.lengths.get(primary.metric, 1) for run in self.runs if run.variant == variant}
            )
            for variant in self.shown.variants
        }
        if len(set(map(tuple, lengths.values()))) < 2:
            return []
        if count := mean_of(primary.value):
            caution = f"The last {count} of more steps are a shorter part of training."
        elif primary.value in ("max", "min"):
            which = primary.words.split()[1]
            caution = f"Of more steps, the {which} is more extreme by chance alone."
        else:
            return []
        told = ", ".join(f"{shortlist(some, 3)} ({variant})" for variant, some in lengths.items())
        return [
            f"{primary.words.capitalize()} counts, and runs have different numbers of steps:"
            f" {told}. {caution}"
        ]

    def _stopped_early(self) -> list[str]:
        """Say so if some variants stop early, and others do not."""
        stopped = {run.variant for run in self.runs if run.stopped}
        if not stopped or stopped == {run.variant for run in self.runs}:
            return []
        return [
            f"Only runs of {shortlist(sorted(stopped))} have logged {' or '.join(EARLY)}: with"
            " early stopping, XGBoost and LightGBM log the best value once more after the last"
            " step, so that it counts there as the last one."
        ]


AnyAnalysis = NetworkAnalysis | RunsAnalysis


def analyse_runs(runs: Sequence[MeasuredRun], what: Compared, design: Design) -> RunsAnalysis:
    """Compare the variants of `runs`: by pair, with the pairs that both have, or all runs.

    If the mean of the last steps counts, the last step alone is shown next to it.
    """
    runs, what = _with_last_step(runs, what)
    keys = {one.metric: _column(one.metric) for one in what.outcomes}
    table = pd.DataFrame(
        {"run": run.name, "variant": run.variant, **({"pair": run.pair} if what.pair else {})}
        | {key: run.values.get(metric, math.nan) for metric, key in keys.items()}
        | {"run_id": run.run_id}
        for run in runs
    )
    variants = [v for v in what.settings if v in set(table["variant"])]
    pair, noun = ("pair" if what.pair else ""), noun_of(what.pair)
    outcomes, summaries, findings = {}, {}, {}
    notes = list(what.notes)
    for one in what.outcomes:
        key = keys[one.metric]
        is_known = table[key].abs() <= LARGEST
        known = table[is_known]
        if missing := len(table) - len(known):
            notes.append(
                f"{one.metric} is missing, or no finite number, in {plural(missing, 'run')}, which"
                f" {'is' if missing == 1 else 'are'} not compared by it:"
                f" {shortlist(table.loc[~is_known, 'run'])}."
            )
        largest = known[key].abs().groupby(known["variant"]).max()
        if any(largest.between(0, SMALLEST, inclusive="neither")):
            raise InputError(
                f"{one.metric} of a variant is nowhere above {SMALLEST:g}, which is too small to"
                " compute with; log it in another unit"
            )
        measure = measure_of(one, known, key)
        own_design = design if one is what.outcomes[0] else replace(design, margin=0.0)
        effects = find_effects(key, measure, what.contrasts, known, pair)
        outcomes[key] = measure
        summaries[key] = summarize_variants(key, measure, variants, known, design)
        findings[key] = [
            make_finding(effect, own_design, len(effects), noun=noun if pair else "run")
            for effect in effects
        ]
    notes += _odd(runs)
    rates = dict.fromkeys(variants, math.nan)  # it is the user's programs that may have one
    result = RateResult("", "", rates, table, summaries, findings)
    return RunsAnalysis(
        variants=list(what.settings),
        pair=pair,
        noun=noun,
        design=design,
        table=table,
        primary=keys[what.outcomes[0].metric],
        outcomes=outcomes,
        main=result,
        by_rate=[result],
        notes=notes,
        runs=runs,
        what=what,
    )


def _with_last_step(
    runs: Sequence[MeasuredRun], what: Compared
) -> tuple[Sequence[MeasuredRun], Compared]:
    primary, *others = what.outcomes
    if not mean_of(primary.value):
        return runs, what
    last = replace(primary, metric=f"{primary.metric} of the last step alone", value="last")
    known = [
        replace(run, values={**run.values, last.metric: run.curves[primary.metric][-1][1]})
        if run.curves.get(primary.metric)
        else run
        for run in runs
    ]
    return known, replace(what, outcomes=[primary, last, *others])


def noun_of(pair: Sequence[str]) -> str:
    """What a pair of runs has in common, if that is a word: `seed`, `fold`; else `pair`."""
    name = pair[0].rpartition(".")[2] if len(pair) == 1 else ""
    regular = re.fullmatch("[A-Za-z]?[a-z]*[a-gi-rt-w]", name) and name != "none"
    return name.lower() if regular else "pair" if pair else "run"


def _column(metric: str) -> str:
    return f"metrics.{metric}" if metric in COLUMNS else metric


def _odd(runs: Sequence[MeasuredRun]) -> list[str]:
    """What is odd about single runs, each kind once."""
    told: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            told.setdefault(note, []).append(run.name)
    return [f"{shortlist(names, 3)}: {note}." for note, names in told.items()]


def measure_of(outcome: Outcome, runs: pd.DataFrame, key: str) -> OutcomeMeasure:
    """How numbers of an outcome are shown: with as many digits as their spread leaves of use."""
    values = runs.groupby("variant")[key]
    scale = outcome.scale
    return OutcomeMeasure(
        outcome.metric,
        outcome.unit,
        scale,
        decimals_for(values.std(ddof=1), values.mean(), scale=scale),
        None if outcome.margin is None else outcome.margin / scale,
    )
