"""The records that a report is made of: each finding, each learning rate, the whole analysis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pandas as pd

from pipeline.ablation.definition import Ablation
from pipeline.ablation.wording import Wording
from pipeline.errors import percent, shortlist
from pipeline.outcome import mean_of
from pipeline.report.contrasts import Contrast
from pipeline.runs.plan import LAST
from pipeline.runs.record import RunRecord
from pipeline.statistics.comparisons import Comparison, Summary
from pipeline.statistics.intervals import Design
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.sentences import amount, capitalized


@dataclass(frozen=True)
class Finding:
    """What one change did to one outcome, in numbers and as a sentence.

    shown: the comparison with those intervals that are shown to readers.
    """

    key: str  # the outcome's column
    outcome: OutcomeMeasure
    contrast: Contrast
    comparison: Comparison
    shown: Comparison
    sentence: str

    @property
    def half_width(self) -> float:
        """How far the interval reaches to each side; infinite if there is none."""
        interval = self.comparison.interval
        return (interval.high - interval.low) / 2 if interval else math.inf

    def is_known(self, margin: float) -> bool:
        """Whether the effect is known to within ± a margin, in the metric's own unit."""
        return self.half_width <= margin * (1 + 1e-9)

    def answer(self, margin: float) -> str:
        """What the interval answers without being as short as the margin; empty if nothing."""
        if not self.comparison.interval:
            return ""
        (low, high), matters = self.comparison.interval, self.outcome.effect_of_interest
        if low > margin or high < -margin:
            return "it exceeds that"
        if matters is not None and -matters < low and high < matters:
            return f"it is below {amount(matters, self.outcome)}, and so too small to matter"
        return ""


