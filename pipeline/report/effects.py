"""The effects of variants on an outcome: what is compared, and what comes of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.report.contrasts import Contrast
from pipeline.report.findings import Finding
from pipeline.runs.record import RunRecord
from pipeline.statistics.comparisons import (
    Floats,
    Summary,
    compare_paired,
    compare_unpaired,
    summarize,
)
from pipeline.statistics.images import with_other_images
from pipeline.statistics.intervals import Design
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.possible import shown_comparison, with_shown
from pipeline.statistics.sentences import sentence

NO_RECORDS: Mapping[str, RunRecord] = MappingProxyType({})


class Effect(NamedTuple):
    """What is compared: a treatment and a control, one number for each of `runs`' seeds.

    If they are not paired, one number for each run. means: of each of the contrast's variants.
    runs: ids by seed (row), of these; none if they are not paired.
    """

    key: str  # the outcome's column
    outcome: OutcomeMeasure
    contrast: Contrast
    treatment: Floats
    control: Floats
    means: Sequence[float]
    runs: Sequence[Sequence[str]]


def summarize_variants(
    key: str, outcome: OutcomeMeasure, variants: Iterable[str], runs: pd.DataFrame, design: Design
) -> dict[str, Summary]:
    """Summarize an outcome of each variant."""
    values = {variant: rows[key] for variant, rows in runs.groupby("variant")}
    return {
        v: with_shown(summarize(values[v], design), outcome, design)
        for v in variants
        if v in values
    }


def find_effects(
    key: str,
    outcome: OutcomeMeasure,
    compared: Sequence[Contrast],
    runs: pd.DataFrame,
    pair: str = "seed",
) -> list[Effect]:
    """List every comparison of an outcome that the runs allow.

    pair: the column by which they are paired; empty for independent samples.
    """
    if not pair:
        return _between(key, outcome, compared, runs)
    values = runs.pivot(index=pair, columns="variant", values=key).sort_index(key=_in_order)
    run_ids = runs.pivot(index=pair, columns="variant", values="run_id")
    found = []
    for one in compared:
        variants = list(one.variants)
        if set(variants) <= set(values) and len(known := values[variants].dropna()):
            ids = run_ids.loc[known.index, variants].to_numpy()
            treatment, control = (
                known[first].to_numpy() - sum(known[other].to_numpy() for other in rest)
                for first, *rest in (one.treatment, one.control)
            )
            name = f"{one.effect} on {outcome.name}" if one.effect else outcome.name
            named = replace(outcome, name=name)
            means = list(known.mean())
            found.append(Effect(key, named, one, treatment, control, means, ids))
    return found


def _in_order(pairs: "pd.Index[Any]") -> "pd.Index[Any]":
    """Seeds as numbers, if they are texts: 2 comes before 10."""
    numbers = pd.to_numeric(pairs, errors="coerce")
    return pairs if numbers.hasnans else pd.Index(numbers)


def _between(
    key: str, outcome: OutcomeMeasure, compared: Sequence[Contrast], runs: pd.DataFrame
) -> list[Effect]:
    """The comparisons of independent samples. An interaction has four: it takes pairs."""
    values = {variant: rows[key].dropna().to_numpy() for variant, rows in runs.groupby("variant")}
    return [
        Effect(key, outcome, one, treatment, control, [treatment.mean(), control.mean()], ())
        for one in compared
        if not one.effect
        for treatment, control in [[values.get(v, np.empty(0)) for v in one.variants]]
        if len(treatment) and len(control)
    ]


def make_finding(
    effect: Effect,
    design: Design,
    comparisons: int,
    records: Mapping[str, RunRecord] = NO_RECORDS,
    where: str = "",
    noun: str = "seed",
) -> Finding:
    """Compare an outcome, jointly with `comparisons`.

    records: of the runs by id, if they are of networks. where: ends the subject of the sentence.
    noun: what a pair is; runs that are not paired are runs.
    """
    compare = compare_paired if len(effect.runs) else compare_unpaired
    result = compare(effect.treatment, effect.control, effect.outcome, design, comparisons)
    if effect.contrast.effect:  # an interaction has no two variants to pair
        result = replace(result, correlation=None, unpaired=None)
    if records and "_accuracy" in effect.key:
        images = _image_differences(effect, records)
        if images is not None:
            result = with_other_images(result, images, design.alpha / comparisons)
    shown = shown_comparison(result, effect.outcome, effect.means)
    stuck = _stuck_runs(effect, records) if records else {}
    subject, singular = f"{effect.contrast.subject}{where}", effect.contrast.singular
    words = sentence(subject, shown, effect.outcome, stuck, noun, singular)
    return Finding(effect.key, effect.outcome, effect.contrast, result, shown, words)


def _image_differences(
    effect: Effect, records: Mapping[str, RunRecord]
) -> npt.NDArray[np.int8] | None:
    """`[seeds, images]`, treatment minus control of correctness; None if a run lacks it.

    After the last epoch. A mean over epochs depends less on the images, so its interval is rather
    too long.
    """
    known = [[records[run_id].correct for run_id in ids] for ids in effect.runs]
    if len(known) < 2 or any(one is None for row in known for one in row):
        return None
    signs = np.array(effect.contrast.signs, dtype=np.int8)[:, None]
    return np.array([(signs * np.array(row, dtype=np.int8)).sum(axis=0) for row in known])


def _stuck_runs(effect: Effect, records: Mapping[str, RunRecord]) -> dict[str, int]:
    """How many of an effect's runs have learned nothing, by variant; none that has no such run."""
    runs = zip(effect.contrast.variants, zip(*effect.runs, strict=True), strict=True)
    stuck = {v: sum(records[one].is_stuck for one in ids) for v, ids in runs}
    return {variant: count for variant, count in stuck.items() if count}
