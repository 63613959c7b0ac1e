"""Intervals and verdicts, against published numbers and simulated studies; random numbers seeded.

The thorough tests repeat the figures of `pipeline/statistics/intervals.py`, with the simulations in
`benchmarks/intervals.py`.
"""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy import integrate, stats

from benchmarks.intervals import STUDENT, false_alarms, scenarios
from benchmarks.studies import t_paths
from pipeline.statistics.comparisons import (
    POWER,
    Comparison,
    compare_paired,
    detection_power,
    seeds_to_detect,
    summarize,
)
from pipeline.statistics.images import images_error, with_other_images
from pipeline.statistics.intervals import (
    ALPHA,
    ANYTIME,
    LATER,
    PLANNED,
    Design,
    anytime_t,
    log_bayes_factor,
    seeds_for_margin,
)
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.sentences import sentence

ACCURACY = OutcomeMeasure("validation accuracy", "points", scale=100, effect_of_interest=0.01)
FIXED_WIDTH = Design("fixed-width", "", 0.04, margin=0.5)
# After a planned report at 5 seeds of at most 30.
ENDING = replace(PLANNED, most=30).after(5)

# Hours of extra sleep of ten patients with two drugs (Student 1908), R's data set `sleep`.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_the_paired_comparison_of_r_s_sleep_data() -> None:
    # R: t.test(extra ~ group, data = sleep, paired = TRUE) prints t = -4.0621, df = 9,
    # p-value = 0.002833, -2.4598858 -0.7001142, mean of the differences -1.58.
    result = compare_paired(DRUG_1, DRUG_2, OutcomeMeasure("sleep", "hours"), STUDENT)
    assert result.difference == pytest.approx(-1.58)
    assert result.interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    assert result.sd == pytest.approx(1.229995, abs=5e-7)  # R: sd(diffs)
    # R: cor(DRUG_1, DRUG_2) is 0.7951702; t.test without pairing -3.3654832 to 0.2054832 (Welch).
    assert result.correlation == pytest.approx(0.7951702, abs=5e-7)
    assert result.unpaired == pytest.approx((-3.3654832, 0.2054832), abs=5e-7)
    # R: t.test(DRUG_1): mean 0.75, sd 1.789010; t(0.975, 9) is 2.262157.
    half = 2.262157 * 1.789010 / sqrt(10)
    assert summarize(DRUG_1, STUDENT).interval == pytest.approx(
        (0.75 - half, 0.75 + half), abs=1e-5
    )


def test_the_bayes_factor_is_the_integral_over_its_prior() -> None:
    # The density of t with a normal effect, and the noise integrated out, over that without.
    t, seeds, g = 2.7, 7, 3.0

    def density(effect: float) -> float:
        noncentral = stats.nct.pdf(t, seeds - 1, effect * sqrt(seeds))
        return float(noncentral * stats.norm.pdf(effect, scale=sqrt(g)))

    numerical = integrate.quad(density, -12, 12)[0] / stats.t.pdf(t, seeds - 1)
    assert np.exp(log_bayes_factor(t, seeds, g)) == pytest.approx(numerical, rel=1e-6)


@pytest.mark.parametrize("seeds", [6, 8, 20, 50])
@pytest.mark.parametrize("comparisons", [1, 3, 12])
@pytest.mark.parametrize("design", [PLANNED, ANYTIME, LATER, ENDING])
def test_interval_and_p_value_always_agree(design: Design, comparisons: int, seeds: int) -> None:
    critical = design.critical_t(seeds, comparisons)
    assert np.isfinite(critical)
    assert design.p_value(critical * 1.001, seeds, comparisons) < ALPHA
    assert design.p_value(critical * 0.999, seeds, comparisons) > ALPHA


def test_the_known_critical_values() -> None:
    # Tables of Student's t: 0.975, 0.98 and 0.99, at 4 and 9 degrees of freedom.
    assert STUDENT.critical_t(5) == pytest.approx(2.776, abs=5e-4)
    assert PLANNED.critical_t(5) == pytest.approx(2.999, abs=5e-4)
    assert PLANNED.critical_t(10, comparisons=2) == pytest.approx(2.821, abs=5e-4)
    # Solved for t by hand: 36 ^ -0.5 ((1 + u) / (1 + u / 6)) ^ 2.5 = 20 at u = t² / 4.
    t = anytime_t(5, 0.05, g=1)
    assert ((1 + t**2 / 4) / (1 + t**2 / 24)) ** 2.5 == pytest.approx(20 * sqrt(6), rel=1e-9)
    assert anytime_t(4, 0.05, g=1) == np.inf


