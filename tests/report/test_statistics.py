"""Effects and their uncertainty: against published numbers, and against simulated studies.

Simulated studies look like real ones: accuracies whose seeds spread by 0.5 points, most of it
shared by the variants of a seed. All random numbers are seeded. Where a rate is compared with its
nominal value, the tolerance is at least three standard errors of the simulation.
"""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from pipeline.report.statistics import (
    ALPHA,
    BCA_MIN_SEEDS,
    POWER,
    Comparison,
    Floats,
    Interval,
    Outcome,
    Summary,
    bca_interval,
    compare,
    corrected,
    detectable_effect,
    detection_power,
    holm,
    interaction,
    seeds_to_detect,
    sentence,
    summarize,
    t_test,
)

ACCURACY = Outcome("validation accuracy", "points", scale=100)
LOSS = Outcome("validation loss", "nats", decimals=3, higher_is_better=False)

# Hours of extra sleep of ten patients with two drugs (Student 1908), R's data set `sleep`.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

OWN_SD, SHARED_SD = 0.003, 0.004  # together the seeds of a variant spread by 0.005
DIFFERENCE_SD = OWN_SD * sqrt(2)


def accuracies(
    rng: np.random.Generator, studies: int, seeds: int, effects: tuple[float, ...]
) -> Floats:
    """Accuracies `[studies, variants, seeds]`, where variant i is at 0.43 + effects[i]."""
    shared = rng.normal(0, SHARED_SD, (studies, 1, seeds))
    own = rng.normal(0, OWN_SD, (studies, len(effects), seeds))
    accuracy: Floats = 0.43 + np.array(effects)[:, None] + shared + own
    return accuracy


def covered(interval: Interval, truth: float) -> float:
    """Fraction of many intervals that hold the truth."""
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


# Published numbers


def test_the_paired_comparison_of_r_s_sleep_data() -> None:
    # R: t.test(extra ~ group, data = sleep, paired = TRUE) prints t = -4.0621, df = 9,
    # p-value = 0.002833, -2.4598858 -0.7001142, mean of the differences -1.58.
    result = compare(DRUG_1, DRUG_2, Outcome("sleep", "hours"))
    assert result.seeds == 10
    assert result.difference == pytest.approx(-1.58)
    assert result.interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    # R: sd(diffs) is 1.229995, as power.t.test shows it below.
    assert result.sd == pytest.approx(1.229995, abs=5e-7)
    # Drug 2 was better for nine patients, and one slept the same with both.
    assert result.probability == pytest.approx(0.05)


def test_a_variant_of_r_s_sleep_data() -> None:
    # R: t.test(sleep$extra[1:10]) in terms of Student's table: mean 0.75, sd 1.789010,
    # and t(0.975, 9) = 2.262157.
    result = summarize(DRUG_1)
    assert result.seeds == 10
    assert result.mean == pytest.approx(0.75)
    assert result.sd == pytest.approx(1.789010, abs=5e-7)
    half_width = 2.262157 * 1.789010 / np.sqrt(10)
    assert result.interval == pytest.approx((0.75 - half_width, 0.75 + half_width), abs=1e-5)


@pytest.mark.parametrize(
    ("effect", "sd", "pairs", "power"),
    [
        # Dalgaard, Introductory Statistics with R, 2nd edition 2008, section 8.3.
        (10, 10 * sqrt(2), 19.96892, 0.85),
        # R: power.t.test(delta = 0.5, sd = 1, power = 0.8, type = "paired")
        (0.5, 1, 33.3672, 0.80),
        # R: power.t.test(delta = 1.58, sd = 1.229995, power = 0.80, type = "paired"), of `sleep`
        (1.58, 1.229995, 6.912532, 0.80),
        # R: power.t.test(delta = 0.18, sd = 0.41, power = 0.9, type = "paired")
        (0.18, 0.41, 56.47119, 0.90),
    ],
)
def test_power_is_that_of_r_s_power_t_test(
    effect: float, sd: float, pairs: float, power: float
) -> None:
    # R solves for a fractional number of pairs; the formula takes one too.
    assert detection_power(effect, sd, pairs) == pytest.approx(power, abs=2e-5)  # type: ignore[arg-type]
    assert detection_power(-effect, sd, pairs) == detection_power(effect, sd, pairs)  # type: ignore[arg-type]


