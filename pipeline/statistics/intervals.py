"""How long an interval must be: for seeds fixed in advance, for a margin, and after any look.

Every interval is mean ± critical_t * sd / sqrt(seeds). All comparisons of an outcome hold jointly
(Bonferroni), so a study raises a false alarm with a probability of at most 5 %, and an effect is
settled exactly if its interval excludes 0. Three designs differ in `critical_t`:

planned: Student's t. Valid at one number of seeds, chosen before the first look.
anytime: a confidence sequence, the values that the Bayes factor of the t statistic does not reject
    at 1 / alpha, with a normal prior of variance `g` on the effect in standard deviations. It is a
    test martingale under every value of the nuisance scale, so by Ville's inequality it holds at
    all looks at once, without a last one (Lai 1976, Ann. Statist. 4, 265-280; Wang and Ramdas,
    arXiv:2310.03722).
two-stage: Stein's (1945, Ann. Math. Statist. 16, 243-258). The first seeds give the standard
    deviation, and with it the number of seeds; the interval keeps that standard deviation.

Percentage of studies with a false alarm, of 60,000 simulated ones without effect (`python -m
benchmarks.intervals`; docs/LOG.md has the rules that were tried):

                                             one comparison         three, jointly
    differences                            normal  exponential    normal  exponential
    anytime, a look after 2 to 50 seeds      2.6      11.8          2.5      15.8
    t, one look at 5 seeds                   5.1      11.7          4.8      14.0
    t, a look after 2 to 50 seeds           33.4      44.8         34.3      51.9

g is the number of comparisons: of the rules whose false alarms on exponential differences are not
above those of one look of the t-test (one comparison), it is within 1 % of the shortest intervals
at 5 to 20 seeds, and it is bounded from 5 seeds on, however many comparisons there are.

Coverage of the two-stage intervals, and seeds on average, with a standard deviation of 0.85 points:
95.1 % and 62 for a margin of 0.3 points, 95.2 % and 23 for 0.5, 95.1 % and 7 for 1.0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pipeline.statistics import FIRST_SEEDS

ALPHA = 0.05  # two-sided; shared by all comparisons of an outcome


class Interval(NamedTuple):
    """A confidence interval, in the unit of the metric."""

    low: float
    high: float


@dataclass(frozen=True)
class Design:
    """How a study came to its seeds. reason: for the report."""

    name: str  # planned, anytime or two-stage
    reason: str

    def sd(self, differences: np.ndarray) -> float:
        """The standard deviation that the interval rests on."""
        first = differences[:FIRST_SEEDS] if self.name == "two-stage" else differences
        return float(first.std(ddof=1))

    def critical_t(self, seeds: int, comparisons: int = 1) -> float:
        """How many standard errors the interval reaches to each side; may be infinite."""
        alpha = ALPHA / comparisons
        if self.name == "anytime":
            return anytime_t(seeds, alpha, g=comparisons)
        if self.name == "two-stage":
            seeds = min(seeds, FIRST_SEEDS)
        return float(stats.t.isf(alpha / 2, seeds - 1))

    def p_value(self, t: float, seeds: int, comparisons: int = 1) -> float:
        """The p value, corrected for `comparisons`: below ALPHA exactly if t is critical."""
        if self.name == "anytime":
            p = np.exp(-log_bayes_factor(t, seeds, g=comparisons))
        else:
            counted = min(seeds, FIRST_SEEDS) if self.name == "two-stage" else seeds
            p = 2 * stats.t.sf(abs(t), counted - 1)
        return float(min(1.0, comparisons * p))


PLANNED = Design("planned", "The seeds were chosen before any result was seen.")
ANYTIME = Design("anytime", "")


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