@pytest.mark.parametrize("comparisons", [1, 3, 6])
@pytest.mark.parametrize("what", [one for one in scenarios() if "t-test" not in one])
def test_looking_after_every_seed_raises_false_alarms_in_at_most_5_of_100_studies(
    what: str, comparisons: int
) -> None:
    assert 0.01 < false_alarms("normal", comparisons, 5_000, scenarios()[what]) < 0.05


def test_the_usual_test_does_not_survive_looking_after_every_seed() -> None:
    assert false_alarms("normal", 1, 5_000, scenarios()["t-test, a look after 2 to 50"]) > 0.3


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "comparisons", "percentages"),
    [
        ("normal", 1, [4.1, 4.1, 3.9, 4.3, 4.2, 4.1, 4.6, 4.4, 4.2, 4.1, 2.6, 5.1, 33.4]),
        (
            "exponential",
            1,
            [10.5, 8.9, 7.1, 12.9, 10.2, 11.9, 13.4, 12.9, 10.1, 11.9, 11.8, 11.7, 44.8],
        ),
        ("normal", 3, [3.9, 3.8, 3.6, 4.1, 4.0, 3.9, 4.4, 4.1, 3.9, 3.9, 2.5, 4.8, 34.3]),
        (
            "exponential",
            3,
            [12.6, 11.2, 8.8, 16.1, 13.1, 14.0, 17.1, 16.0, 12.7, 14.0, 15.8, 14.0, 51.9],
        ),
        (
            "independent",
            3,
            [16.4, 14.7, 11.5, 21.2, 17.3, 18.2, 22.5, 21.1, 16.8, 18.2, 21.1, 18.3, 62.9],
        ),
        ("normal", 6, [3.8, 3.6, 3.4, 4.1, 3.8, 3.9, 4.3, 4.1, 3.7, 3.9, 2.3, 4.7, 35.5]),
        (
            "exponential",
            6,
            [13.7, 12.6, 9.8, 18.1, 14.9, 15.0, 19.3, 17.8, 14.3, 15.0, 17.5, 15.4, 56.3],
        ),
        (
            "independent",
            6,
            [21.7, 20.9, 16.0, 28.9, 24.6, 23.5, 30.8, 28.5, 23.6, 23.4, 29.0, 24.3, 75.9],
        ),
    ],
)
def test_the_false_alarms_are_as_stated(
    kind: str, comparisons: int, percentages: list[float]
) -> None:
    for looks, percent in zip(scenarios().values(), percentages, strict=True):
        found = 100 * false_alarms(kind, comparisons, 60_000, looks)
        assert found == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("seeds", [3, 5, 10, 30])
def test_planned_intervals_hold_jointly_in_96_of_100_studies(seeds: int) -> None:
    base, bn, dropout = np.random.default_rng(seeds).standard_normal((3, 50_000, seeds))
    critical = PLANNED.critical_t(seeds, comparisons=3)
    alarms = [t_paths(one)[:, -1] > critical for one in (bn - base, dropout - bn, dropout - base)]
    assert 0.03 < np.any(alarms, axis=0).mean() < 0.042


def test_after_a_look_seeds_are_added_until_the_sequence_is_as_short_as_the_margin() -> None:
    seeds = seeds_for_margin(0.85, 0.5, 5, 1000, 1, ANYTIME)
    assert ANYTIME.critical_t(seeds) * 0.85 / sqrt(seeds) <= 0.5
    assert ANYTIME.critical_t(seeds - 1) * 0.85 / sqrt(seeds - 1) > 0.5
    for design in (ANYTIME, FIXED_WIDTH, ENDING):  # at once, however small the margin
        assert seeds_for_margin(0.85, 1e-9, 5, 30, 1, design) == 30


