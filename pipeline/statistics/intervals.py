"""Interval widths that keep the error rate when results are looked at more than once.

Every interval is mean ± critical_t * sd / sqrt(seeds). A study may raise a false alarm with a
probability of at most 5 %, over all its comparisons of an outcome (Bonferroni) and over all looks:
4 % are spent on the report that was planned, and 1 % on all later ones together. Differences
between seeds are taken to be normally distributed. An effect is settled exactly if its interval
excludes 0. Three designs differ in `critical_t`:

planned: Student's t. Valid at one number of seeds, chosen before the first look.
fixed-width: seeds are added until the interval is as short as a margin (`fixed_width`).
anytime: valid at every look, by a confidence sequence: all effects that the Bayes factor of the t
    statistic does not reject at 1 / alpha, with a normal prior of variance `g` on the effect in
    standard deviations. Without an effect, the Bayes factor is a test martingale for every value of
    the unknown standard deviation. By Ville's inequality the intervals therefore hold at all looks
    at once, however many there are (Lai 1976, Ann. Statist. 4, 265-280; Wang and Ramdas,
    arXiv:2310.03722). The design has the 1 % after a planned report, and all 5 % if there was none.
    If a report at 3 to 5 seeds was planned, and 15 or fewer were named as the most that there could
    ever be, all looks up to that end have the same level (`boundary`), which takes WITHIN of the
    1 %; the sequence beyond takes the rest.

Independent samples have Welch's t interval in the planned design. Their confidence sequence takes
Welch's t statistic; the effective size (s1² + s2²) / (s1²/n1 + s2²/n2) in place of the number of
seeds; as degrees of freedom the harmonic mean of Welch's and those of the smaller sample; and it
begins when that sample has as many runs as a paired comparison needs. Neither is exact, not even
for equal variances. In simulated studies at most 2.6 % raise a false alarm over all looks, where up
to 5 % may, and 0.5 % where 1 % may, in each normal case that was tried: variances of 1:1 to 1:100,
sizes of 1:1 to 1:10, one sample that does not grow, and samples that grow in random order. The sum
over 28 comparisons is at most 3.7 %, instead of 9.3 % with Welch's own degrees of freedom. With
only those of the smaller sample, intervals are half as long again at 5 runs of each.

`g` is the number of comparisons. With exponential differences, after a planned report at 5 seeds,
12.9 % of studies with one comparison raise a false alarm, 16 to 21 % with three, and 19 to 35 %
with ten. If looks have an end, over all of them no more do; up to the end itself, at 10 seeds,
11.0, 14 to 18 and 16 to 29 %, where the sequence alone would have 10.6, 13 to 17 and 15 to 28 %.

Figures, by `python -m benchmarks.intervals` (docs/LOG.md has all). Seeds until an interval is ± 0.5
points, if differences have a standard deviation of 0.85 points: 17.6 (Stein's two stages: 26.7),
and 24.1 with three comparisons (52.6); coverage 97.6 %, and 99.1 % of each of three. By the mean of
the last five epochs, whose variance is 0.55 of that: 11.8 and 15.8. Seeds until an effect of 0.8,
1.2 and 2 standard deviations is settled, with a planned report at 5 and a look after each seed:
22.0, 11.2 and 5.8; by that mean 13.2, 7.3 and 5.1. Critical t after a planned report at 5, at 6, 8
and 10 seeds: 18.1, 6.4 and 5.3; if 10 were named as the most, 6.5, 5.2 and 4.6.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.statistics import FIRST_SEEDS, boundary, fixed_width

ALPHA = 0.05  # two-sided; shared by all comparisons of an outcome, at all looks
PLANNED_ALPHA = 0.04
LATER_ALPHA = 0.01
# Looks with an end, for which there are 1 to 10 comparisons: later ones, or after other reports,
# gain little, or let more exponential differences raise a false alarm than the sequence alone does.
WITHIN = 0.4
FEW_SEEDS, LAST_LOOK = range(3, FIRST_SEEDS + 1), 15


class Interval(NamedTuple):
    """A confidence interval, in the unit of the metric."""

    low: float
    high: float


@dataclass(frozen=True)
class Design:
    """How a study came to its seeds.

    name: planned, fixed-width or anytime. reason: for the report. alpha: how often an interval of
    the outcome may be wrong. margin: the asked half-length of intervals, in the outcome's unit; 0
    for none. most: the seeds that the study could ever get, as stated before its first run; 0 if
    that was not stated. later_than: if the design is anytime, the seeds of the planned report
    before. stop_early: whether the margin may be given up once the question is answered.
    follows: other reports came before. exploratory: the first of them counted another value.
    """

    name: str
    reason: str
    alpha: float
    margin: float = 0.0
    most: int = 0
    later_than: int = 0
    stop_early: bool = False
    follows: bool = False
    exploratory: bool = False

    def half_width(
        self, differences: npt.NDArray[np.float64], comparisons: int, margin: float = 0.0
    ) -> float:
        """How far the interval of the mean reaches to each side; may be infinite.

        differences: in the order of seeds. margin: as that of the design, in their unit.
        """
        if self.name == "fixed-width":
            return fixed_width.half_width(differences, self.alpha / comparisons, margin)
        error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
        return float(self.critical_t(len(differences), comparisons) * error)

    def p_value_of(
        self, differences: npt.NDArray[np.float64], comparisons: int, margin: float = 0.0
    ) -> float:
        """Below ALPHA exactly if the interval excludes 0: corrected for comparisons and looks."""
        if self.name == "fixed-width":
            p = fixed_width.p_value(differences, margin)
            return float(min(1.0, p * comparisons * ALPHA / self.alpha))
        error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
        return self.p_value(float(differences.mean()) / error, len(differences), comparisons)

    def critical_t(self, size: float, comparisons: int = 1, freedom: float | None = None) -> float:
        """How many standard errors the interval reaches to each side; may be infinite.

        size: the number of seeds, or the effective size of independent samples, which have their
        own degrees of `freedom`.
        """
        alpha = self.alpha / comparisons
        if self.name == "fixed-width":
            return float(fixed_width.critical_t(int(size), alpha))
        if self.name == "planned":
            return float(stats.t.isf(alpha / 2, size - 1 if freedom is None else freedom))
        if self.ends and freedom is None:
            if size < self._first_look:
                return np.inf
            if size <= self.most:
                return boundary.critical_t(int(size), WITHIN * alpha, self._first_look, self.most)
            alpha *= 1 - WITHIN
        return anytime_t(size, alpha, g=comparisons, freedom=freedom)

    def p_value(
        self, t: float, size: float, comparisons: int = 1, freedom: float | None = None
    ) -> float:
        """Below ALPHA exactly if t is critical: corrected for all comparisons and looks."""
        alpha = self.alpha / comparisons
        if self.name == "planned":
            p = 2 * stats.t.sf(abs(t), size - 1 if freedom is None else freedom)
        elif self.ends and freedom is None and size < self._first_look:
            p = 1.0
        elif self.ends and freedom is None and size <= self.most:
            p = boundary.crossing_probability(t, int(size), self._first_look, self.most)
            alpha *= WITHIN
        else:
            p = np.exp(-log_bayes_factor(t, size, g=comparisons, freedom=freedom))
            alpha *= 1 - WITHIN if self.ends and freedom is None else 1
        return float(min(1.0, p * ALPHA / alpha))

    def after(self, seeds: int) -> "Design":
        """The design of reports after one of so many seeds, if more are added."""
        if self.name == "anytime":
            return self
        most = self.most if self.name == "planned" else 0
        return Design("anytime", "", LATER_ALPHA, most=most, later_than=seeds)

    @property
    def ends(self) -> bool:
        """Whether looks have an end, up to which they all have the same level."""
        return self.later_than in FEW_SEEDS and self._first_look <= self.most <= LAST_LOOK

    @property
    def _first_look(self) -> int:
        return max(FIRST_SEEDS, self.later_than + 1)


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

    `most`, if that is not enough.
    """
    while seeds < most and design.critical_t(seeds, comparisons) * sd / np.sqrt(seeds) > margin:
        seeds += 1
    return seeds
