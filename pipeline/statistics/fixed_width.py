"""Intervals of a chosen half-length: seeds are added until their spread is small enough.

After each seed, from the first FIRST_SEEDS on, Student's interval is asked whether it is as short
as the margin; once it is, the interval is the mean ± the margin (Chow and Robbins 1965, Ann. Math.
Statist. 36, 457-462). The mean of normal differences is independent of their spread, after any
number of them. So it does not matter that the spread decides how many there are, but stopping at
a spread that is small by chance does: intervals are therefore longer at first, so that coverage is
at least the nominal one, whatever the true spread (`python -m benchmarks.intervals`).

More seeds than the effect needs, because other effects need them, only help: the interval then
shrinks as 1 / sqrt(seeds).
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from pipeline.statistics import FIRST_SEEDS

Floats = npt.NDArray[np.float64]
# How much longer. Less would keep the coverage of normal differences; with so much, exponential
# ones raise no more false alarms than by Stein's two stages, for one to six comparisons.
CAUTION = 5.0
LEAST_ALPHA = 1e-15  # a p value is not smaller than this


def critical_t(seeds: npt.NDArray[np.int64] | int, alpha: float) -> Floats:
    """How many standard errors an interval reaches to each side, before it is short enough."""
    level = alpha * seeds / (seeds - CAUTION * np.log(alpha))
    return np.asarray(stats.t.isf(level / 2, np.asarray(seeds) - 1))


def half_width(differences: Floats, alpha: float, margin: float) -> float:
    """How far the interval reaches to each side. differences: in the order of seeds, 2 or more.

    margin: in their unit; 0 if the number of seeds was chosen for another outcome.
    """
    counts = np.arange(min(FIRST_SEEDS, len(differences)), len(differences) + 1)
    bought = critical_t(counts, alpha) * _sds(differences)[counts - 2]
    (enough,) = np.nonzero(bought <= margin * np.sqrt(counts))
    certain = bought[-1]
    if len(enough):  # at the first look, the interval may be shorter than the margin
        certain = margin * np.sqrt(counts[enough[0]]) if enough[0] else bought[0]
    return float(certain / np.sqrt(len(differences)))


def p_value(differences: Floats, margin: float) -> float:
    """The alpha at which the interval just reaches 0."""
    mean = abs(differences.mean())

    def missing(log_alpha: float) -> float:
        return half_width(differences, float(np.exp(log_alpha)), margin) - float(mean)

    least, most = np.log(LEAST_ALPHA), np.log(1 - 1e-9)
    if missing(least) <= 0:
        return LEAST_ALPHA
    return float(np.exp(optimize.bisect(missing, least, most))) if missing(most) < 0 else 1.0


def _sds(differences: Floats) -> Floats:
    """Standard deviations of the first 2, 3, ... differences."""
    centred = differences - differences[0]
    seeds = np.arange(1, len(centred) + 1)
    squares = np.square(centred).cumsum() - np.square(centred.cumsum()) / seeds
    return np.asarray(np.sqrt(np.maximum(squares[1:], 0) / seeds[:-1]))
