"""Intervals of a chosen half-length: they cover, keep the margin, and take fewer seeds."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from benchmarks.growing import FAMILIES, margin_study, worst_errors
from benchmarks.studies import fixed_width as simulated
from benchmarks.studies import two_stage
from pipeline.statistics.comparisons import compare_paired
from pipeline.statistics.fixed_width import critical_t, half_width, p_value
from pipeline.statistics.intervals import ALPHA, PLANNED_ALPHA, Design, seeds_for_margin
from pipeline.statistics.outcomes import OutcomeMeasure

ACCURACY = OutcomeMeasure("validation accuracy", "points", scale=100, effect_of_interest=0.01)
DESIGN = Design("fixed-width", "", PLANNED_ALPHA, margin=0.5)


def grown(seed: int, sd: float, effect: float = 0.4) -> np.ndarray:
    """Differences in points, added one by one until the interval is short enough."""
    random = np.random.default_rng(seed)
    values = random.normal(effect, sd, 5)
    while half_width(values, PLANNED_ALPHA, 0.5) > 0.5:
        values = np.append(values, random.normal(effect, sd))
    return values


@pytest.mark.parametrize("sd", [0.2, 0.5, 0.85, 1.5])
def test_the_interval_is_the_margin_once_the_spread_is_small_enough(sd: float) -> None:
    for seed in range(20):
        values = grown(seed, sd)
        interval = compare_paired(values / 100, np.zeros(len(values)), ACCURACY, DESIGN).interval
        assert interval
        half = 50 * (interval.high - interval.low)
        student = critical_t(len(values), PLANNED_ALPHA) * values.std(ddof=1) / sqrt(len(values))
        if len(values) == 5:  # at the first look it may be shorter
            assert half == pytest.approx(student)
        else:
            assert student <= half == pytest.approx(0.5)


def test_what_was_bought_is_kept_if_other_effects_need_more_seeds() -> None:
    values = grown(3, 0.85)
    reached = len(values)
    # Wherever the later seeds lie, and however far apart: they did not decide about this one.
    for more in (np.full(10, 0.4), np.random.default_rng(4).normal(0, 9, 10)):
        longer = np.append(values, more)
        assert half_width(longer, PLANNED_ALPHA, 0.5) == pytest.approx(
            0.5 * sqrt(reached / len(longer))
        )


def test_without_enough_seeds_it_is_as_long_as_the_spread_makes_it() -> None:
    values = np.random.default_rng(5).normal(0, 3, 12)
    half = stats.t.isf(0.04 * 12 / (12 + 5 * np.log(25)) / 2, 11) * values.std(ddof=1) / sqrt(12)
    assert half_width(values, 0.04, 0.5) == pytest.approx(half)
    assert half_width(values, 0.04, 0.0) == pytest.approx(half)  # of a secondary outcome
    assert seeds_for_margin(3, 0.5, 12, 1000, 1, DESIGN) > 100


@pytest.mark.parametrize("comparisons", [1, 3])
def test_interval_and_p_value_agree(comparisons: int) -> None:
    for seed in range(12):
        values = grown(seed, 0.85, effect=0)
        half = DESIGN.half_width(values, comparisons, 0.5)
        for share in (0.999, 1.001):
            moved = values - values.mean() + share * half
            p = DESIGN.p_value_of(moved, comparisons, 0.5)
            assert (p < ALPHA) == (share > 1)
    assert p_value(np.array([1.0, 1.1, 0.9, 1.0, 1.05]) * 1e6, 0.5) < 1e-4
    assert p_value(np.array([1.0, -1.0, 2.0, -2.0, 0.0]), 0.5) == 1


@pytest.mark.parametrize("comparisons", FAMILIES)
def test_intervals_cover_whatever_the_spread_and_the_limit(comparisons: int) -> None:
    assert 0.7 < worst_errors((200,), comparisons, 5_000) < 0.95
    assert worst_errors((7, 10, 15, 30), comparisons, 2_000) < 0.95


def test_it_takes_far_fewer_seeds_than_two_stages() -> None:
    before, after = (
        [margin_study(rule, 0.5 / 0.85, 400, count, 3_000)[1] for count in (1, 3)]
        for rule in (two_stage, simulated)
    )
    assert before == pytest.approx([27, 53], abs=2)
    assert after == pytest.approx([17.7, 24.2], abs=0.5)


def test_the_simulation_takes_the_same_decisions() -> None:
    drawn = np.random.default_rng(6).normal(0, 1, (40, 30))
    seeds, bought = simulated(drawn, 0.6, 30, 3)
    for study, count, root in zip(drawn, seeds, bought, strict=True):
        half = half_width(study[:count], PLANNED_ALPHA / 3, 0.6)
        assert half * sqrt(count) == pytest.approx(root)
        if count < 30:
            assert half <= 0.6
        if count > 5:
            assert half_width(study[: count - 1], PLANNED_ALPHA / 3, 0.6) > 0.6
