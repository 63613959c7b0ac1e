"""From finished runs to what they say: a table, a summary per variant, an effect per comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.config import VARIANTS
from pipeline.results import RunResult
from pipeline.statistics import (
    Comparison,
    Outcome,
    Summary,
    compare,
    corrected,
    interaction,
    sentence,
    summarize,
)
from pipeline.training import is_stuck

TARGET_STEP = 0.05  # the accuracy to be reached is a multiple of this


class Pair(NamedTuple):
    """Two variants to compare, and what the first has that the second lacks."""

    treatment: str
    control: str
    subject: str
    own_name: str = ""

    @property
    def name(self) -> str:
        """As a metric is called: `bn_vs_base`."""
        return self.own_name or f"{self.treatment}_vs_{self.control}"

    @property
    def label(self) -> str:
        """As a reader subtracts: `bn − base`."""
        return f"{self.treatment} − {self.control}"


COMPARISONS = (
    Pair("bn", "base", "BatchNorm"),
    Pair("dropout", "bn", "Dropout on top of BatchNorm"),
    Pair("dropout", "base", "BatchNorm with Dropout"),
    Pair("base_dropout", "base", "Dropout without BatchNorm"),
)
# What BatchNorm does to the effect of dropout.
INTERACTION = Pair("(dropout − bn)", "(base_dropout − base)", "BatchNorm", "interaction")
TWO_BY_TWO = ("base", "bn", "base_dropout", "dropout")


@dataclass(frozen=True)
class Finding:
    """What one addition did to one outcome, in numbers and in a sentence."""

    key: str  # the outcome's column
    outcome: Outcome
    pair: Pair
    comparison: Comparison
    sentence: str


@dataclass(frozen=True)
class Setting:
    """The variants side by side, each at one learning rate.

    title: as in a sentence, such as `learning rate 0.001`. label: as in a table, `0.001` or `best`.
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
    """All that a report says of a study.

    table: a row per run. primary: the outcome named in advance, a column of it.
    outcomes: by column. target: the accuracy whose epoch and time are compared; None if too low.
    main: the setting that answers the question: the one learning rate, or each variant at its best.
    None where there are several and none could be chosen. by_rate: every learning rate's setting.
    sign_changes: a sentence for each comparison whose direction depends on the learning rate.
    notes: what could not be compared, and why.
    """

    results: Sequence[RunResult]
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
        """A sentence for each effect on the primary outcome; all of them hold together."""
        settings = [self.main] if self.main else self.by_rate
        effects = [finding.sentence for one in settings for finding in one.findings[self.primary]]
        if not effects:
            effects = [
                "Nothing is compared: no two variants that differ in one thing share a seed."
            ]
        failed = [
            note for note in self.notes if "not a number" in note or "learned nothing" in note
        ]
        return [*effects, *self.sign_changes, *failed]

    @property
    def compared(self) -> list[Pair]:
        """The comparisons that were made."""
        pairs = {f.pair: None for one in self.settings for f in one.findings[self.primary]}
        return list(pairs)

    @property
    def rates(self) -> str:
        """The learning rates in words, as a headline needs them."""
        if not self.main:
            return "learning rates " + ", ".join(one.label for one in self.by_rate)
        if self.main.label != "best":
            return self.main.title
        chosen = ", ".join(f"{lr:g} ({v})" for v, lr in self.main.rates.items())
        return f"each variant at its best learning rate: {chosen}"

    @property
    def settings(self) -> list[Setting]:
        """The main setting first, then each learning rate's, if that is another one."""
        main = [self.main] if self.main else []
        return [*main, *(setting for setting in self.by_rate if setting is not self.main)]


def analyse(results: Sequence[RunResult]) -> Analysis:
    """Compare the variants among `results`: runs of one recipe, at most one per cell.

    Every comparison is paired: it takes the seeds that both its variants have.
    """
    held_out = results[0].config.validation == "holdout"
    rates = sorted({result.config.lr for result in results})
    variants = [v for v in VARIANTS if any(result.config.variant == v for result in results)]
    notes: list[str] = []
    chosen = chosen_rates(results, notes)
    compared = chosen or dict.fromkeys(variants, rates[0])
    target = reachable_accuracy([r for r in results if r.config.lr == compared[r.config.variant]])
    if target is None:
        notes.append("Not every run reaches 5 %, so the time to an accuracy is not compared.")
    outcomes = _outcomes("test" if held_out else "validation", target)
    primary = next(iter(outcomes))
    table = results_table(results, target)
    by_rate = _corrected(
        [_setting(f"{lr:g}", dict.fromkeys(variants, lr), table, outcomes, notes) for lr in rates]
    )
    main = by_rate[0] if len(rates) == 1 else None
    if not main and chosen:
        (main,) = _corrected([_setting("best", chosen, table, outcomes, [])])
    elif not main:
        notes.append(
            "No learning rate was chosen: that takes images apart from the reported ones"
            " (validation=holdout)."
        )
    if table["learning"].eq("stuck").any():
        stuck = table.loc[table["learning"] == "stuck", "run"]
        notes.append(
            f"{len(stuck)} of {len(table)} runs learned nothing: their loss is no better than"
            f" a guess's (ln 100 = 4.605): {', '.join(stuck)}. An effect that includes them is"
            " about whether a network learns at all."
        )
    changes = sign_changes(by_rate, primary)
    return Analysis(results, table, primary, outcomes, target, main, by_rate, changes, notes)