def test_seeds_to_detect_rounds_r_s_answer_up() -> None:
    assert seeds_to_detect(0.5, 1) == 34  # 33.3672
    assert seeds_to_detect(1.58, 1.229995) == 7  # 6.912532


def test_holm_s_correction_of_a_published_example() -> None:
    # The documentation of pingouin.multicomp, method "holm".
    p_values = [0.50, 0.003, 0.32, 0.054, 0.0003]
    assert holm(p_values) == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])


def test_holm_s_correction_by_hand() -> None:
    # Three of them: 0.01 x 3, then 0.02 x 2 = 0.04, then 0.03 x 1, which may not be below 0.04.
    assert holm([0.03, None, 0.01, 0.02]) == [0.04, None, 0.03, 0.04]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None]) == [None]


# Simulated studies


@pytest.mark.parametrize("seeds", [3, 5, 10, 30])
def test_t_intervals_cover_the_true_effect_in_95_of_100_studies(seeds: int) -> None:
    studies = accuracies(np.random.default_rng(seeds), 50_000, seeds, (0.0, 0.062))
    effects, _ = t_test(studies[:, 1] - studies[:, 0])
    means, _ = t_test(studies[:, 0])
    # A standard error is 0.001; the promise to the reader is 0.93 to 0.97.
    assert covered(effects, 0.062) == pytest.approx(0.95, abs=0.004)
    assert covered(means, 0.43) == pytest.approx(0.95, abs=0.004)
    # What was counted is what a comparison and a summary say.
    for i, (base, bn) in enumerate(studies[:20]):
        found = compare(bn, base, ACCURACY).interval
        assert found == pytest.approx((effects.low[i], effects.high[i]))  # type: ignore[index]
        assert summarize(base).interval == pytest.approx((means.low[i], means.high[i]))  # type: ignore[index]


def bca_intervals(differences: Floats, rng: np.random.Generator, resamples: int) -> Interval:
    """BCa intervals of the mean of many studies `[studies, seeds]` that share their resamples.

    Efron and Tibshirani 1993, equations 14.9, 14.10 and 14.15, apart from scipy's implementation.
    """
    studies, seeds = differences.shape
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    means = np.sort(differences @ drawn.T, axis=1)
    mean = differences.mean(axis=1, keepdims=True)
    near = 1e-9 * np.ptp(differences, axis=1, keepdims=True)  # the same mean, but for rounding
    below = ((means < mean - near).mean(axis=1) + (means <= mean + near).mean(axis=1)) / 2
    bias = ndtri(below)
    deviation = differences - mean
    acceleration = (deviation**3).sum(axis=1) / (6 * (deviation**2).sum(axis=1) ** 1.5)
    bounds = []
    for z in ndtri([ALPHA / 2, 1 - ALPHA / 2]):
        quantile = ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        position = quantile * (resamples - 1)
        left = position.astype(int).clip(0, resamples - 2)
        rows, part = np.arange(studies), position - left
        bounds.append(means[rows, left] * (1 - part) + means[rows, left + 1] * part)
    return Interval(*bounds)


