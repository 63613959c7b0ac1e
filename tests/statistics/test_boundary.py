"""Critical t for looks with an end: exact, on the safe side, and not longer than without one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.studies import differences_without_effect, t_paths
from pipeline.statistics import boundary
from pipeline.statistics.comparisons import seeds_to_detect
from pipeline.statistics.intervals import ALPHA, LATER, PLANNED, Design, anytime_t

STUDIES = 40_000


def later(planned: int, most: int) -> Design:
    return replace(PLANNED, most=most).after(planned)


@pytest.mark.parametrize(
    ("first", "last", "alpha"),
    [(5, 15, 0.05), (6, 15, 0.01), (6, 7, 0.02), (11, 14, 0.03), (15, 15, 0.04)],
)
def test_one_of_the_looks_is_wrong_as_often_as_allowed(first: int, last: int, alpha: float) -> None:
    paths = t_paths(np.random.default_rng(first).standard_normal((STUDIES, last)))
    critical = [boundary.critical_t(n, alpha, first, last) for n in range(first, last + 1)]
    found = (paths[:, first - 2 :] > critical).any(axis=1).mean()
    assert found == pytest.approx(alpha, abs=3.5 * np.sqrt(alpha / STUDIES))
    assert boundary.crossing_probability(critical[0], first, first, last) == pytest.approx(alpha)


def test_a_single_look_is_student_s_t() -> None:
    assert boundary.critical_t(12, 0.01, 12, 12) == pytest.approx(stats.t.isf(0.005, 11), rel=1e-3)


@pytest.mark.parametrize(("first", "last"), [(5, 6), (6, 7), (5, 15), (6, 15), (14, 15)])
def test_probabilities_are_exact_to_one_percent(
    first: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_level = boundary._log_level(first, last)
    coarse = boundary._probabilities(first, last)
    between = np.sqrt(boundary.LEVELS[1:] * boundary.LEVELS[:-1])
    for name, value in (("GRID", 300), ("NODES", 160), ("LEVELS", between)):
        monkeypatch.setattr(boundary, name, value)
    fine = boundary._probabilities(first, last)
    used = (between > 1e-5) & (between < 0.1)
    assert np.exp(log_level(np.log(fine)))[used] == pytest.approx(between[used], rel=0.01)
    assert (np.diff(coarse) > 0).all()


@pytest.mark.parametrize("comparisons", [1, 3, 10])
@pytest.mark.parametrize("planned", [3, 4, 5])
def test_intervals_are_shorter_up_to_the_end_and_longer_beyond(
    planned: int, comparisons: int
) -> None:
    design = later(planned, 10)
    ratios = [
        design.critical_t(n, comparisons) / LATER.critical_t(n, comparisons)
        for n in (6, 7, 8, 9, 10, 11)
    ]
    assert max(ratios[:5]) < 1
    assert 1.02 < ratios[5] < 1.2
    assert design.critical_t(planned, comparisons) == np.inf  # the planned report is none of them
    assert design.p_value(99, planned, comparisons) == 1
    beyond = anytime_t(11, 0.006 / comparisons, comparisons)
    assert design.critical_t(11, comparisons) == pytest.approx(beyond)


@pytest.mark.parametrize("size", [6, 8, 10, 11, 30])
@pytest.mark.parametrize("comparisons", [1, 6])
def test_p_values_agree_with_intervals(size: int, comparisons: int) -> None:
    design = later(5, 10)
    t = design.critical_t(size, comparisons)
    assert design.p_value(0.999 * t, size, comparisons) > ALPHA
    assert design.p_value(1.001 * t, size, comparisons) < ALPHA


@pytest.mark.parametrize(
    ("planned", "most"),
    # Not stated, reached already, or too far away to be of use; too few or too many seeds before.
    [(5, 0), (5, 5), (5, 16), (2, 10), (6, 10)],
)
def test_without_a_usable_end_there_is_none(planned: int, most: int) -> None:
    assert later(planned, most).critical_t(9) == LATER.critical_t(9)


@pytest.mark.parametrize("comparisons", [1, 3, 10])
@pytest.mark.parametrize(("planned", "most"), [(5, 6), (5, 10), (5, 15), (4, 15), (3, 8)])
def test_skewed_differences_raise_no_more_false_alarms_than_by_the_sequence_alone(
    planned: int, most: int, comparisons: int
) -> None:
    looks = range(planned + 1, 51)
    design = later(planned, most)
    wrong = {"now": np.zeros(STUDIES // 4, bool), "before": np.zeros(STUDIES // 4, bool)}
    for one in differences_without_effect("independent", comparisons, STUDIES // 4):
        paths = t_paths(one)
        first = paths[:, planned - 2] > PLANNED.critical_t(planned, comparisons)
        for name, rule in (("now", design), ("before", LATER)):
            critical = [rule.critical_t(n, comparisons) for n in looks]
            wrong[name] |= first | (paths[:, planned - 1 : 49] > critical).any(axis=1)
    # The same draws for both: their difference has a standard error of 0.2 %.
    assert wrong["now"].mean() < wrong["before"].mean() + 0.004


def test_seeds_to_settle_are_looked_for_on_both_sides_of_the_end() -> None:
    design = later(5, 12)
    few, many = (seeds_to_detect(0.01, sd, 1, design) for sd in (0.006, 0.02))
    assert few
    assert many
    assert few < (seeds_to_detect(0.01, 0.006, 1, LATER) or 0)
    assert few <= 12 < (seeds_to_detect(0.01, 0.02, 1, LATER) or 0) < many