def results_table(results: Sequence[RunResult], target: float | None) -> pd.DataFrame:
    """One row per run: what it is, its last epoch's metrics, what it cost, where it is stored."""
    rows = []
    for result in results:
        last = {k: v for k, v in result.history[-1].items() if k.endswith(("_loss", "_accuracy"))}
        epochs, seconds = time_to(result, target) if target else (math.nan, math.nan)
        reported = last.get("test_accuracy", last["val_accuracy"])
        rows.append(
            {
                "run": result.config.run_name,
                "variant": result.config.variant,
                "seed": result.config.seed,
                "lr": result.config.lr,
                **last,
                "learning": "stuck" if is_stuck(result.history) else "ok",
                "generalisation_gap": last["train_accuracy"] - reported,
                "epochs_to_target": epochs,
                "seconds_to_target": seconds,
                "seconds": result.seconds,
                "images_per_second": np.median([e["images_per_second"] for e in result.history]),
                "parameters": result.parameters,
                "model": result.registered.uri if result.registered else "",
                "run_id": result.run_id,
                "commit": result.commit,
                "reused": result.reused,
            }
        )
    return pd.DataFrame(rows)


def reachable_accuracy(results: Sequence[RunResult]) -> float | None:
    """The highest multiple of 5 % that every run's validation reaches; None if there is none."""
    lowest = min(max(epoch["val_accuracy"] for epoch in result.history) for result in results)
    steps = math.floor(lowest / TARGET_STEP + 1e-9)
    return round(steps * TARGET_STEP, 2) or None


def time_to(result: RunResult, target: float) -> tuple[float, float]:
    """Epochs and seconds, training and validation, until validation reaches `target`; or NaN."""
    for n, epoch in enumerate(result.history, start=1):
        if epoch["val_accuracy"] >= target:
            return n, sum(before["epoch_seconds"] for before in result.history[:n])
    return math.nan, math.nan


def chosen_rates(results: Sequence[RunResult], notes: list[str]) -> dict[str, float] | None:
    """The learning rate of each variant: the only one, or the best on the held-out images.

    Best by the mean, of those at which most of the variant's seeds have finished: what is left of a
    rate where runs failed is no fair sample. `notes` says what was passed over. None if there are
    several and no images were held out.
    """
    config = results[0].config
    variants = [v for v in VARIANTS if any(result.config.variant == v for result in results)]
    if len({result.config.lr for result in results}) == 1:
        return dict.fromkeys(variants, config.lr)
    if config.validation != "holdout":
        return None
    best = {}
    for variant in variants:
        found: dict[float, list[float]] = {}
        for result in results:
            if result.config.variant == variant:
                values = found.setdefault(result.config.lr, [])
                values.append(result.history[-1]["val_accuracy"])
        most = max(len(values) for values in found.values())
        complete = {lr: np.mean(values) for lr, values in found.items() if len(values) == most}
        best[variant] = max(complete, key=lambda lr: float(complete[lr]))
        passed = ", ".join(f"{lr:g}" for lr in sorted(found.keys() - complete.keys()))
        if passed:
            notes.append(f"Runs of {variant} are missing at learning rate {passed}: not chosen.")
    return best


def sign_changes(settings: Sequence[Setting], key: str) -> list[str]:
    """Name the comparisons that are an improvement at one learning rate and a loss at another.

    Only where both are settled: estimates of an effect of 0 have either sign, too.
    """
    sentences = []
    for pair in (*COMPARISONS, INTERACTION):
        found = [(s, f) for s in settings for f in s.findings[key] if f.pair == pair]
        settled = [f.comparison.difference for _, f in found if f.comparison.settled]
        if not settled or not min(settled) < 0 < max(settled):
            continue
        told = []
        for setting, finding in found:
            scale, unit = finding.outcome.scale, finding.outcome.unit
            state = "" if finding.comparison.settled else " (not settled)"
            change = f"{finding.comparison.difference * scale:+.1f} {unit}"
            told.append(f"{change} at {setting.title}{state}")
        name = found[0][1].outcome.name
        sentences.append(
            f"The effect of {pair.subject} on {name} changes its sign with the learning rate:"
            f" {', '.join(told)}."
        )
    return sentences