@dataclass(frozen=True)
class RateResult:
    """The compared variants, each at one learning rate.

    title: for sentences, such as `learning rate 0.001`. label: for tables, `0.001` or `best`.
    rates: the learning rate of each variant.
    summaries: by outcome and variant. findings: by outcome, in the order of `contrasts`.
    """

    title: str
    label: str
    rates: Mapping[str, float]
    table: pd.DataFrame
    summaries: Mapping[str, Mapping[str, Summary]]
    findings: Mapping[str, Sequence[Finding]]

    @property
    def variants(self) -> list[str]:
        """The variants that have runs."""
        return list(self.rates)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a report says, whatever its runs are.

    variants: all that there are; each is drawn alike in all reports. pair: the column of `table`
    by which runs are paired; empty if they are not. noun: what a pair has in common, such as seed.
    design: how the runs came about, which decides how long intervals are.
    table: a row per run. primary: the outcome named in advance, a table column.
    outcomes: by column.
    main: what answers the question: the only learning rate, or each variant's best. None if there
    are several and none could be chosen. by_rate: one result per learning rate.
    notes: what could not be compared, and why.
    """

    variants: Sequence[str]
    pair: str = "seed"
    noun: str = "seed"
    design: Design
    table: pd.DataFrame
    primary: str
    outcomes: Mapping[str, OutcomeMeasure]
    main: RateResult | None
    by_rate: Sequence[RateResult]
    notes: Sequence[str]

    @property
    def compared(self) -> list[Contrast]:
        """The comparisons that were made."""
        made = (f.contrast for one in self.at_rates for f in one.findings[self.primary])
        return list(dict.fromkeys(made))

    @property
    def comparisons(self) -> int:
        """How many were made of the primary outcome, with intervals that hold jointly."""
        return sum(len(at_rate.findings[self.primary]) for at_rate in self.by_rate)

    @property
    def at_rates(self) -> list[RateResult]:
        """The main one first, then all others in `by_rate`."""
        main = [self.main] if self.main else []
        return [*main, *(at_rate for at_rate in self.by_rate if at_rate is not self.main)]

    @property
    def shown(self) -> RateResult:
        """The result that figures of runs show."""
        return self.main or self.by_rate[0]

    @property
    def effects(self) -> list[str]:
        """A sentence for each effect on the primary outcome."""
        settings = [self.main] if self.main else self.by_rate
        return [finding.sentence for one in settings for finding in one.findings[self.primary]]

    def missed_margins(self) -> list[str]:
        """Name the effects that are not known to within the margin that was asked for."""
        missed, design = [], self.design
        for finding in self.main.findings[self.primary] if self.main and design.margin else []:
            outcome, effect = finding.outcome, f"the effect of {finding.contrast.words}"
            margin = design.margin / outcome.scale
            if finding.is_known(margin):
                continue
            half = finding.half_width
            within = f"to within ± {_with_unit(outcome.show(half, extra=1), outcome)}"
            answer = finding.answer(margin) if design.stop_early else ""
            seeds = f"after {finding.comparison.seeds} {self.noun}s"
            asked = f"± {_with_unit(f'{design.margin:g}', outcome)}"
            if answer:
                missed.append(
                    f"{capitalized(effect)} is known {within} {seeds}, and not to within {asked},"
                    f" as the plan allows: {answer}."
                )
            else:
                known = within if finding.shown.interval else "at all"
                missed.append(
                    f"{capitalized(effect)} is not known to within {asked} {seeds}: {known}."
                )
        return missed

    def missing_intervals(self) -> list[str]:
        """Say why there are no intervals yet, and from how many seeds on there will be."""
        findings = self.main.findings[self.primary] if self.main else []
        if self.design.name != "anytime" or not any(
            one.comparison.sd and one.comparison.interval is None for one in findings
        ):
            return []
        enough = next(n for n in count(2) if np.isfinite(self.design.critical_t(n, len(findings))))
        each = "" if self.pair else " of each variant"
        return [
            f"{self.design.reason} Intervals that hold however often one looks begin at {enough}"
            f" {self.noun}s{each}."
        ]

    @property
    def headline(self) -> list[str]:
        """The answer: each effect on the primary outcome, and what limits them."""
        return [
            *self.effects,
            *self.reservations(),
            *self.missed_margins(),
            *self.missing_intervals(),
        ]

    def reservations(self) -> list[str]:
        """Say so if what counts was not chosen in advance."""
        counted = "The first report on some of these runs counted another value"
        return [f"{counted}: this one is exploratory."] if self.design.exploratory else []

    @property
    def title(self) -> str:
        """What is compared, and its variants: `own: plain, wide`."""
        trained = set(self.table["variant"])
        variants = shortlist(variant for variant in self.variants if variant in trained)
        return f"{self.about}: {variants}"

    @property
    def about(self) -> str:
        """What is compared."""
        raise NotImplementedError

    @property
    def variants_in_words(self) -> str:
        """What each variant is: `Variants: plain (without mixup), mix (mixup).`; or empty."""
        return ""

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each run and step, with the metrics of that step."""
        raise NotImplementedError

    @property
    def for_programs(self) -> dict[str, object]:
        """What programs may want to know beside effects and summaries."""
        return {}