def coverages(
    draw: Callable[[tuple[int, int]], Floats], seeds: int, studies: int = 40_000
) -> tuple[float, float]:
    """Coverage of the t and the BCa interval (2,000 resamples) for differences with mean 0."""
    rng = np.random.default_rng(seeds)
    block, found = 500, []
    for _ in range(studies // block):
        differences = draw((block, seeds))
        bca = bca_intervals(differences, rng, 2_000)
        found.append((covered(t_test(differences)[0], 0), covered(bca, 0)))
    by_t, by_bca = np.mean(found, axis=0)
    return by_t, by_bca


@pytest.mark.parametrize("seeds", [3, 5, 10, 20, 30, 50])
def test_bca_may_be_relied_on_from_the_stated_number_of_seeds_on(seeds: int) -> None:
    rng = np.random.default_rng(1000 + seeds)
    _, by_bca = coverages(lambda shape: rng.normal(0, DIFFERENCE_SD, shape), seeds)
    assert (0.93 <= by_bca <= 0.97) == (seeds >= BCA_MIN_SEEDS)


def test_both_intervals_are_too_short_for_a_few_very_skewed_differences() -> None:
    rng = np.random.default_rng(3)

    def skewed(shape: tuple[int, int]) -> Floats:
        return DIFFERENCE_SD * (rng.exponential(1, shape) - 1)

    by_t, by_bca = coverages(skewed, 10)
    assert by_bca < by_t < 0.93  # so BCa is no way out
    by_t, by_bca = coverages(skewed, 50)
    assert 0.93 < by_t < 0.95
    assert 0.93 < by_bca < 0.95


@pytest.mark.parametrize("seeds", [5, 10, 30])
def test_the_module_s_bca_interval_is_the_simulated_one(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    differences = rng.exponential(DIFFERENCE_SD, (50, seeds))
    expected = np.transpose(bca_intervals(differences, rng, 20_000))
    found = np.array([bca_interval(row) for row in differences])
    # In parts of the width. Resampling alone moves an end by about 1 %.
    apart = np.abs(found - expected) / np.ptp(expected, axis=1, keepdims=True)
    assert apart.mean() < 0.015
    assert apart.max() < 0.1


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "truth", [(0.0, 0.0, 0.0), (0.0, 0.062, 0.062)], ids=["no effect", "bn alone"]
)
def test_false_alarms_stay_within_5_of_100_studies_after_holm_s_correction(
    seeds: int, truth: tuple[float, float, float]
) -> None:
    studies = 20_000
    base, bn, dropout = np.moveaxis(
        accuracies(np.random.default_rng(seeds), studies, seeds, truth), 1, 0
    )
    _, p_values = t_test(np.stack([bn - base, dropout - bn, dropout - base], axis=1))
    is_null = np.array([truth[1] == truth[0], truth[2] == truth[1], truth[2] == truth[0]])
    adjusted = np.array([holm(family) for family in np.asarray(p_values).tolist()])
    three_errors = 3 * np.sqrt(0.05 * 0.95 / studies)
    assert np.mean((adjusted < ALPHA)[:, is_null].any(axis=1)) <= 0.05 + three_errors
    if is_null.all():  # the correction is needed
        assert np.mean((np.asarray(p_values) < ALPHA).any(axis=1)) > 0.10


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 30])
def test_the_detectable_effect_is_detected_in_80_of_100_studies(seeds: int) -> None:
    effect = detectable_effect(DIFFERENCE_SD, seeds)
    studies = accuracies(np.random.default_rng(seeds), 50_000, seeds, (0.0, effect))
    differences = studies[:, 1] - studies[:, 0]
    interval, p_value = t_test(differences)
    detected = (np.asarray(p_value) < ALPHA) & (differences.mean(axis=1) > 0)
    assert detected.mean() == pytest.approx(POWER, abs=0.006)  # a standard error is 0.0018
    assert np.array_equal(detected, np.asarray(interval.low) > 0)


@pytest.mark.parametrize("sd", [0.0001, 0.001, 0.005, 0.02, 1.0])
def test_seeds_to_settle_is_the_smallest_number_that_reaches_the_power(sd: float) -> None:
    seeds = seeds_to_detect(0.01, sd)
    assert detection_power(0.01, sd, seeds) >= POWER
    assert detectable_effect(sd, seeds) <= 0.01
    assert seeds == 2 or detection_power(0.01, sd, seeds - 1) < POWER


# What a comparison says


def test_probability_of_outperforming_counts_seeds_and_halves_ties() -> None:
    bn, base = [0.3, 0.5, 0.4, 0.6], [0.2, 0.4, 0.4, 0.7]
    assert compare(bn, base, ACCURACY).probability == 0.625  # two wins and a tie of four
    assert compare(bn, base, LOSS).probability == 0.375  # where lower is better


