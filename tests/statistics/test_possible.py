"""Intervals are shown in numbers only where they say something; what is settled stays so."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.statistics.comparisons import compare_paired, summarize
from pipeline.statistics.intervals import ANYTIME, PLANNED, Design
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.possible import shown_comparison, with_shown
from pipeline.statistics.sentences import sentence

ACCURACY = OutcomeMeasure(
    "validation accuracy", "points", scale=100, effect_of_interest=0.01, bounds=(0, 1)
)
LOSS = OutcomeMeasure("validation loss", "nats", effect_of_interest=0.05, bounds=(0, np.inf))


@pytest.mark.parametrize("design", [PLANNED, ANYTIME, Design("fixed-width", "", 0.04)])
@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.067, 0.1], ACCURACY),  # -12.8 to 29.5 % of a planned study
        ([0.93, 0.99], ACCURACY),
        ([0.02, 0.05, 0.11], ACCURACY),
        ([0.9, 0.99, 0.98, 0.99, 0.7], ACCURACY),
        ([4.6, 2.1], LOSS),
    ],
)
def test_a_mean_that_so_few_seeds_can_not_tell_names_how_many_would(
    values: list[float], outcome: OutcomeMeasure, design: Design
) -> None:
    one = with_shown(summarize(values, design), outcome, design)
    assert one.shown is None
    assert one.seeds_to_show
    assert one.seeds_to_show > len(values)
    assert one.sd
    # As many, with the same mean and standard deviation, do show an interval.
    many = np.resize([-1.0, 1.0], one.seeds_to_show + one.seeds_to_show % 2)
    many *= one.sd / many.std(ddof=1)
    enough = with_shown(summarize(one.mean + many, design), outcome, design)
    assert enough.shown
    assert outcome.bounds[0] <= enough.shown.low < enough.shown.high <= outcome.bounds[1]


def test_an_interval_that_is_possible_is_shown_as_it_is() -> None:
    one = with_shown(summarize([0.4, 0.42, 0.41]), ACCURACY, PLANNED)
    assert one.shown == one.interval
    assert one.seeds_to_show is None


def test_a_short_interval_next_to_a_bound_only_loses_what_is_impossible() -> None:
    one = with_shown(summarize([0.998, 0.9995, 0.9985, 0.9995]), ACCURACY, PLANNED)
    assert one.interval
    assert one.interval.high > 1
    assert one.shown == (one.interval.low, 1)


def test_no_interval_is_invented_for_one_seed_or_without_spread() -> None:
    for values in ([0.5], [0.5, 0.5]):
        one = with_shown(summarize(values), ACCURACY, PLANNED)
        assert (one.shown, one.seeds_to_show) == (None, None)


BASE, BN = [0.1, 0.067], [0.06, 0.09]


def test_an_effect_that_so_few_seeds_can_not_tell_is_told_in_words() -> None:
    raw = compare_paired(BN, BASE, ACCURACY, PLANNED, comparisons=3)
    raw = replace(raw, images=raw.interval)
    shown = shown_comparison(raw, ACCURACY, [float(np.mean(BN)), float(np.mean(BASE))])
    assert raw.interval
    assert raw.interval.low < -0.5
    assert (shown.interval, shown.unpaired, shown.images) == (None, None, None)
    assert (shown.p_value, shown.sd, shown.settled) == (raw.p_value, raw.sd, False)
    said = sentence("BatchNorm", shown, ACCURACY)
    assert said.startswith(
        "Whether BatchNorm changes validation accuracy is not settled: −0.9 points in 2 seeds,"
        " which can't tell. About "
    )
    assert said.endswith(" more seeds would settle a true effect of 1 point with 80 % probability.")
    assert "CI" not in said


def test_which_of_two_variants_is_the_control_does_not_matter() -> None:
    random = np.random.default_rng(0)
    told = 0
    for _ in range(100):
        seeds, mean = random.integers(2, 8), random.uniform(0, 1)
        both = np.clip(random.normal(mean, 0.03, (2, seeds)), 0, 1)
        means = both.mean(axis=1)
        one, other = (
            shown_comparison(compare_paired(*pair, ACCURACY), ACCURACY, list(means))  # type: ignore[call-arg]
            for pair in (both, both[::-1])
        )
        assert (one.interval is None) == (other.interval is None)
        if one.interval and other.interval:
            assert one.interval == pytest.approx((-other.interval.high, -other.interval.low))
            told += 1
    assert 30 < told < 100


def test_a_settled_effect_stays_settled_within_what_is_possible() -> None:
    high, low = [0.99, 0.999, 0.97, 0.995], [0.01, 0.0, 0.02, 0.0]
    raw = compare_paired(high, low, ACCURACY)
    shown = shown_comparison(raw, ACCURACY, [float(np.mean(high)), float(np.mean(low))])
    assert raw.interval
    assert raw.interval.high > 1
    assert raw.settled
    assert shown.settled
    assert shown.interval == (raw.interval.low, 1)
    assert "to 100.0, 4 seeds)" in sentence("It", shown, ACCURACY)


def test_an_effect_known_to_be_small_is_shown_next_to_a_bound() -> None:
    one, other = [0.998, 0.9995, 0.9985, 0.9995], [0.9985, 0.999, 0.9995, 0.998]
    shown = shown_comparison(compare_paired(one, other, ACCURACY), ACCURACY, [0.9989, 0.99875])
    assert shown.interval
    assert "any effect is smaller than 1 point" in sentence("It", shown, ACCURACY)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_no_shown_interval_leaves_what_is_possible(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    for _ in range(100):
        mean, spread = random.uniform(0, 1), random.uniform(0, 0.2)
        both = np.clip(random.normal(mean, spread, (2, seeds)), 0, 1)
        for values in both:
            one = with_shown(summarize(values), ACCURACY, PLANNED)
            assert one.shown is None or 0 <= one.shown.low <= one.shown.high <= 1
        raw = compare_paired(both[0], both[1], ACCURACY, PLANNED, 3)
        shown = shown_comparison(raw, ACCURACY, list(both.mean(axis=1)))
        assert shown.settled == raw.settled
        for interval in (shown.interval, shown.unpaired):
            assert interval is None or -1 <= interval.low <= interval.high <= 1
