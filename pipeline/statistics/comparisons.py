"""Effects of variants: paired by seed, so that what it does to all alike cancels out, or not."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.errors import shown
from pipeline.outcome import LARGEST, SMALLEST
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import (
    ALPHA,
    ANYTIME,
    PLANNED,
    Design,
    Interval,
    anytime_freedom,
)
from pipeline.statistics.outcomes import OutcomeMeasure

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike  # one number per seed, or per run

POWER = 0.80  # an effect is detectable if it is detected with this probability
MAX_LOOK_AHEAD = 1000  # beyond that, "more" is enough of an answer
# The share of a number by which it may be off: 0.62 - 0.6 and 0.5 - 0.48 differ in their last bits.
# Decimals are off by half an epsilon, and their difference by up to 2 of the larger one's. A metric
# may itself be a difference, of numbers some 60 times as large: a gap of 0.01 between accuracies of
# 0.6. Real spread is larger: single precision has steps of 500 million epsilons.
NOISE = 128 * float(np.finfo(np.float64).eps)
MOST_CERTAIN = 1e8  # an effect in standard errors; from 1e10 on, scipy's noncentral t gives NaN


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
    """The difference between two variants, in the unit of the metric.

    With one seed, all fields after `sd` are None. With equal differences too, but `sd` is 0:
    without spread there is nothing to infer from. `interval` and `p_value` are also None if the
    design has no bounded interval for so few seeds.

    seeds_to_settle: in total, for the effect of interest with a power of 80 %; None if more than
    1,000, or if no effect is of interest. correlation: of treatment and control over the seeds;
    None for an interaction. unpaired: the interval if the seeds were not paired: its length is to
    the paired one's as Welch's interval is to Student's. images: the interval that also covers
    other test images.

    sizes: how many runs of treatment and control, if they are independent samples; None if paired.
    Then `seeds` are those of the smaller sample, `sd` is that of the difference of a run of each,
    and `seeds_to_settle` the runs of each, at equal numbers.
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
    sizes: tuple[int, int] | None = None

    @property
    def settled(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def summarize(values: Values, design: Design = PLANNED) -> Summary:
    """Summarize one variant, one number per seed.

    Raises ValueError unless all are finite, and the largest is between 1e-250 and 1e250, or 0.
    """
    (numbers,), unit = _scaled(values)
    seeds, mean = len(numbers), float(numbers.mean() * unit)
    if _are_equal(numbers):
        return Summary(seeds, mean, sd=None if seeds == 1 else 0.0, interval=None)
    sd = float(numbers.std(ddof=1) * unit)
    return Summary(seeds, mean, sd, _around(mean, half_of_mean(sd, seeds, design)))


def half_of_mean(sd: float, seeds: int, design: Design) -> float:
    """How far the interval of a mean reaches to each side; may be infinite."""
    # One by one: nothing is settled by a mean. If the spread decided, Student's t is approximate.
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

    In the order in which seeds were added. comparisons: how many are made of this outcome; their
    intervals hold jointly.
    Raises ValueError for unequal lengths, and for numbers that `summarize` refuses.
    """
    (treated, controls), unit = _scaled(treatment, control)
    if len(treated) != len(controls):
        raise ValueError(f"{len(treated)} seeds can't be paired with {len(controls)}")
    differences = treated - controls
    noise = NOISE * np.maximum(np.abs(treated), np.abs(controls))
    seeds, difference = len(differences), float(differences.mean())
    if _are_equal(differences, noise):
        is_noise = bool((np.abs(differences) <= noise).all())
        return _without_spread(seeds, 0.0 if is_noise else difference * unit)
    sd = float(differences.std(ddof=1))
    result = Comparison(
        seeds,
        difference * unit,
        sd * unit,
        seeds_to_settle=_seeds_to_settle(outcome, sd * unit, seeds, comparisons, design),
    )
    margin = design.margin / outcome.scale / unit
    half = design.half_width(differences, comparisons, margin)
    first = slice(FIRST_SEEDS if design.name == "fixed-width" else None)  # may decide alone
    if _are_equal(differences[first], noise[first]) or not np.isfinite(half):
        return result
    result = replace(
        result,
        interval=_around(difference * unit, half * unit),
        p_value=design.p_value_of(differences, comparisons, margin),
    )
    if _are_equal(treated) or _are_equal(controls):
        return result
    error, freedom = _welch(treated, controls)
    tail = design.alpha / comparisons / 2
    student = stats.t.isf(tail, seeds - 1) * sd / np.sqrt(seeds)
    ratio = float(stats.t.isf(tail, freedom) * error / student)
    return replace(
        result,
        correlation=float(np.corrcoef(treated, controls)[0, 1]),
        unpaired=_around(difference * unit, half * ratio * unit),
    )


def compare_unpaired(
    treatment: Values,
    control: Values,
    outcome: OutcomeMeasure,
    design: Design = PLANNED,
    comparisons: int = 1,
) -> Comparison:
    """Compare independent samples: the mean of `treatment` minus that of `control`, a run an entry.

    The variances may differ. The planned design has Welch's t interval (1947, Biometrika 34,
    28-35), the anytime design a confidence sequence, which is simulated and not proved (see
    `intervals`). A sample of one run gives no uncertainty.

    comparisons: how many are made of this outcome; their intervals hold jointly.
    Raises ValueError for the fixed-width design, and for numbers that `summarize` refuses.
    """
    if design.name == "fixed-width":
        raise ValueError("the fixed-width design needs seeds that are paired")
    (treated, controls), unit = _scaled(treatment, control)
    sizes = len(treated), len(controls)
    smaller, difference = min(sizes), float(treated.mean() - controls.mean())
    if smaller == 1 or (_are_equal(treated) and _are_equal(controls)):
        known = difference * unit if abs(difference) > NOISE else 0.0
        return replace(_without_spread(smaller, known), sizes=sizes)
    variances = treated.var(ddof=1), controls.var(ddof=1)
    sd = float(np.sqrt(sum(variances)))
    error, freedom = _welch(treated, controls)
    # For each run of both after the first, of samples of equal size.
    per_seed = float(anytime_freedom(sd**4 / np.square(variances).sum(), smaller=2))
    if design.name == "anytime":
        freedom = float(anytime_freedom(freedom, smaller))
    result = Comparison(
        smaller,
        difference * unit,
        sd * unit,
        seeds_to_settle=_seeds_to_settle(
            outcome, sd * unit, smaller, comparisons, design, per_seed
        ),
        sizes=sizes,
    )
    size = (sd / error) ** 2
    half = design.critical_t(size, comparisons, freedom) * error
    # No interval before the smaller sample has as many runs as a paired comparison needs.
    if not np.isfinite(design.critical_t(smaller, comparisons)) or not np.isfinite(half):
        return result
    return replace(
        result,
        interval=_around(difference * unit, half * unit),
        p_value=design.p_value(difference / error, size, comparisons, freedom),
    )


def detection_power(
    effect: float, sd: float, seeds: int, critical: float, freedom: float | None = None
) -> float:
    """Probability that |t| exceeds `critical` at a true `effect`, with the right sign.

    Noncentral t distribution, as in R's `power.t.test(type = "paired")`: `sd` of the differences
    is taken as known. freedom: `seeds - 1` if not given.
    """
    known = seeds - 1 if freedom is None else freedom
    certainty = min(MOST_CERTAIN, abs(effect) / sd * np.sqrt(seeds))
    return float(stats.nct.sf(critical, known, certainty))


def seeds_to_detect(
    effect: float, sd: float, comparisons: int, design: Design, per_seed: float | None = None
) -> int | None:
    """Fewest seeds that detect a true nonzero `effect` with a power of 80 %; None if too many.

    per_seed: degrees of freedom that each seed after the first adds; the design's own if not given.
    """

    def power(seeds: int) -> float:
        freedom = None if per_seed is None else per_seed * (seeds - 1)
        if not np.isfinite(design.critical_t(seeds, comparisons)):
            return 0.0
        critical = design.critical_t(seeds, comparisons, freedom)
        return detection_power(effect, sd, seeds, critical, freedom)

    # Beyond the most seeds that were named, intervals are longer again.
    for first, last in ((2, design.most), (max(2, design.most + 1), MAX_LOOK_AHEAD)):
        if first <= last and power(last) >= POWER:
            return bisect_left(range(last), POWER, lo=first, key=power)
    return None


def _seeds_to_settle(
    outcome: OutcomeMeasure,
    sd: float,
    seeds: int,
    comparisons: int,
    design: Design,
    per_seed: float | None = None,
) -> int | None:
    if outcome.effect_of_interest is None:
        return None
    later = design.after(seeds)  # seeds are added after a look
    return seeds_to_detect(outcome.effect_of_interest, sd, comparisons, later, per_seed)


def _welch(treated: Floats, controls: Floats) -> tuple[float, float]:
    """Standard error of the difference between two means, and its degrees of freedom."""
    sizes = np.array([len(treated), len(controls)])
    shares = np.array([treated.var(ddof=1), controls.var(ddof=1)]) / sizes
    freedom = shares.sum() ** 2 / (np.square(shares) / (sizes - 1)).sum()
    return float(np.sqrt(shares.sum())), float(freedom)


def _without_spread(seeds: int, difference: float) -> Comparison:
    """Equal differences: nothing to infer from."""
    return Comparison(seeds, difference, sd=None if seeds == 1 else 0.0)


def _are_equal(scaled: Floats, noise: Floats | float = NOISE) -> bool:
    """Whether the numbers may be the same, if each is off by up to its `noise`."""
    return bool((scaled - noise).max() <= (scaled + noise).min())


def _around(mean: float, half: float) -> Interval | None:
    return Interval(float(mean - half), float(mean + half)) if np.isfinite(half) else None


def _scaled(*samples: Values) -> tuple[list[Floats], float]:
    """The samples in a unit, and that unit: the power of two that leaves the largest at 1 to 2.

    Dividing by it is exact, and keeps squares within what a double can be.
    """
    known = [np.asarray(values, dtype=np.float64) for values in samples]
    for values, numbers in zip(samples, known, strict=True):
        if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
            raise ValueError(f"expected one finite number per seed or run, not {shown(values)}")
    largest = float(max(np.abs(numbers).max() for numbers in known))
    if largest and not SMALLEST <= largest <= LARGEST:
        raise ValueError(
            f"numbers of up to {largest:.2g} can't be compared; scale them to between"
            f" {SMALLEST:g} and {LARGEST:g}"
        )
    unit = float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest else 1.0
    return [numbers / unit for numbers in known], unit