def test_other_images_add_their_own_share_and_never_shorten() -> None:
    random = np.random.default_rng(3)
    seeds, images, reached = 5, 400, []
    for _ in range(400):
        by_seed = random.normal(0, 0.02, (seeds, 1))
        by_image = random.normal(0, 0.6, images)
        differences = 0.05 + by_seed + by_image + random.normal(0, 0.5, (seeds, images))
        means = differences.mean(axis=1)
        result = with_other_images(
            compare_paired(means, np.zeros(seeds), ACCURACY), differences, 0.04
        )
        assert result.interval
        assert result.images
        assert result.images.low <= result.interval.low
        reached.append(result.images.low <= 0.05 <= result.images.high)
    assert np.mean(reached) > 0.93
    # The standard error of a mean of 400 images with standard deviation 0.6 is 0.03.
    assert images_error(differences) == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize(
    ("effect", "sd", "pairs", "power"),
    [
        # Dalgaard, Introductory Statistics with R, 2nd edition 2008, section 8.3.
        (10, 10 * sqrt(2), 19.96892, 0.85),
        # R: power.t.test(delta = 0.5, sd = 1, power = 0.8, type = "paired")
        (0.5, 1, 33.3672, 0.80),
    ],
)
def test_power_is_that_of_r_s_power_t_test(
    effect: float, sd: float, pairs: float, power: float
) -> None:
    # R solves for a fractional number of pairs; the formula takes one too.
    critical = stats.t.isf(ALPHA / 2, pairs - 1)
    assert detection_power(effect, sd, pairs, critical) == pytest.approx(power, abs=2e-5)  # type: ignore[arg-type]
    assert seeds_to_detect(0.5, 1, 1, STUDENT) == 34
    assert seeds_to_detect(0.5, 1e12, 1, STUDENT) is None  # a loss that has diverged


def test_seeds_to_settle_is_the_smallest_number_that_reaches_the_power() -> None:
    seeds = seeds_to_detect(0.01, 0.008, 3, ANYTIME)
    assert seeds
    power = [
        detection_power(0.01, 0.008, n, ANYTIME.critical_t(n, comparisons=3))
        for n in (seeds - 1, seeds)
    ]
    assert power[0] < POWER <= power[1]


def test_one_seed_and_no_spread_invent_no_interval() -> None:
    assert compare_paired([0.5], [0.4], ACCURACY) == Comparison(1, 0.5 - 0.4, None)
    equal = compare_paired([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], ACCURACY)
    assert (equal.sd, equal.interval, equal.settled) == (0.0, None, False)
    few = compare_paired([0.5, 0.6, 0.65], [0.4, 0.5, 0.6], ACCURACY, ANYTIME)
    assert few.interval is None
    said = sentence("It", few, ACCURACY)
    assert "in 3 seeds, which give no interval yet. About" in said
    assert said.endswith("more seeds would settle a true effect of 1 point with 80 % probability.")
    # Five equal differences, by chance: their spread can't be that of the others.
    late = compare_paired([0.5] * 5 + [0.6, 0.5], [0.4] * 7, ACCURACY, FIXED_WIDTH)
    assert late.interval is None
    assert not late.settled
    assert (
        summarize([0.5] * 5 + [0.6, 0.5], FIXED_WIDTH).interval
        == summarize([0.5] * 5 + [0.6, 0.5]).interval
    )


@pytest.mark.parametrize(("bn", "base"), [([], []), ([0.1], [0.1, 0.2]), ([np.nan], [0.1])])
def test_numbers_that_cannot_be_paired_are_refused(bn: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match="seed"):
        compare_paired(bn, base, ACCURACY)


def test_sentences_say_what_is_known() -> None:
    settled = compare_paired([0.50, 0.51, 0.50], [0.44, 0.445, 0.44], ACCURACY)
    assert sentence("BatchNorm", settled, ACCURACY) == (
        "BatchNorm raises validation accuracy by 6.2 points (95 % CI 5.4 to 7.0, 3 seeds)."
    )
    small = compare_paired([0.500, 0.502, 0.499, 0.501], [0.500, 0.501, 0.500, 0.500], ACCURACY)
    said = sentence("It", small, ACCURACY)
    assert said.startswith("Whether It changes validation accuracy is not settled: +0.0")
    assert said.endswith("4 seeds). With 95 % confidence, any effect is smaller than 1 point.")
    wide = compare_paired([0.50, 0.53, 0.48], [0.50, 0.50, 0.50], ACCURACY)
    assert "more seeds would settle a true effect of 1 point" in sentence("It", wide, ACCURACY)
    diverged = compare_paired([0.50, 1e12, 0.48], [0.50, 0.50, 0.50], ACCURACY)
    assert sentence("It", diverged, ACCURACY).endswith("would take over 1,000 seeds.")
