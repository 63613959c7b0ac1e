"""Effects of variants, paired by seed: what a seed does to all variants alike cancels out."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.statistics.intervals import ALPHA, ANYTIME, LATER, PLANNED, Design, Interval
from pipeline.statistics.outcomes import OutcomeMeasure

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike  # one number per seed

POWER = 0.80  # an effect is detectable if it is detected with this probability
MAX_LOOK_AHEAD = 1000  # beyond that, "more" is enough of an answer
ROUNDING = 12  # decimals kept: floating-point noise is neither effect nor spread


@dataclass(frozen=True)
class Summary:
    """One variant over its seeds, in the unit of the metric.

    `possible.with_shown` fills in shown, the interval for readers: None if so few seeds can't tell;
    and seeds_to_show, how many would, at this sd: None if more than 1,000.
    """

    seeds: int
    mean: float
    sd: float | None  # n - 1 in the denominator; None for one seed
    interval: Interval | None  # of the mean, at 95 %; None for one seed, or equal numbers
    shown: Interval | None = None
    seeds_to_show: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The difference between two variants over the same seeds, in the unit of the metric.

    With one seed, all fields after `sd` are None. With equal differences too, but `sd` is 0:
    without spread there is nothing to infer from. `interval` and `p_value` are also None if the
    design has no bounded interval for so few seeds.

    seeds_to_settle: in total, for the effect of interest with a power of 80 %; None if more than
    1,000, or if no effect is of interest. correlation: of treatment and control over the seeds;
    None for an interaction. unpaired: the interval if the seeds were not paired: its length is to
    the paired one's as Welch's interval is to Student's. images: the interval that also covers
    other test images.
    """

    seeds: int
    difference: float  # the mean over seeds
    sd: float | None  # of the differences
    interval: Interval | None = None
    p_value: float | None = None  # below 0.05 exactly if the interval excludes 0
    seeds_to_settle: int | None = None
    correlation: float | None = None
    unpaired: Interval | None = None
    images: Interval | None = None

    @property
    def settled(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def summarize(values: Values, design: Design = PLANNED) -> Summary:
    """Summarize one variant, one number per seed. Raises ValueError unless all are finite."""
    numbers = _numbers(values)
    seeds, mean = len(numbers), float(numbers.mean())
    if np.ptp(numbers) == 0:
        return Summary(seeds, mean, sd=None if seeds == 1 else 0.0, interval=None)
    sd = float(numbers.std(ddof=1))
    return Summary(seeds, mean, sd, _around(mean, half_of_mean(sd, seeds, design)))


def half_of_mean(sd: float, seeds: int, design: Design) -> float:
    """How far the interval of a mean reaches to each side; may be infinite."""
    # One by one: nothing is settled by a mean. Student's t is an approximation in two stages.
    alone = ANYTIME if design.name == "anytime" else replace(PLANNED, alpha=ALPHA)
    return alone.critical_t(seeds) * sd / float(np.sqrt(seeds))


def compare_paired(
    treatment: Values,
    control: Values,
    outcome: OutcomeMeasure,
    design: Design = PLANNED,
    comparisons: int = 1,
) -> Comparison:
    """Compare `treatment` with `control`: treatment minus control. Entry i of both is one seed.

    comparisons: how many are made of this outcome; their intervals hold jointly.
    Raises ValueError for unequal lengths, no seeds, or a non-finite number.
    """
    treated, controls = _numbers(treatment), _numbers(control)
    if len(treated) != len(controls):
        raise ValueError(f"{len(treated)} seeds can't be paired with {len(controls)}")
    # Equal differences stay equal: 0.62 - 0.6 and 0.5 - 0.48 differ in their last bits.
    differences = _numbers(np.round(treated - controls, 12))
    seeds, difference = len(differences), float(differences.mean())
    if np.ptp(differences) == 0:
        return Comparison(seeds, difference, sd=None if seeds == 1 else 0.0)
    sd, error = float(differences.std(ddof=1)), design.sd(differences) / np.sqrt(seeds)
    later = design if design.name == "anytime" else LATER  # seeds are added after a look
    result = Comparison(seeds, difference, sd)
    if outcome.effect_of_interest is not None:
        enough = seeds_to_detect(outcome.effect_of_interest, sd, comparisons, later)
        result = replace(result, seeds_to_settle=enough)
    half = design.critical_t(seeds, comparisons) * error
    if not error or not np.isfinite(half):
        return result
    result = replace(
        result,
        interval=_around(difference, half),
        p_value=design.p_value(difference / error, seeds, comparisons),
    )
    if not np.ptp(treated) or not np.ptp(controls):
        return result
    return replace(
        result,
        correlation=float(np.corrcoef(treated, controls)[0, 1]),
        unpaired=_around(
            difference, half * _welch_ratio(treated, controls, design.alpha / comparisons)
        ),
    )


def detection_power(effect: float, sd: float, seeds: int, critical: float) -> float:
    """Probability that |t| exceeds `critical` at a true `effect`, with the right sign.

    Noncentral t distribution, as in R's `power.t.test(type = "paired")`: `sd` of the differences
    is taken as known.
    """
    return float(stats.nct.sf(critical, seeds - 1, abs(effect) * np.sqrt(seeds) / sd))


def seeds_to_detect(effect: float, sd: float, comparisons: int, design: Design) -> int | None:
    """Fewest seeds that detect a true nonzero `effect` with a power of 80 %; None if too many."""

    def power(seeds: int) -> float:
        critical = design.critical_t(seeds, comparisons)
        return detection_power(effect, sd, seeds, critical) if np.isfinite(critical) else 0.0

    if power(MAX_LOOK_AHEAD) < POWER:
        return None
    return bisect_left(range(MAX_LOOK_AHEAD), POWER, lo=2, key=power)


def _welch_ratio(treated: Floats, controls: Floats, alpha: float) -> float:
    """The length of Welch's interval, relative to that of the paired one."""
    unpaired = stats.ttest_ind(treated, controls, equal_var=False).confidence_interval(1 - alpha)
    paired = stats.ttest_rel(treated, controls).confidence_interval(1 - alpha)
    return float((unpaired.high - unpaired.low) / (paired.high - paired.low))


def _around(mean: float, half: float) -> Interval | None:
    return Interval(float(mean - half), float(mean + half)) if np.isfinite(half) else None


def _numbers(values: Values) -> Floats:
    numbers = np.asarray(values, dtype=np.float64).round(ROUNDING)
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"expected one finite number per seed, not {values!r}")
    return numbers
