"""Interval widths that keep the error rate when results are looked at more than once.

Every interval is mean ± critical_t * sd / sqrt(seeds). A study may raise a false alarm with a
probability of at most 5 %, over all its comparisons of an outcome (Bonferroni) and over all looks:
4 % are spent on the report that was planned, and 1 % on all later ones together. Differences
between seeds are taken to be normally distributed. An effect is settled exactly if its interval
excludes 0. Three designs differ in `critical_t`:

planned: Student's t. Valid at one number of seeds, chosen before the first look.
two-stage: Stein's (1945, Ann. Math. Statist. 16, 243-258). The first seeds give the standard
    deviation, and with it the number of seeds; the interval keeps that standard deviation.
anytime: a confidence sequence: all effects that the Bayes factor of the t statistic does not reject
    at 1 / alpha, with a normal prior of variance `g` on the effect in standard deviations. Without
    an effect, the Bayes factor is a test martingale for every value of the unknown standard
    deviation. By Ville's inequality the intervals therefore hold at all looks at once, however many
    there are (Lai 1976, Ann. Statist. 4, 265-280; Wang and Ramdas, arXiv:2310.03722). It has the
    1 % after a planned report, and all 5 % if there was none.

`g` is the number of comparisons. On exponential differences the sequence raises about as many false
alarms as one look of the t-test; rules with fewer have longer intervals at 5 to 20 seeds
(`python -m benchmarks.intervals`; docs/LOG.md has the figures). Its intervals are bounded from 5
seeds on, and from 6 after a planned report.

Coverage of the two-stage intervals, and seeds on average, with a standard deviation of 0.85 points:
96.1 % and 73 for a margin of 0.3 points, 96.1 % and 27 for 0.5, 96.1 % and 8 for 1.0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pipeline.statistics import FIRST_SEEDS

ALPHA = 0.05  # two-sided; shared by all comparisons of an outcome, at all looks
PLANNED_ALPHA = 0.04
LATER_ALPHA = 0.01


class Interval(NamedTuple):
    """A confidence interval, in the unit of the metric."""

    low: float
    high: float


@dataclass(frozen=True)
class Design:
    """How a study came to its seeds.

    name: planned, two-stage or anytime. reason: for the report. alpha: how often an interval of
    the outcome may be wrong. margin: the asked half-length of intervals, in points; 0 for none.
    """

    name: str
    reason: str
    alpha: float
    margin: float = 0.0

    def basis(self, differences: np.ndarray) -> np.ndarray:
        """Those of the differences whose standard deviation the interval rests on."""
        return differences[:FIRST_SEEDS] if self.name == "two-stage" else differences

    def critical_t(self, seeds: int, comparisons: int = 1) -> float:
        """How many standard errors the interval reaches to each side; may be infinite."""
        alpha = self.alpha / comparisons
        if self.name == "anytime":
            return anytime_t(seeds, alpha, g=comparisons)
        if self.name == "two-stage":
            seeds = min(seeds, FIRST_SEEDS)
        return float(stats.t.isf(alpha / 2, seeds - 1))

    def p_value(self, t: float, seeds: int, comparisons: int = 1) -> float:
        """Below ALPHA exactly if t is critical: corrected for all comparisons and looks."""
        if self.name == "anytime":
            p = np.exp(-log_bayes_factor(t, seeds, g=comparisons))
        else:
            counted = min(seeds, FIRST_SEEDS) if self.name == "two-stage" else seeds
            p = 2 * stats.t.sf(abs(t), counted - 1)
        return float(min(1.0, p * comparisons * ALPHA / self.alpha))


PLANNED = Design(
    "planned",
    "No earlier report with another plan contains any of these runs, so the seeds count as chosen"
    " in advance.",
    PLANNED_ALPHA,
)
ANYTIME = Design("anytime", "", ALPHA)
LATER = Design("anytime", "", LATER_ALPHA)


def log_bayes_factor(t: np.ndarray | float, seeds: np.ndarray | int, g: float) -> np.ndarray:
    """Log of the Bayes factor of a t statistic against no effect."""
    freedom, widened = np.asarray(seeds) - 1, 1 + np.asarray(seeds) * g
    ratio = np.log1p(np.square(t) / freedom) - np.log1p(np.square(t) / (freedom * widened))
    return np.asarray((np.asarray(seeds) * ratio - np.log(widened)) / 2)


def anytime_t(seeds: int, alpha: float, g: float) -> float:
    """The t statistic at which the Bayes factor is 1 / alpha; infinite if it can't be reached."""
    widened = 1 + seeds * g
    ratio = (widened / alpha**2) ** (1 / seeds)
    if ratio >= widened:
        return np.inf
    return float(np.sqrt((seeds - 1) * (ratio - 1) / (1 - ratio / widened)))


def seeds_for_margin(
    sd: float, margin: float, seeds: int, most: int, comparisons: int, design: Design
) -> int:
    """How many seeds give an interval of ± `margin`, after `seeds` with standard deviation `sd`.

    `most`, if that is not enough. In the two-stage design, `sd` is that of the first seeds, and the
    answer is final.
    """
    if design.name == "two-stage":
        exact = (design.critical_t(FIRST_SEEDS, comparisons) * sd / margin) ** 2
        return int(np.ceil(np.clip(exact, FIRST_SEEDS, most)))
    while seeds < most and design.critical_t(seeds, comparisons) * sd / np.sqrt(seeds) > margin:
        seeds += 1
    return seeds
