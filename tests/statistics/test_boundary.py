"""Critical t for looks with an end: exact, on the safe side, and not longer than without one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.studies import t_paths
from pipeline.statistics import boundary
from pipeline.statistics.comparisons import seeds_to_detect
from pipeline.statistics.intervals import LATER, PLANNED, Design, anytime_t

STUDIES = 40_000


def later(planned: int, most: int) -> Design:
    return replace(PLANNED, most=most).after(planned)


@pytest.mark.parametrize(
    ("first", "last", "alpha"),
    [(5, 30, 0.05), (6, 30, 0.01), (6, 7, 0.02), (11, 40, 0.03), (30, 30, 0.04)],
)
def test_one_of_the_looks_is_wrong_as_often_as_allowed(first: int, last: int, alpha: float) -> None:
    paths = t_paths(np.random.default_rng(first).standard_normal((STUDIES, last)))
    critical = [boundary.critical_t(n, alpha, first, last) for n in range(first, last + 1)]
    found = (paths[:, first - 2 :] > critical).any(axis=1).mean()
    assert found == pytest.approx(alpha, abs=3.5 * np.sqrt(alpha / STUDIES))
    assert boundary.crossing_probability(critical[0], first, first, last) == pytest.approx(alpha)


def test_a_single_look_is_student_s_t() -> None:
    assert boundary.critical_t(12, 0.01, 12, 12) == pytest.approx(stats.t.isf(0.005, 11), rel=1e-3)


@pytest.mark.parametrize(("first", "last"), [(5, 30), (6, 100)])
def test_coarse_grids_are_on_the_safe_side(
    first: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = boundary._probabilities(first, last)
    monkeypatch.setattr(boundary, "GRID", 2 * boundary.GRID)
    monkeypatch.setattr(boundary, "NODES", 2 * boundary.NODES)
    fine = boundary._probabilities(first, last)
    assert (coarse / fine > 0.9999).all()
    assert (coarse / fine)[boundary.LEVELS > 1e-5].max() < 1.05


@pytest.mark.parametrize("comparisons", [1, 3, 10])
def test_intervals_are_shorter_up_to_the_end_and_longer_beyond(comparisons: int) -> None:
    design = later(5, 30)
    ratios = [
        design.critical_t(n, comparisons) / LATER.critical_t(n, comparisons)
        for n in (12, 20, 30, 31)
    ]
    assert ratios[0] < 1.01
    assert max(ratios[1:3]) < 0.98 < 1.04 < ratios[3] < 1.07
    assert design.critical_t(5, comparisons) == np.inf  # the planned report itself is none of them
    beyond = anytime_t(31, 0.005 / comparisons, comparisons)
    assert design.critical_t(31, comparisons) == pytest.approx(beyond)


def test_without_a_usable_end_there_is_none() -> None:
    for most in (0, 5, 101):  # not stated, reached already, too far away to be of use
        assert later(5, most).critical_t(8) == LATER.critical_t(8)


def test_seeds_to_settle_are_looked_for_on_both_sides_of_the_end() -> None:
    design = later(5, 12)
    few, many = (seeds_to_detect(0.01, sd, 1, design) for sd in (0.006, 0.02))
    assert few
    assert many
    assert few < (seeds_to_detect(0.01, 0.006, 1, LATER) or 0)
    assert few <= 12 < (seeds_to_detect(0.01, 0.02, 1, LATER) or 0) < many
