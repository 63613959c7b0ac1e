"""What happens to the error rate if differences between seeds are skewed, not normal."""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.statistics.intervals import ALPHA, Design


class Simulated(NamedTuple):
    """A simulated way to look at results, and the false alarms with exponential differences.

    percent: of the studies without effect, by the number of comparisons: of all pairs of variants,
    and of as many independent ones.
    """

    looks: str
    percent: Mapping[int, tuple[int, int]]


# From `python -m benchmarks.intervals`; docs/LOG.md has the table with one decimal.
PLANNED = {  # by the seeds of the report
    5: Simulated("one planned report at 5 seeds", {1: (10, 10), 3: (13, 16), 6: (14, 22)}),
    10: Simulated("one planned report at 10 seeds", {1: (9, 9), 3: (11, 15), 6: (13, 21)}),
    20: Simulated("one planned report at 20 seeds", {1: (7, 7), 3: (9, 11), 6: (10, 16)}),
}
FIXED_WIDTH = Simulated(
    "5 to 30 seeds, as many as a margin of 0.6 standard deviations takes",
    {1: (6, 6), 3: (8, 11), 6: (8, 16)},
)
LATER = Simulated(
    "a planned report at 5 seeds of at most 30, and a look after each of 6 to 50",
    {1: (13, 13), 3: (16, 21), 6: (18, 29)},
)
UNPLANNED = Simulated(
    "no plan, and a look after each of 2 to 50 seeds", {1: (12, 12), 3: (16, 21), 6: (18, 29)}
)
COUNTS = {1: "one comparison", 3: "three comparisons", 6: "six comparisons"}


def skewed_alarms(design: Design, seeds: int, comparisons: int) -> str:
    """Say how many studies like this one would raise a false alarm: of the nearest simulated ones.

    Those have no fewer comparisons, up to six, and no more seeds, from five on; so their share is
    the higher one.
    """
    looks, percent = _simulated(design, seeds)
    count = next((one for one in COUNTS if one >= comparisons), max(COUNTS))
    low, high = percent[count]
    share = f"{low} %" if low == high else f"{low} to {high} %"
    more = ", or more," if comparisons > count else ""
    here = "" if comparisons == count else f" (here: {comparisons})"
    shared = "" if low == high else "; the more independent these are, the more studies do"
    return (
        f"If they were exponentially distributed, {share}{more} of studies would raise a false"
        f" alarm, instead of at most 5 %: simulated with {looks}, and with {COUNTS[count]}"
        f"{here}{shared}."
    )


def _simulated(design: Design, seeds: int) -> Simulated:
    if design.name == "fixed-width":
        return FIXED_WIDTH
    if design.name == "anytime":
        return UNPLANNED if design.alpha == ALPHA else LATER
    return PLANNED[max((one for one in PLANNED if one <= seeds), default=min(PLANNED))]
