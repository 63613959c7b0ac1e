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

Independent samples have Welch's t interval in the planned design. Their confidence sequence takes
Welch's t statistic; the effective size (s1² + s2²) / (s1²/n1 + s2²/n2) in place of the number of
seeds; as degrees of freedom the harmonic mean of Welch's and those of the smaller sample; and it
begins when that sample has as many runs as a paired comparison needs. Neither is exact, not even
for equal variances. In simulated studies at most 2.6 % raise a false alarm over all looks, where up
to 5 % may, and 0.5 % where 1 % may, in each normal case that was tried: variances of 1:1 to 1:100,
sizes of 1:1 to 1:10, one sample that does not grow, and samples that grow in random order. The sum
over 28 comparisons is at most 3.7 %, instead of 9.3 % with Welch's own degrees of freedom. With
only those of the smaller sample, intervals are half as long again at 5 runs of each.

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

    def critical_t(self, size: float, comparisons: int = 1, freedom: float | None = None) -> float:
        """How many standard errors the interval reaches to each side; may be infinite.

        size: the number of seeds, or the effective size of independent samples, which have their
        own degrees of `freedom`.
        """
        alpha = self.alpha / comparisons
        if self.name == "anytime":
            return anytime_t(size, alpha, g=comparisons, freedom=freedom)
        return float(stats.t.isf(alpha / 2, self._freedom(size, freedom)))

    def p_value(
        self, t: float, size: float, comparisons: int = 1, freedom: float | None = None
    ) -> float:
        """Below ALPHA exactly if t is critical: corrected for all comparisons and looks."""
        if self.name == "anytime":
            p = np.exp(-log_bayes_factor(t, size, g=comparisons, freedom=freedom))
        else:
            p = 2 * stats.t.sf(abs(t), self._freedom(size, freedom))
        return float(min(1.0, p * comparisons * ALPHA / self.alpha))

    def _freedom(self, size: float, freedom: float | None) -> float:
        if freedom is not None:
            return freedom
        return min(size, FIRST_SEEDS) - 1 if self.name == "two-stage" else size - 1


PLANNED = Design(
    "planned",
    "No earlier report with another plan contains any of these runs, so the seeds count as chosen"
    " in advance.",
    PLANNED_ALPHA,
)
ANYTIME = Design("anytime", "", ALPHA)
LATER = Design("anytime", "", LATER_ALPHA)


def log_bayes_factor(
    t: np.ndarray | float,
    size: np.ndarray | float,
    g: float,
    freedom: np.ndarray | float | None = None,
) -> np.ndarray:
    """Log of the Bayes factor of a t statistic against no effect.

    The statistic is the effect in standard deviations times sqrt(`size`), with noise. freedom: its
    degrees of freedom, one less than `size` if not given.
    """
    known = np.asarray(size) - 1 if freedom is None else np.asarray(freedom)
    widened = 1 + np.asarray(size) * g
    ratio = np.log1p(np.square(t) / known) - np.log1p(np.square(t) / (known * widened))
    return np.asarray(((known + 1) * ratio - np.log(widened)) / 2)


def anytime_t(size: float, alpha: float, g: float, freedom: float | None = None) -> float:
    """The t statistic at which the Bayes factor is 1 / alpha; infinite if it can't be reached."""
    known, widened = size - 1 if freedom is None else freedom, 1 + size * g
    ratio = (widened / alpha**2) ** (1 / (known + 1))
    if ratio >= widened:
        return np.inf
    return float(np.sqrt(known * (ratio - 1) / (1 - ratio / widened)))


def anytime_freedom(welch: np.ndarray | float, smaller: np.ndarray | float) -> np.ndarray:
    """Degrees of freedom of the confidence sequence of independent samples.

    welch: those of Welch's t. smaller: how many runs the smaller sample has.
    """
    return np.asarray(2 / (1 / np.asarray(welch) + 1 / (np.asarray(smaller) - 1)))


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
