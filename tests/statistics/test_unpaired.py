"""Independent samples: against scipy, by hand, and in simulated studies."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import STUDENT
from benchmarks.unpaired import CHOSEN, GROWTHS, critical_t, false_alarms
from pipeline.statistics.comparisons import Comparison, compare_paired, compare_unpaired
from pipeline.statistics.intervals import ALPHA, ANYTIME, LATER, PLANNED, Design, anytime_t
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.sentences import sentence

RMSE = OutcomeMeasure("RMSE", "K", decimals=2)
FIXED_WIDTH = Design("fixed-width", "", 0.04)
TREATED = np.array([3.1, 2.7, 3.6, 3.3, 2.9, 3.2])
CONTROLS = np.array([2.8, 2.9, 2.9, 2.7, 2.6, 3.0])
OTHERS = np.array([2.0, 3.6, 2.2, 2.9])  # of runs that nothing pairs with TREATED
SCALES = [1e-240, 1e-160, 1e-12, 1.0, 1e12, 1e160, 1e240]


def expected(test: object, alpha: float) -> tuple[tuple[float, float], float]:
    """The interval and p value of scipy's t-test."""
    low, high = test.confidence_interval(1 - alpha)  # type: ignore[attr-defined]
    return (low, high), test.pvalue  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("design", [STUDENT, PLANNED])
def test_independent_samples_have_welch_s_t_test(
    design: Design, comparisons: int, scale: float
) -> None:
    test = stats.ttest_ind(TREATED, OTHERS, equal_var=False)
    interval, p = expected(test, design.alpha / comparisons)
    result = compare_unpaired(TREATED * scale, OTHERS * scale, RMSE, design, comparisons)
    assert result.interval
    assert np.divide(result.interval, scale) == pytest.approx(interval, rel=1e-9)
    wanted = min(1.0, p * comparisons * ALPHA / design.alpha)
    assert result.p_value == pytest.approx(wanted, rel=1e-9)
    assert (result.sizes, result.seeds) == ((6, 4), 4)
    assert (result.correlation, result.unpaired) == (None, None)
    assert compare_paired(TREATED, CONTROLS, RMSE).sizes is None
    assert result.sd
    both = TREATED.var(ddof=1) + OTHERS.var(ddof=1)
    assert result.sd / scale == pytest.approx(np.sqrt(both), rel=1e-9)


def test_the_sequence_of_independent_samples_by_hand() -> None:
    treated, others = np.arange(8.0), np.array([5.0, 9, 6, 8, 7, 7.5, 6.5, 9.5, 3.5, 10])
    one, other = treated.var(ddof=1) / 8, others.var(ddof=1) / 10
    welch = stats.ttest_ind(treated, others, equal_var=False).df
    size = (treated.var(ddof=1) + others.var(ddof=1)) / (one + other)
    t = anytime_t(size, ALPHA / 2, 2, stats.hmean([welch, 7]))
    half = t * np.sqrt(one + other)
    result = compare_unpaired(treated, others, RMSE, ANYTIME, 2)
    mean = treated.mean() - others.mean()
    assert result.interval == pytest.approx((mean - half, mean + half))
    # It begins where that of pairs does.
    assert compare_unpaired(treated[:4], others, RMSE, ANYTIME).interval is None
    assert compare_unpaired(treated[:5], others, RMSE, ANYTIME).interval
    assert compare_unpaired(treated[:5], others, RMSE, LATER).interval is None
    # The rule that was simulated: with equal sizes and variances.
    equal = compare_unpaired(treated, treated + 1, RMSE, ANYTIME)
    assert equal.interval
    reach = (equal.interval.high - equal.interval.low) / 2 / np.sqrt(2 * one)
    assert reach == pytest.approx(critical_t(CHOSEN, 8))


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("variance", [1, 16])
def test_looking_at_independent_samples_raises_few_false_alarms(
    variance: float, growth: str
) -> None:
    alarms = false_alarms("normal", growth, variance, studies=3_000)
    assert all(0 < share < 0.05 for share in alarms[CHOSEN][[0, 2]])  # 1 and 3 comparisons
    assert alarms[CHOSEN][1] < 0.01
    # What the rule is for: Welch's degrees of freedom alone, from the first look on.
    assert alarms["Welch's"].sum() > 1.5 * alarms[CHOSEN].sum()


@pytest.mark.thorough
def test_the_false_alarms_of_independent_samples_are_as_stated() -> None:
    found = {
        growth: [100 * false_alarms("normal", growth, v, 60_000)[CHOSEN][0] for v in (1, 4, 16)]
        for growth in ("1:1", "1:3", "random")
    }
    assert found["1:1"] == pytest.approx([1.5, 1.8, 2.3], abs=0.1)
    assert found["1:3"] == pytest.approx([1.6, 2.4, 2.6], abs=0.1)
    assert found["random"] == pytest.approx([1.6, 1.9, 2.2], abs=0.1)