def _outcomes(split: str, target: float | None) -> dict[str, Outcome]:
    """The outcomes by column, the primary one first."""
    prefix = "test" if split == "test" else "val"
    outcomes = {
        f"{prefix}_accuracy": Outcome(f"{split} accuracy", "points", scale=100),
        f"{prefix}_loss": Outcome(
            f"{split} loss", "nats", decimals=3, higher_is_better=False, effect_of_interest=0.05
        ),
        "generalisation_gap": Outcome(
            "the generalisation gap",
            "points",
            scale=100,
            higher_is_better=False,
        ),
    }
    if target:
        until = f"to {target:.0%} validation accuracy"
        outcomes["epochs_to_target"] = Outcome(
            f"the time {until}", "epochs", higher_is_better=False, effect_of_interest=1.0
        )
        outcomes["seconds_to_target"] = Outcome(
            f"the time {until}", "seconds", higher_is_better=False, effect_of_interest=10.0
        )
    outcomes["seconds"] = Outcome(
        "time of a run", "seconds", higher_is_better=False, effect_of_interest=10.0
    )
    outcomes["images_per_second"] = Outcome(
        "training speed", "images/s", decimals=0, effect_of_interest=100.0
    )
    return outcomes


def _setting(
    label: str,
    rates: dict[str, float],
    table: pd.DataFrame,
    outcomes: Mapping[str, Outcome],
    notes: list[str],
) -> Setting:
    """Summarize and compare the runs at `rates`; add to `notes` what can't be."""
    chosen = table[table["lr"] == table["variant"].map(rates)]
    present = [variant for variant in rates if variant in set(chosen["variant"])]
    summaries, findings = {}, {}
    for key, outcome in outcomes.items():
        broken = chosen.loc[~np.isfinite(chosen[key]), "run"]
        if len(broken) and not key.endswith("_to_target"):
            notes.append(
                f"{outcome.name.capitalize()} is not compared: it is not a number in"
                f" {', '.join(broken)}."
            )
        finite = chosen if broken.empty else chosen[:0]
        by_seed = finite.pivot(index="seed", columns="variant", values=key).sort_index()
        summaries[key] = {v: summarize(by_seed[v].dropna()) for v in present if v in by_seed}
        findings[key] = _findings(key, outcome, by_seed)
    title = (
        "the best learning rate of each variant" if label == "best" else f"learning rate {label}"
    )
    return Setting(title, label, {v: rates[v] for v in present}, chosen, summaries, findings)


def _findings(key: str, outcome: Outcome, by_seed: pd.DataFrame) -> list[Finding]:
    """Make every comparison that the variants, columns of `by_seed`, allow."""
    found = []
    for pair in COMPARISONS:
        if {pair.treatment, pair.control} <= set(by_seed):
            both = by_seed[[pair.treatment, pair.control]].dropna()
            if len(both):
                result = compare(both[pair.treatment], both[pair.control], outcome)
                found.append(Finding(key, outcome, pair, result, ""))
    if set(TWO_BY_TWO) <= set(by_seed):
        four = by_seed[list(TWO_BY_TWO)].dropna()
        if len(four):
            named = replace(outcome, name=f"Dropout's effect on {outcome.name}")
            base, bn, base_dropout, dropout = (four[variant] for variant in TWO_BY_TWO)
            result = interaction(base, bn, base_dropout, dropout, outcome)
            found.append(Finding(key, named, INTERACTION, result, ""))
    return found


def _corrected(settings: Sequence[Setting]) -> list[Setting]:
    """Correct the p values of each outcome over all comparisons in `settings`, and tell them."""
    done: list[dict[str, list[Finding]]] = [{} for _ in settings]
    for key in settings[0].findings:
        family = [finding.comparison for one in settings for finding in one.findings[key]]
        results = iter(corrected(family))
        for one, into in zip(settings, done, strict=True):
            told = f" at {one.title}" if len(settings) > 1 else ""
            into[key] = [
                replace(
                    finding,
                    comparison=(result := next(results)),
                    sentence=sentence(f"{finding.pair.subject}{told}", result, finding.outcome),
                )
                for finding in one.findings[key]
            ]
    return [replace(one, findings=into) for one, into in zip(settings, done, strict=True)]
