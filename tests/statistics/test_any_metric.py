"""Comparisons are right for any metric, tiny or huge, as far as its numbers can be told apart."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import STUDENT
from pipeline.statistics.comparisons import (
    compare_paired,
    detection_power,
    seeds_to_detect,
    summarize,
)
from pipeline.statistics.intervals import ALPHA, PLANNED, Design
from pipeline.statistics.outcomes import OutcomeMeasure

RMSE = OutcomeMeasure("RMSE", "K", decimals=2)
FIXED_WIDTH = Design("fixed-width", "", 0.04)
TREATED = np.array([3.1, 2.7, 3.6, 3.3, 2.9, 3.2])
CONTROLS = np.array([2.8, 2.9, 2.9, 2.7, 2.6, 3.0])
SCALES = [1e-240, 1e-160, 1e-12, 1.0, 1e12, 1e160, 1e240]


def expected(test: object, alpha: float) -> tuple[tuple[float, float], float]:
    """The interval and p value of scipy's t-test."""
    low, high = test.confidence_interval(1 - alpha)  # type: ignore[attr-defined]
    return (low, high), test.pvalue  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("design", [STUDENT, PLANNED])
def test_paired_effects_are_those_of_scipy_at_any_scale(
    design: Design, comparisons: int, scale: float
) -> None:
    alpha = design.alpha / comparisons
    interval, p = expected(stats.ttest_rel(TREATED, CONTROLS), alpha)
    result = compare_paired(TREATED * scale, CONTROLS * scale, RMSE, design, comparisons)
    assert result.interval
    assert np.divide(result.interval, scale) == pytest.approx(interval, rel=1e-9)
    assert result.p_value == pytest.approx(p * comparisons * ALPHA / design.alpha, rel=1e-9)
    assert result.difference / scale == pytest.approx(np.mean(TREATED - CONTROLS), rel=1e-9)
    assert result.sd
    assert result.sd / scale == pytest.approx(np.std(TREATED - CONTROLS, ddof=1), rel=1e-9)
    assert result.correlation == pytest.approx(np.corrcoef(TREATED, CONTROLS)[0, 1], rel=1e-9)
    assert result.unpaired
    welch, _ = expected(stats.ttest_ind(TREATED, CONTROLS, equal_var=False), alpha)
    assert np.divide(result.unpaired, scale) == pytest.approx(welch, rel=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_a_mean_is_right_at_any_scale(scale: float) -> None:
    one = summarize(TREATED * scale, STUDENT)
    known = stats.ttest_1samp(TREATED, 0).confidence_interval(0.95)
    assert one.interval
    assert np.divide(one.interval, scale) == pytest.approx((known.low, known.high), rel=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_floating_point_noise_is_neither_effect_nor_spread(scale: float) -> None:
    treated, controls = np.array([0.62, 0.5, 0.42]), np.array([0.6, 0.48, 0.4])
    assert np.ptp(treated - controls) > 0
    result = compare_paired(treated * scale, controls * scale, RMSE)
    assert (result.sd, result.interval, result.p_value) == (0, None, None)
    assert result.difference == pytest.approx(0.02 * scale)
    sums = np.array([0.1, 0.3]) + np.array([0.2, 0.6])
    nothing = compare_paired(sums * scale, np.array([0.3, 0.9]) * scale, RMSE)
    assert (nothing.difference, nothing.sd) == (0, 0)
    assert compare_paired(sums[:1], [0.3], RMSE).difference == 0
    # Gaps between accuracies: their noise is that of the accuracies.
    gap = summarize((treated - controls) * scale)
    assert (gap.sd, gap.interval) == (0, None)
    interaction = compare_paired(treated - controls, [0.02, 0.02, 0.02], RMSE)
    assert (interaction.difference, interaction.sd) == (0, 0)
    # The first five are equal but for noise, so there is no spread to rest an interval on.
    late = compare_paired([*treated, *treated[:2], 0.6], [*controls, *controls[:2], 0.5], RMSE)
    assert late.interval
    late = compare_paired(
        [*treated, *treated[:2], 0.6], [*controls, *controls[:2], 0.5], RMSE, FIXED_WIDTH
    )
    assert (late.interval, late.p_value) == (None, None)


def test_a_value_that_stands_for_a_failure_hides_no_spread_of_the_others() -> None:
    treated, controls = [3.1, 2.7, 3.6, 1e30], [2.8, 2.9, 2.9, 1e30]
    result = compare_paired(treated, controls, RMSE, STUDENT)
    known = stats.ttest_1samp(np.subtract(treated, controls), 0)
    assert result.p_value == pytest.approx(known.pvalue)
    assert result.difference == pytest.approx(0.2)


def test_a_spread_of_a_billionth_is_a_spread() -> None:
    treated = 1 + 1e-11 * TREATED
    assert summarize(treated).sd == pytest.approx(1e-11 * TREATED.std(ddof=1), rel=1e-4)
    result = compare_paired(treated, 1 + 1e-11 * CONTROLS, RMSE, STUDENT)
    assert result.p_value == pytest.approx(stats.ttest_rel(TREATED, CONTROLS).pvalue, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-310, 1e300, 4e307])
def test_numbers_beyond_what_can_be_computed_with_are_refused(scale: float) -> None:
    for wrong in (
        lambda: summarize(TREATED * scale),
        lambda: compare_paired(TREATED * scale, CONTROLS * scale, RMSE),
    ):
        with pytest.raises(ValueError, match="can't be compared; scale them"):
            wrong()
    for bad in ([], [np.nan, 1.0], [[1.0]], [np.inf]):
        with pytest.raises(ValueError, match="one finite number per seed or run"):
            compare_paired(bad, CONTROLS, RMSE)


def test_a_certain_effect_takes_the_fewest_seeds() -> None:
    # scipy's noncentral t is NaN there.
    assert np.isnan(stats.nct.sf(2.0, 4, 1e10))
    assert detection_power(1.0, 1e-300, 5, 2.0) == 1
    assert seeds_to_detect(1.0, 1e-300, 1, STUDENT) == 2
