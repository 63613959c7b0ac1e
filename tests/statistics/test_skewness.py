"""The report names the false alarms that fit the study; the figures are those of the simulation."""

import pytest

from benchmarks.intervals import false_alarms, margin_false_alarms, scenarios
from benchmarks.studies import fixed_width
from pipeline.statistics.intervals import ANYTIME, LATER, PLANNED, Design
from pipeline.statistics.skewness import COUNTS, _simulated, skewed_alarms

MARGIN = Design("fixed-width", "", 0.04, margin=0.5)


@pytest.mark.parametrize(
    ("design", "seeds", "comparisons", "said"),
    [
        (PLANNED, 3, 1, "10 % of studies would raise a false alarm"),
        (PLANNED, 5, 2, "13 to 16 % of studies would raise a false alarm"),
        (PLANNED, 12, 3, "11 to 15 % of studies would raise a false alarm"),
        (PLANNED, 25, 6, "10 to 16 % of studies would raise a false alarm"),
        (MARGIN, 14, 3, "8 to 11 % of studies would raise a false alarm"),
        (LATER, 14, 1, "13 % of studies would raise a false alarm"),
        (LATER, 14, 5, "18 to 29 % of studies would raise a false alarm"),
        (LATER, 14, 9, "18 to 29 %, or more, of studies would raise a false alarm"),
        (ANYTIME, 14, 6, "18 to 29 % of studies would raise a false alarm"),
    ],
)
def test_the_false_alarms_are_those_of_a_study_like_this(
    design: Design, seeds: int, comparisons: int, said: str
) -> None:
    text = skewed_alarms(design, seeds, comparisons)
    assert text.startswith(f"If they were exponentially distributed, {said}")
    assert "instead of at most 5 %" in text
    assert (f"(here: {comparisons})" in text) == (comparisons not in COUNTS)
    assert "seeds" in text.split("simulated with")[1]


def test_the_seeds_of_the_simulation_are_named() -> None:
    assert "one planned report at 10 seeds, and with three" in skewed_alarms(PLANNED, 19, 3)
    assert "at 5 seeds of at most 30, and a look after each of 6 to 50, and" in skewed_alarms(
        LATER, 8, 1
    )
    assert "no plan, and a look after each of 2 to 50 seeds" in skewed_alarms(ANYTIME, 8, 1)


@pytest.mark.parametrize("studies", [6_000, pytest.param(60_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("comparisons", COUNTS)
@pytest.mark.parametrize("kind", ["exponential", "independent"])
def test_the_figures_are_those_of_the_simulation(kind: str, comparisons: int, studies: int) -> None:
    rows = {
        "one planned report, at 5": (PLANNED, 5),
        "one planned report, at 10": (PLANNED, 10),
        "one planned report, at 20": (PLANNED, 20),
        "planned at 5, then after 6 to 50": (LATER, 9),
        "no plan, a look after 2 to 50": (ANYTIME, 9),
    }
    place = ["exponential", "independent"].index(kind)
    tolerance = 0.7 if studies == 60_000 else 2.5  # of rounding, and of the simulation
    for row, (design, seeds) in rows.items():
        found = 100 * false_alarms(kind, comparisons, studies, scenarios()[row])
        stated = _simulated(design, seeds).percent[comparisons][place]
        assert found == pytest.approx(stated, abs=tolerance)
    found = 100 * margin_false_alarms(kind, comparisons, studies, fixed_width)
    assert found == pytest.approx(_simulated(MARGIN, 5).percent[comparisons][place], abs=tolerance)
