"""Which intervals are shown as numbers: those that keep to what the metric can be.

With few seeds, an interval may reach an accuracy of −13 %, or an effect that would take an accuracy
of 8 % to −86 %. That shows that the approximation by a normal distribution fails, and that the
seeds are too few to tell anything: words are then right, not numbers. Two kinds of interval tell
something all the same, and only lose their impossible part, which costs no coverage: one that
settles an effect, and one that reaches no further to each side than an effect that matters, if
it is known which effects do.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from pipeline.statistics.comparisons import MAX_LOOK_AHEAD, Comparison, Summary, half_of_mean
from pipeline.statistics.intervals import Design, Interval
from pipeline.statistics.outcomes import OutcomeMeasure


def with_shown(summary: Summary, outcome: OutcomeMeasure, design: Design) -> Summary:
    """Fill in `shown` and `seeds_to_show`."""
    mean, sd = summary.mean, summary.sd
    if not sd:
        return summary

    def is_possible(seeds: int) -> bool:
        return _is_possible(half_of_mean(sd, seeds, design), [mean], outcome)

    if summary.interval and is_possible(summary.seeds):
        return replace(summary, shown=_cut(summary.interval, *outcome.bounds))
    found = bisect_left(range(MAX_LOOK_AHEAD + 1), True, lo=2, key=is_possible)
    return replace(summary, seeds_to_show=found if found <= MAX_LOOK_AHEAD else None)


def shown_comparison(
    comparison: Comparison, outcome: OutcomeMeasure, means: Sequence[float]
) -> Comparison:
    """The comparison without those of its intervals that are not shown. What is settled stays so.

    means: of the outcome in each variant that is compared: two, or the four of an interaction. The
    interval must fit around each of them: were all others known exactly, it would be that one's.
    """
    low, high = outcome.bounds
    most = (high - low) * len(means) / 2

    def shown(interval: Interval | None) -> Interval | None:
        if interval is None:
            return None
        half = (interval.high - interval.low) / 2
        if interval.low <= 0 <= interval.high and not _is_possible(half, means, outcome):
            return None
        return _cut(interval, -most, most)

    return replace(
        comparison,
        interval=shown(comparison.interval),
        unpaired=shown(comparison.unpaired),
        images=shown(comparison.images),
    )


def _is_possible(half: float, means: Sequence[float], outcome: OutcomeMeasure) -> bool:
    """Whether an interval fits around all means, or is as short as an effect that matters."""
    low, high = outcome.bounds
    if not isfinite(half):
        return False
    fits = all(low <= mean - half and mean + half <= high for mean in means)
    matters = outcome.effect_of_interest
    return fits or (matters is not None and half <= matters)


def _cut(interval: Interval, low: float, high: float) -> Interval:
    return Interval(max(interval.low, low), min(interval.high, high))
