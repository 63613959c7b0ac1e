"""Turn finished runs into findings: a table, a summary per variant, an effect per comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import pandas as pd

from pipeline.ablation.definition import Ablation
from pipeline.errors import shortlist
from pipeline.outcome import mean_of
from pipeline.report.contrasts import Contrast, contrasts
from pipeline.report.effects import find_effects, make_finding, summarize_variants
from pipeline.report.findings import NetworkAnalysis, RateResult, study_outcomes
from pipeline.report.learning_rates import chosen_rates, sign_changes, stuck_notes
from pipeline.runs.plan import LAST
from pipeline.runs.record import LEARNED, RunRecord
from pipeline.statistics.intervals import PLANNED, Design
from pipeline.statistics.outcomes import OutcomeMeasure

TARGET_STEP = 0.05  # the target accuracy is a multiple of this


def analyse(
    ablation: Ablation,
    results: Sequence[RunRecord],
    design: Design = PLANNED,
    value: str = LAST,
) -> NetworkAnalysis:
    """Compare the ablation's variants by `results`: runs of one recipe, at most one per cell.

    Every comparison is paired: it uses the seeds that both variants have. value: which of a run's
    accuracies counts, the last or a mean (`Plan`).
    """
    held_out = results[0].config.validation == "holdout"
    rates = sorted({result.config.lr for result in results})
    trained = {result.config.variant for result in results}
    variants = [variant for variant in ablation.variants if variant in trained]
    compared = contrasts(ablation)
    notes: list[str] = []
    chosen = chosen_rates(variants, results, notes)
    shown = chosen or dict.fromkeys(variants, rates[0])
    target = reachable_accuracy([r for r in results if r.config.lr == shown[r.config.variant]])
    if target is None:
        notes.append("Not every run reaches 5 %, so the time to an accuracy is not compared.")
    split, epochs = "test" if held_out else "validation", results[0].config.epochs
    outcomes = study_outcomes(split, target, epochs, value)
    primary = next(iter(outcomes))
    table = results_table(results, target, value)
    by_id = {result.run_id: result for result in results}
    family = [(f"{lr:g}", dict.fromkeys(variants, lr)) for lr in rates]
    by_rate = _at_rates(family, table, compared, outcomes, design, by_id, notes)
    main = by_rate[0] if len(rates) == 1 else None
    if not main and chosen:
        (main,) = _at_rates([("best", chosen)], table, compared, outcomes, design, by_id, [])
    elif not main:
        notes.append(
            "No learning rate was chosen, which takes held-out images (validation=holdout)."
        )
    notes += stuck_notes(table, variants)
    changes = sign_changes(compared, by_rate, primary)
    return NetworkAnalysis(
        variants=list(ablation.variants),
        design=design,
        table=table,
        primary=primary,
        outcomes=outcomes,
        main=main,
        by_rate=by_rate,
        notes=notes,
        ablation=ablation,
        results=results,
        target=target,
        sign_changes=changes,
    )


def results_table(
    results: Sequence[RunRecord], target: float | None, value: str = LAST
) -> pd.DataFrame:
    """One row per run: its settings, last epoch's metrics, cost, and where it is stored."""
    rows = []
    for result in results:
        metrics = result.history[-1].metrics
        last = {k: v for k, v in metrics.items() if k.endswith(("_loss", "_accuracy"))}
        epochs, seconds = time_to(result, target) if target else (math.nan, math.nan)
        reported = last.get("test_accuracy", last["val_accuracy"])
        if count := mean_of(value):
            accuracies = [epoch.val_accuracy for epoch in result.history[-count:]]
            last[f"val_accuracy_{value}"] = fmean(accuracies)
        rows.append(
            {
                "run": result.config.run_name,
                "variant": result.config.variant,
                "seed": result.config.seed,
                "lr": result.config.lr,
                **last,
                "learning": result.learning or LEARNED,
                "generalisation_gap": last["train_accuracy"] - reported,
                "epochs_to_target": epochs,
                "seconds_to_target": seconds,
                "seconds": result.seconds,
                "images_per_second": np.median(
                    [epoch.images_per_second for epoch in result.history]
                ),
                "parameters": result.num_parameters,
                "model": result.registered.uri if result.registered else "",
                "run_id": result.run_id,
                "commit": result.shown_commit,
                "reused": result.reused,
            }
        )
    return pd.DataFrame(rows)


def reachable_accuracy(results: Sequence[RunRecord]) -> float | None:
    """The highest multiple of 5 % that all validation accuracies reach; None if a guess does."""
    lowest = min(max(epoch.val_accuracy for epoch in result.history) for result in results)
    steps = math.floor(lowest / TARGET_STEP + 1e-9)
    guess = 1 / results[0].num_classes
    return target if (target := round(steps * TARGET_STEP, 2)) > guess else None


def time_to(result: RunRecord, target: float) -> tuple[float, float]:
    """Epochs and seconds (training and validation) until validation reaches `target`; or NaN."""
    for n, epoch in enumerate(result.history, start=1):
        if epoch.val_accuracy >= target:
            return n, sum(before.epoch_seconds for before in result.history[:n])
    return math.nan, math.nan


def _at_rates(
    family: Sequence[tuple[str, dict[str, float]]],
    table: pd.DataFrame,
    compared: Sequence[Contrast],
    outcomes: Mapping[str, OutcomeMeasure],
    design: Design,
    results: Mapping[str, RunRecord],
    notes: list[str],
) -> list[RateResult]:
    """Summarize and compare runs at the learning rates of each label; `notes` gets omissions.

    All comparisons of an outcome in the family hold jointly.
    """
    tables = [table[table["lr"] == table["variant"].map(rates)] for _, rates in family]
    usable = {
        key: [_with_numbers(key, outcome, runs, notes) for runs in tables]
        for key, outcome in outcomes.items()
    }
    effects = {
        key: [find_effects(key, outcomes[key], compared, runs) for runs in tables]
        for key, tables in usable.items()
    }
    settings = []

    def design_of(key: str) -> Design:
        """The margin is the primary outcome's."""
        return design if key == next(iter(outcomes)) else replace(design, margin=0.0)

    for n, (label, rates) in enumerate(family):
        title = f"learning rate {label}"
        if label == "best":
            title = "the best learning rate of each variant"
        where = f" at {title}" if len(family) > 1 else ""
        findings = {
            key: [
                make_finding(one, design_of(key), sum(map(len, each)), results, where)
                for one in each[n]
            ]
            for key, each in effects.items()
        }
        summaries = {
            key: summarize_variants(key, outcomes[key], rates, runs[n], design)
            for key, runs in usable.items()
        }
        shown = {v: lr for v, lr in rates.items() if v in set(tables[n]["variant"])}
        settings.append(RateResult(title, label, shown, tables[n], summaries, findings))
    return settings


def _with_numbers(
    key: str, outcome: OutcomeMeasure, runs: pd.DataFrame, notes: list[str]
) -> pd.DataFrame:
    """Return the runs if the outcome is a number in all of them, else none, with a note."""
    broken = runs.loc[~np.isfinite(runs[key]), "run"]
    if broken.empty:
        return runs
    if not key.endswith("_to_target"):  # its own note says why
        notes.append(
            f"{outcome.name.capitalize()} is not compared: it is not a number in"
            f" {shortlist(broken)}."
        )
    return runs[:0]
