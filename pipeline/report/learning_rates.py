"""The learning rate of each variant, and what depends on it: signs, and learning at all."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from pipeline.report.contrasts import Contrast
from pipeline.report.findings import RateResult
from pipeline.runs.record import STUCK, RunRecord
from pipeline.statistics.sentences import learned_nothing


def chosen_rates(
    variants: Iterable[str], results: Sequence[RunRecord], notes: list[str]
) -> dict[str, float] | None:
    """The learning rate of each variant in `results`: the only one, or the best on held-out images.

    Best by the mean, among the rates with the most finished seeds of the variant: the runs left
    where others failed are not a fair sample. `notes` lists the rates skipped. None if there are
    several and no images were held out.
    """
    config = results[0].config
    trained = {result.config.variant for result in results}
    variants = [variant for variant in variants if variant in trained]
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
                values.append(result.history[-1].val_accuracy)
        most = max(len(values) for values in found.values())
        complete = {lr: np.mean(values) for lr, values in found.items() if len(values) == most}
        best[variant] = max(complete, key=lambda lr: float(complete[lr]))
        passed = ", ".join(f"{lr:g}" for lr in sorted(found.keys() - complete.keys()))
        if passed:
            notes.append(f"Runs of {variant} are missing at learning rate {passed}: not chosen.")
    return best


def sign_changes(
    contrasts: Iterable[Contrast], settings: Sequence[RateResult], key: str
) -> list[str]:
    """Name the comparisons that are a gain at one learning rate and a loss at another.

    Only if both are settled: estimates of a zero effect can have either sign, too.
    """
    sentences = []
    for contrast in contrasts:
        found = [(s, f) for s in settings for f in s.findings[key] if f.contrast == contrast]
        settled = [f.comparison.difference for _, f in found if f.comparison.settled]
        if not settled or not min(settled) < 0 < max(settled):
            continue
        changes = []
        for at_rate, finding in found:
            outcome, difference = finding.outcome, finding.comparison.difference
            state = "" if finding.comparison.settled else " (not settled)"
            change = outcome.show(difference, sign=True, extra=outcome.more_for(difference))
            changes.append(f"{change} {outcome.unit} at {at_rate.title}{state}")
        name = found[0][1].outcome.name
        sentences.append(
            f"The effect of {contrast.subject} on {name} changes its sign with the learning rate:"
            f" {', '.join(changes)}."
        )
    return sentences


def stuck_notes(table: pd.DataFrame, variants: Iterable[str]) -> list[str]:
    """A note for each variant with runs that have learned nothing."""
    notes = []
    for variant in variants:
        runs = table[table["variant"] == variant]
        stuck = runs[runs["learning"] == STUCK]
        if stuck.empty:
            continue
        rates = ", ".join(f"{lr:g}" for lr in sorted(stuck["lr"].unique()))
        where = f" (learning rate {rates})" if table["lr"].nunique() > 1 else ""
        notes.append(
            f"{learned_nothing({variant: len(stuck)}, len(runs))}{where}: the loss is still that of"
            " a uniform guess over the classes. More epochs or another learning rate may help."
        )
    return notes