@dataclass(frozen=True, kw_only=True)
class NetworkAnalysis(Analysis):
    """What a report says about networks that this project has trained.

    target: epochs and seconds to this accuracy are compared; None if too low.
    sign_changes: a sentence for each comparison whose direction depends on the learning rate.
    """

    ablation: Ablation
    results: Sequence[RunRecord]
    target: float | None
    sign_changes: Sequence[str]

    @property
    def about(self) -> str:
        """The ablation's name."""
        return self.ablation.name

    @property
    def curves(self) -> pd.DataFrame:
        """One row per run and epoch, with all metrics of that epoch."""
        return pd.DataFrame(
            {"run": result.config.run_name, "run_id": result.run_id, "epoch": n, **epoch.metrics}
            for result in self.results
            for n, epoch in enumerate(result.history, start=1)
        )

    @property
    def for_programs(self) -> dict[str, object]:
        """The accuracy to which times are compared."""
        return {"target_accuracy": self.target}

    @property
    def headline(self) -> list[str]:
        """A sentence for each effect on the primary outcome, and what limits them."""
        nothing = "Nothing is compared: no two variants that the ablation compares share a seed."
        failed = [
            note for note in self.notes if "not a number" in note or "learned nothing" in note
        ]
        few = f"Trained on only {self.few_images}; with all of them, effects may differ."
        return [
            *([few] if self.few_images else []),
            *([] if self.effects else [nothing]),
            *super().headline,
            *self.sign_changes,
            *failed,
        ]

    @property
    def last_epoch(self) -> str:
        """The column of the last epoch's accuracy, if another one is primary; else empty."""
        column = self.primary.rpartition("_")[0]
        return column if column in self.outcomes else ""

    @property
    def loss(self) -> str:
        """The column of the loss on the reported images."""
        return f"{self.primary.partition('_')[0]}_loss"

    @property
    def few_images(self) -> str:
        """`2,000 of 50,000 images` if the networks saw only so many; else empty."""
        first = self.results[0]
        total, count = first.total_images, first.config.train_images
        return f"{count:,} of {total:,} images" if count and count != total else ""

    @property
    def variants_in_words(self) -> str:
        """What each variant is: `Variants: plain (without mixup), mix (mixup).`; or empty."""
        wording = Wording.of(self.ablation)
        trained = {result.config.variant for result in self.results}
        told = {v: wording.description(v) for v in self.ablation.variants if v in trained}
        words = ", ".join(f"{variant} ({text})" for variant, text in told.items() if text)
        return f"Variants: {words}." if words else ""

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
    def other_weights(self) -> dict[tuple[str, str], tuple[str, int]]:
        """By variant and another one: the first parameter that begins otherwise, how many do."""
        known = {one.config.variant: one.other_weights for one in self.results}
        return {
            (variant, other): apart
            for variant in self.ablation.variants
            for other, apart in known.get(variant, {}).items()
            if other in known
        }

    @property
    def losses_differ(self) -> bool:
        """Whether variants were trained with different losses, or one with different settings."""
        ablation, criterion = self.ablation, self.ablation.criterion
        variants = {one.config.variant for one in self.results}
        names = {name for variant in variants for name in ablation.arguments(criterion, variant)}
        settings = {tuple(ablation.values(v)[name] for name in names) for v in variants}
        criteria = {one.criterion for one in self.results}
        return len(settings) > 1 or len(criteria) > 1


def _with_unit(number: str, outcome: OutcomeMeasure) -> str:
    return f"{number} {outcome.unit}".rstrip()


def study_outcomes(
    split: str, target: float | None, epochs: int, value: str = LAST
) -> dict[str, OutcomeMeasure]:
    """The outcomes by column, the primary one first. value: which of a run's accuracies that is."""
    prefix = "test" if split == "test" else "val"
    accuracy = OutcomeMeasure(
        f"{split} accuracy", "points", scale=100, effect_of_interest=0.01, bounds=(0, 1)
    )
    outcomes = {f"{prefix}_accuracy": accuracy}
    if count := mean_of(value):
        mean = replace(accuracy, name=f"the mean {accuracy.name} of the last {count} epochs")
        last = replace(accuracy, name=f"the {accuracy.name} of the last epoch alone")
        outcomes = {f"{prefix}_accuracy_{value}": mean, f"{prefix}_accuracy": last}
    outcomes |= {
        f"{prefix}_loss": OutcomeMeasure(
            f"{split} loss", "nats", decimals=3, effect_of_interest=0.05, bounds=(0, math.inf)
        ),
        "generalisation_gap": OutcomeMeasure(
            "the generalisation gap", "points", scale=100, effect_of_interest=0.01, bounds=(-1, 1)
        ),
    }
    if target:
        name = f"the time to {percent(target, 0)} validation accuracy"
        outcomes["epochs_to_target"] = OutcomeMeasure(
            name, "epochs", effect_of_interest=1.0, bounds=(1, epochs)
        )
    return outcomes
