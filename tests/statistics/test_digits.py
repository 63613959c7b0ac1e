"""Numbers of any metric are readable, and its sentences say no more than is known of it."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.statistics.comparisons import Comparison, compare_paired, summarize
from pipeline.statistics.intervals import ANYTIME, PLANNED, Interval
from pipeline.statistics.outcomes import OutcomeMeasure, decimals_for
from pipeline.statistics.possible import shown_comparison, with_shown
from pipeline.statistics.sentences import sentence

RMSE = OutcomeMeasure("RMSE", "K", decimals=2)
TREATED = np.array([3.1, 2.7, 3.6, 3.3, 2.9, 3.2])
CONTROLS = np.array([2.8, 2.9, 2.9, 2.7, 2.6, 3.0])


def test_without_a_margin_there_is_no_verdict_on_the_size_of_an_effect() -> None:
    result = compare_paired(TREATED, CONTROLS, RMSE, ANYTIME)
    assert result.seeds_to_settle is None
    assert sentence("dropping id 3", result, RMSE, noun="pair") == (
        "Whether dropping id 3 changes RMSE is not settled: +0.32 K (95 % CI −0.39 to +1.03,"
        " 6 pairs)."
    )
    known = replace(RMSE, effect_of_interest=0.5)
    assert sentence("it", compare_paired(TREATED, CONTROLS, known, ANYTIME), known).endswith(
        "more seeds would settle a true effect of 0.5 K with 80 % probability."
    )
    # An interval that is longer than what the metric can be is only shown if it is known to matter.
    narrow = replace(RMSE, bounds=(2.9, 3.2))
    assert shown_comparison(result, narrow, [3.1, 2.8]).interval is None
    assert with_shown(summarize(TREATED), narrow, PLANNED).shown is None
    assert with_shown(summarize(TREATED), replace(narrow, effect_of_interest=1), PLANNED).shown


@pytest.mark.parametrize(
    ("halves", "scale", "number", "text"),
    [
        ([0.0234, 0.5], 1, 0.98765, "0.988"),
        ([0.0234], 100, 0.98765, "98.8"),
        ([0.0996], 1, 0.98765, "0.99"),  # 0.10 has two digits
        ([12.3], 1, -1234.56, "−1,235"),
        ([123456.0], 1, 1234567.8, "1,234,568"),
        ([2e-9], 1, 1.2345e-7, "1.235e−7"),
        ([2.3e-12], 1, -5.67e-12, "−5.7e−12"),
        ([2.3e-12], 1, 4.5e-15, "4e−15"),
        ([2.3e-12], 1, 0.0, "0"),
        ([3.4e10], 1, 1.2345e12, "1.234e12"),
        ([3.0], 1, 1.2e12, "1.2000000000000e12"),
        ([3.4e200], 1e100, 1.2e202, "1.200e302"),
        ([None, 0, np.inf], 1, 1.25, "1.2"),  # nothing to judge by
    ],
)
def test_numbers_have_the_digits_that_their_spread_allows(
    halves: list[float | None], scale: float, number: float, text: str
) -> None:
    decimals = decimals_for(halves, scale=scale)
    assert OutcomeMeasure("x", scale=scale, decimals=decimals).show(number) == text


def test_the_best_known_spread_chooses_the_decimals() -> None:
    assert decimals_for([None], [0.02], [3.0]) == 3
    assert decimals_for([0.3], [0.02], [3.0]) == 2
    assert decimals_for([None], [0.0, None], [3.0]) == 1
    assert decimals_for() == 1


def test_the_numbers_of_an_interval_are_shown_alike() -> None:
    tiny = OutcomeMeasure("x", decimals=decimals_for([2e-12]))
    assert tiny.show(-1e-12, 3e-12, sign=True) == "−1.0e−12 to +3.0e−12"
    huge = OutcomeMeasure("x", decimals=decimals_for([2e9]))
    assert huge.show(-3e8, 3.7e9) == "−3e8 to 3.7e9"
    points = OutcomeMeasure("x", scale=100)
    assert points.show(-0.0001, 0.5, sign=True) == "−0.0 to +50.0"
    assert points.show(-0.0001, sign=True, extra=points.more_for(-0.0001)) == "−0.01"
    low, high = Interval(1.5e-12, 4e-12)
    settled = Comparison(5, 3e-12, 1e-12, Interval(low, high), 0.01)
    assert sentence("it", settled, tiny) == (
        "It raises x by 3.0e−12 (95 % CI 1.5e−12 to 4.0e−12, 5 seeds)."
    )
