"""Turn finished runs into findings: a table, a summary per variant, an effect per comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.config import VARIANTS
from pipeline.report.findings import (
    COMPARISONS,
    INTERACTION,
    TWO_BY_TWO,
    Analysis,
    Finding,
    Setting,
)
from pipeline.report.learning_rates import chosen_rates, sign_changes
from pipeline.report.statistics import (
    Outcome,
    compare,
    corrected,
    interaction,
    sentence,
    summarize,
)
from pipeline.runs.run_result import RunResult
from pipeline.training.loop import is_stuck

TARGET_STEP = 0.05  # the target accuracy is a multiple of this


def analyse(results: Sequence[RunResult]) -> Analysis:
    """Compare the variants in `results`: runs of one recipe, at most one per cell.

    Every comparison is paired: it uses the seeds that both variants have.
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
            "No learning rate was chosen: that needs images other than the reported ones"
            " (validation=holdout)."
        )
    if table["learning"].eq("stuck").any():
        stuck = table.loc[table["learning"] == "stuck", "run"]
        notes.append(
            f"{len(stuck)} of {len(table)} runs learned nothing: their training loss is still that"
            f" of a random guess (ln 100 = 4.605): {', '.join(stuck)}. An effect that includes them"
            " is about whether a network learns at all."
        )
    changes = sign_changes(by_rate, primary)
    return Analysis(results, table, primary, outcomes, target, main, by_rate, changes, notes)


def results_table(results: Sequence[RunResult], target: float | None) -> pd.DataFrame:
    """One row per run: its settings, last epoch's metrics, cost, and where it is stored."""
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
    """The highest multiple of 5 % that every run's validation accuracy reaches, or None."""
    lowest = min(max(epoch["val_accuracy"] for epoch in result.history) for result in results)
    steps = math.floor(lowest / TARGET_STEP + 1e-9)
    return round(steps * TARGET_STEP, 2) or None


def time_to(result: RunResult, target: float) -> tuple[float, float]:
    """Epochs and seconds (training and validation) until validation reaches `target`; or NaN."""
    for n, epoch in enumerate(result.history, start=1):
        if epoch["val_accuracy"] >= target:
            return n, sum(before["epoch_seconds"] for before in result.history[:n])
    return math.nan, math.nan


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
    """Summarize and compare runs at `rates`; explain any omission in `notes`."""
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
    """Make every comparison that the variants (columns of `by_seed`) allow."""
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
    """Correct each outcome's p values over all comparisons in `settings`; word the findings."""
    done: list[dict[str, list[Finding]]] = [{} for _ in settings]
    for key in settings[0].findings:
        family = [finding.comparison for one in settings for finding in one.findings[key]]
        results = iter(corrected(family))
        for one, into in zip(settings, done, strict=True):
            where = f" at {one.title}" if len(settings) > 1 else ""
            into[key] = [
                replace(
                    finding,
                    comparison=(result := next(results)),
                    sentence=sentence(f"{finding.pair.subject}{where}", result, finding.outcome),
                )
                for finding in one.findings[key]
            ]
    return [replace(one, findings=into) for one, into in zip(settings, done, strict=True)]