def test_pairing_removes_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.43, 0.05, 10)  # seeds ten times as different as variants
    result = compare(base + rng.normal(0.01, 0.005, 10), base, ACCURACY)
    assert result.sd == pytest.approx(0.005, rel=0.5)
    assert result.settled


def test_the_interaction_is_the_difference_of_two_differences() -> None:
    base, bn = [0.40, 0.42, 0.41], [0.47, 0.48, 0.49]
    base_dropout, dropout = [0.41, 0.44, 0.44], [0.50, 0.52, 0.54]
    result = interaction(base, bn, base_dropout, dropout, ACCURACY)
    # 0.03 - 0.01, 0.04 - 0.02 and 0.05 - 0.03, which are equal but for rounding
    assert result.difference == pytest.approx(0.02)
    assert (result.sd, result.interval) == (0, None)
    result = interaction(base, bn, base_dropout, [0.50, 0.52, 0.57], ACCURACY)
    assert result == compare([0.02, 0.02, 0.05], [0, 0, 0], ACCURACY)
    outcome = replace(ACCURACY, name="dropout's effect on validation accuracy")
    assert sentence("BatchNorm", result, outcome) == (
        "Whether BatchNorm changes dropout's effect on validation accuracy is not settled: "
        "+3.0 points (95 % CI -1.3 to +7.3, 3 seeds). About 23 more seeds would settle an effect "
        "of 1 point."
    )


def test_the_same_numbers_give_the_same_comparison() -> None:
    assert compare(DRUG_1, DRUG_2, LOSS) == compare(np.array(DRUG_1), np.array(DRUG_2), LOSS)


def test_one_seed_shows_everything_and_invents_no_interval() -> None:
    assert compare([0.49], [0.43], ACCURACY) == Comparison(1, 0.06, 1.0, sd=None)
    assert summarize([0.43]) == Summary(1, 0.43, sd=None, interval=None)


@pytest.mark.filterwarnings("error")
def test_seeds_without_spread_give_no_interval() -> None:
    # 0.3 - 0.2 and 0.4 - 0.3 differ by rounding.
    assert compare([0.3, 0.4], [0.2, 0.3], ACCURACY) == Comparison(2, 0.1, 1.0, sd=0.0)
    assert compare([0.01] * 5, [0.01] * 5, ACCURACY) == Comparison(5, 0.0, 0.5, sd=0.0)
    assert summarize([0.01] * 5) == Summary(5, 0.01, sd=0.0, interval=None)


@pytest.mark.filterwarnings("error")
def test_few_seeds_and_many_ties_give_finite_numbers() -> None:
    two = compare([0.45, 0.46], [0.43, 0.43], ACCURACY)
    assert two.bootstrap is None  # of two differences it could only be the two
    assert two.interval is not None
    for gains in ([0, 0, 1], [0, 1, 1, 0], [-1, 0, 1], [0, 0, 0, 0, 1e-4], [1, 1, 1, 1e6]):
        result = compare(gains, np.zeros(len(gains)), ACCURACY)
        assert result.interval is not None
        assert result.bootstrap is not None
        assert min(gains) <= result.bootstrap.low <= result.difference
        assert result.difference <= result.bootstrap.high <= max(gains)
        assert 0 < (result.p_value or 0) <= 1


@pytest.mark.parametrize(
    ("bn", "base"), [([0.5, 0.6], [0.5]), ([], []), ([0.5, np.nan], [0.5, 0.5]), (0.5, 0.4)]
)
def test_numbers_that_cannot_be_paired_are_refused(bn: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match="seed"):
        compare(bn, base, ACCURACY)


# Sentences

BATCH_NORM = Comparison(
    10, 0.0621, 1.0, 0.0077, Interval(0.0566, 0.0676), p_value=1e-9, seeds_to_settle=7
)
UNSETTLED = Comparison(
    5, 0.0021, 0.6, 0.008, Interval(-0.0078, 0.0120), p_value=0.58, seeds_to_settle=8
)


