"""The records that a report is made of: each finding, each setting, the whole analysis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.report.pairs import Pair
from pipeline.runs.run_result import RunResult
from pipeline.statistics.comparisons import Comparison, Outcome, Summary
from pipeline.statistics.intervals import Design


@dataclass(frozen=True)
class Finding:
    """What one addition did to one outcome, in numbers and as a sentence."""

    key: str  # the outcome's column
    outcome: Outcome
    pair: Pair
    comparison: Comparison
    sentence: str


@dataclass(frozen=True)
class Setting:
    """The compared variants, each at one learning rate.

    title: for sentences, such as `learning rate 0.001`. label: for tables, `0.001` or `best`.
    rates: the learning rate of each variant.
    summaries: by outcome and variant. findings: by outcome, in the order of COMPARISONS.
    """

    title: str
    label: str
    rates: Mapping[str, float]
    table: pd.DataFrame
    summaries: Mapping[str, Mapping[str, Summary]]
    findings: Mapping[str, Sequence[Finding]]


@dataclass(frozen=True)
class Analysis:
    """What a report says about a study.

    design: how the study came to its seeds, which decides how long its intervals are.
    table: a row per run. primary: the outcome named in advance, a table column.
    outcomes: by column. target: epochs and seconds to this accuracy are compared; None if too low.
    main: the setting that answers the question: the only learning rate, or each variant's best.
    None if there are several and none could be chosen. by_rate: one setting per learning rate.
    sign_changes: a sentence for each comparison whose direction depends on the learning rate.
    notes: what could not be compared, and why.
    """

    results: Sequence[RunResult]
    design: Design
    table: pd.DataFrame
    primary: str
    outcomes: Mapping[str, Outcome]
    target: float | None
    main: Setting | None
    by_rate: Sequence[Setting]
    sign_changes: Sequence[str]
    notes: Sequence[str]

    @property
    def headline(self) -> list[str]:
        """A sentence for each effect on the primary outcome, and what limits them."""
        settings = [self.main] if self.main else self.by_rate
        effects = [finding.sentence for one in settings for finding in one.findings[self.primary]]
        if not effects:
            effects = [
                "Nothing is compared: no two variants that differ in one thing share a seed."
            ]
        failed = [
            note for note in self.notes if "not a number" in note or "learned nothing" in note
        ]
        return [*effects, *self._missed_margins(), *self.sign_changes, *failed]

    def _missed_margins(self) -> list[str]:
        """Name the effects that are not known to within the margin that was asked for."""
        missed = []
        for finding in self.main.findings[self.primary] if self.main and self.design.margin else []:
            interval, scale = finding.comparison.interval, finding.outcome.scale
            half = (interval.high - interval.low) / 2 * scale if interval else float("inf")
            if half > self.design.margin * (1 + 1e-9):
                known = f"to within ± {half:.2f} {finding.outcome.unit}" if interval else "at all"
                missed.append(
                    f"{finding.pair.label} is not known to within ± {self.design.margin:g}"
                    f" {finding.outcome.unit} after {finding.comparison.seeds} seeds: {known}."
                )
        return missed

    @property
    def compared(self) -> list[Pair]:
        """The comparisons that were made."""
        pairs = {f.pair: None for one in self.settings for f in one.findings[self.primary]}
        return list(pairs)

    @property
    def rates(self) -> str:
        """The learning rates in words, for a headline."""
        if not self.main:
            return "learning rates " + ", ".join(one.label for one in self.by_rate)
        if self.main.label != "best":
            return self.main.title
        chosen = ", ".join(f"{lr:g} ({v})" for v, lr in self.main.rates.items())
        return f"each variant at its best learning rate: {chosen}"

    @property
    def settings(self) -> list[Setting]:
        """The main setting first, then all others in `by_rate`."""
        main = [self.main] if self.main else []
        return [*main, *(setting for setting in self.by_rate if setting is not self.main)]