def test_independent_samples_without_spread_or_with_one_run_invent_no_interval() -> None:
    one = compare_unpaired([0.3], [0.1, 0.2, 0.3], RMSE)
    assert (one.sizes, one.sd, one.interval, one.p_value) == ((1, 3), None, None, None)
    equal = compare_unpaired([0.1] * 3, [0.1] * 6, RMSE)  # whose sums differ in their last bits
    assert (equal.difference, equal.sd, equal.interval) == (0, 0, None)
    # One of them has a spread: that of the other is taken as it is, as Welch's test does.
    with pytest.warns(RuntimeWarning, match="nearly identical"):
        known = stats.ttest_ind([1.0] * 3, [2.0, 3.0, 4.5], equal_var=False)
    half = compare_unpaired([1.0] * 3, [2.0, 3.0, 4.5], RMSE, STUDENT)
    assert half.p_value == pytest.approx(known.pvalue)
    with pytest.raises(ValueError, match="fixed-width design needs seeds that are paired"):
        compare_unpaired(TREATED, OTHERS, RMSE, FIXED_WIDTH)
    for wrong, why in (([], "one finite number per"), ([1e300], "scale them to between")):
        with pytest.raises(ValueError, match=why):
            compare_unpaired(TREATED, wrong, RMSE)


def test_runs_to_settle_of_independent_samples_have_the_power() -> None:
    margin = replace(RMSE, effect_of_interest=0.9)
    result = compare_unpaired(TREATED, OTHERS, margin, ANYTIME)
    assert result.seeds_to_settle
    random, studies = np.random.default_rng(0), 400
    sds = TREATED.std(ddof=1), OTHERS.std(ddof=1)
    settled = sum(
        compare_unpaired(
            random.normal(0.9, sds[0], result.seeds_to_settle),
            random.normal(0, sds[1], result.seeds_to_settle),
            RMSE,
            ANYTIME,
        ).settled
        for _ in range(studies)
    )
    assert 0.75 < settled / studies < 0.9


def test_sentences_count_what_pairs_the_runs_or_the_runs() -> None:
    better = compare_paired(CONTROLS + np.array([1, 1.1, 1, 1, 0.9, 1]), CONTROLS, RMSE)
    assert sentence("it", better, RMSE, noun="data set") == (
        "It raises RMSE by 1.00 K (95 % CI 0.93 to 1.07, 6 data sets)."
    )
    apart = compare_unpaired(TREATED + 2, OTHERS, RMSE)
    said = sentence("it", apart, RMSE, noun="run")
    assert said.startswith("It raises RMSE by 2.46 K (95 % CI ")
    assert said.endswith(", 6 and 4 runs).")
    alone = compare_unpaired([2.0], [1.0, 2.0], RMSE)
    assert sentence("it", alone, RMSE, noun="run") == (
        "It raises RMSE by 0.50 K in 1 and 2 runs, which give no uncertainty: not settled."
    )
    assert sentence("it", compare_paired([2], [1], RMSE), RMSE, noun="fold") == (
        "It raises RMSE by 1.00 K in one fold, which gives no uncertainty: not settled."
    )
    equal = compare_unpaired([2.0, 2.0], [1.0] * 3, RMSE)
    assert sentence("it", equal, RMSE, noun="run") == (
        "It raises RMSE by 1.00 K in 2 and 3 runs, without any spread."
    )
    known = replace(RMSE, effect_of_interest=0.5)
    open_ = compare_unpaired(TREATED, OTHERS, known)
    assert sentence("it", open_, known, noun="run").endswith(
        f" runs). About {open_.seeds_to_settle} runs of each would settle a true effect of 0.5 K"
        " with 80 % probability."
    )


@pytest.mark.parametrize("design", [PLANNED, LATER, ANYTIME])
@pytest.mark.parametrize("compare", [compare_paired, compare_unpaired])
def test_an_interval_excludes_0_exactly_if_p_is_below_5_percent(
    compare: Callable[..., Comparison], design: Design
) -> None:
    random, settled = np.random.default_rng(1), 0
    for _ in range(400):
        comparisons, (one, other) = int(random.integers(1, 4)), random.integers(6, 15, 2)
        treated = random.normal(random.uniform(0, 3), 1, one)
        size = one if compare is compare_paired else other
        others = random.normal(0, random.uniform(0.2, 3), size)
        result = compare(treated, others, RMSE, design, comparisons)
        assert result.interval
        assert result.p_value
        assert result.settled == (result.p_value < ALPHA)
        settled += result.settled
    assert 20 < settled < 380