def negated(comparison: Comparison) -> Comparison:
    low, high = comparison.interval or (0, 0)
    return replace(comparison, difference=-comparison.difference, interval=Interval(-high, -low))


def test_a_settled_effect_is_stated_with_its_direction() -> None:
    assert sentence("BatchNorm", BATCH_NORM, ACCURACY) == (
        "BatchNorm raises validation accuracy by 6.2 points (95 % CI 5.7 to 6.8, 10 seeds)."
    )
    assert sentence("Removing BatchNorm", negated(BATCH_NORM), ACCURACY) == (
        "Removing BatchNorm lowers validation accuracy by 6.2 points "
        "(95 % CI 5.7 to 6.8, 10 seeds)."
    )
    assert sentence("Dropout", negated(BATCH_NORM), LOSS) == (
        "Dropout lowers validation loss by 0.062 nats (95 % CI 0.057 to 0.068, 10 seeds)."
    )


def test_a_bound_close_to_0_is_not_shown_as_0() -> None:
    close = replace(BATCH_NORM, difference=0.0019, interval=Interval(0.0003, 0.0035))
    assert sentence("Dropout", close, ACCURACY) == (
        "Dropout raises validation accuracy by 0.19 points (95 % CI 0.03 to 0.35, 10 seeds)."
    )


def test_an_interval_that_spans_0_is_not_settled() -> None:
    assert sentence("Dropout", UNSETTLED, ACCURACY) == (
        "Whether Dropout changes validation accuracy is not settled: +0.2 points "
        "(95 % CI -0.8 to +1.2, 5 seeds). About 3 more seeds would settle an effect of 1 point."
    )
    assert sentence("Dropout", replace(negated(UNSETTLED), seeds_to_settle=6), ACCURACY) == (
        "Whether Dropout changes validation accuracy is not settled: -0.2 points "
        "(95 % CI -1.2 to +0.8, 5 seeds). About 1 more seed would settle an effect of 1 point."
    )
    loss = replace(LOSS, effect_of_interest=0.05)
    assert sentence("Dropout", replace(UNSETTLED, seeds_to_settle=5), loss) == (
        "Whether Dropout changes validation loss is not settled: +0.002 nats "
        "(95 % CI -0.008 to +0.012, 5 seeds). This many seeds would have settled an effect "
        "of 0.05 nats."
    )


def test_what_holm_s_correction_takes_back_is_not_settled() -> None:
    close = replace(UNSETTLED, difference=0.009, interval=Interval(0.001, 0.017), p_value=0.03)
    assert close.settled
    first, second, one_seed = corrected([close, UNSETTLED, Comparison(1, 0.1, 1.0, None)])
    assert (first.p_holm, second.p_holm, one_seed.p_holm) == (0.06, 0.58, None)
    assert not first.settled
    assert sentence("Dropout", first, ACCURACY) == (
        "Whether Dropout changes validation accuracy is not settled: +0.9 points (95 % CI +0.1 to "
        "+1.7, 5 seeds; p = 0.06 after Holm's correction). About 3 more seeds would settle an "
        "effect of 1 point."
    )


def test_one_seed_and_seeds_without_spread_are_reported_as_such() -> None:
    assert sentence("Dropout", compare([0.41], [0.43], ACCURACY), ACCURACY) == (
        "Dropout lowers validation accuracy by 2.0 points in one seed, which gives no "
        "uncertainty: not settled."
    )
    assert sentence("Dropout", compare([0.43], [0.43], ACCURACY), ACCURACY) == (
        "Dropout leaves validation accuracy unchanged in one seed, which gives no "
        "uncertainty: not settled."
    )
    parameters = Outcome("the number of parameters", decimals=0, higher_is_better=False)
    assert sentence("BatchNorm", compare([2448] * 3, [1000] * 3, parameters), parameters) == (
        "BatchNorm raises the number of parameters by 1,448 in each of 3 seeds, without any spread."
    )
