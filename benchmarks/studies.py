"""Simulated studies, from which `benchmarks.intervals` takes its figures."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.fixed_width import critical_t
from pipeline.statistics.intervals import PLANNED_ALPHA

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LAST = 50  # seeds of the last look


def running(differences: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations after 2, 3, ... seeds: `[studies, seeds - 1]` each."""
    seeds = np.arange(1, differences.shape[1] + 1)
    means = differences.cumsum(axis=1) / seeds
    squares = np.square(differences).cumsum(axis=1) - seeds * np.square(means)
    return means[:, 1:], np.sqrt(np.maximum(squares[:, 1:], 0) / (seeds[1:] - 1))


def t_paths(differences: Floats) -> Floats:
    """|t| after 2, 3, ... seeds of studies: `[studies, seeds]` to `[studies, seeds - 1]`."""
    means, sds = running(differences)
    return np.asarray(np.abs(means) * np.sqrt(np.arange(2, differences.shape[1] + 1)) / sds)


def pairs_of(kind: str, comparisons: int) -> list[tuple[int, int]]:
    """The variants of each comparison: all pairs of as many as it takes, or others each time."""
    if kind == "independent":
        return [(2 * n, 2 * n + 1) for n in range(comparisons)]
    variants = next(v for v in range(2, 99) if comb(v, 2) == comparisons)
    return list(combinations(range(variants), 2))


def differences_without_effect(kind: str, comparisons: int, studies: int) -> Iterator[Floats]:
    """Of each comparison, `[studies, seeds]`, with a standard deviation of 1 or more."""
    random, pairs = np.random.default_rng(0), pairs_of(kind, comparisons)
    variants, size = 1 + max(map(max, pairs)), (studies, LAST)
    if kind == "independent":
        yield from random.exponential(size=(comparisons, *size)) - 1
        return
    if kind == "normal":
        values = random.standard_normal((variants, *size)) / np.sqrt(2)
    else:  # from one variant to the next, since equal distributions have no skewed difference
        steps = random.exponential(size=(variants - 1, *size)) - 1
        values = np.concatenate([np.zeros((1, *size)), steps.cumsum(axis=0)])
    for control, treatment in pairs:
        yield values[treatment] - values[control]


@lru_cache(maxsize=1)
def without_effect(kind: str, comparisons: int, studies: int) -> Sequence[Floats]:
    """|t| paths of each comparison in studies without effect."""
    return [t_paths(one) for one in differences_without_effect(kind, comparisons, studies)]


def two_stage(
    differences: Floats, margin: float, most: int, comparisons: int = 1
) -> tuple[Integers, Floats]:
    """Stein's rule, which was used before: the seeds of each study, and its half-width times root.

    That is the half-width times the square root of the seeds, however many there are in the end.
    """
    critical = stats.t.isf(PLANNED_ALPHA / comparisons / 2, FIRST_SEEDS - 1)
    bought = critical * differences[:, :FIRST_SEEDS].std(axis=1, ddof=1)
    exact = np.ceil(np.clip(np.square(bought / margin), FIRST_SEEDS, most))
    return exact.astype(np.int64), bought


def fixed_width(
    differences: Floats, margin: float, most: int, comparisons: int = 1
) -> tuple[Integers, Floats]:
    """The same of `pipeline.statistics.fixed_width`, which sees one study at a time."""
    counts = np.arange(FIRST_SEEDS, most + 1)
    _, sds = running(differences[:, :most])
    bought = critical_t(counts, PLANNED_ALPHA / comparisons) * sds[:, FIRST_SEEDS - 2 :]
    enough = bought <= margin * np.sqrt(counts)
    found = enough.any(axis=1)
    stop = np.where(found, enough.argmax(axis=1), len(counts) - 1)
    exact = np.take_along_axis(bought, stop[:, None], axis=1)[:, 0]
    return counts[stop], np.where(found & (stop > 0), margin * np.sqrt(counts[stop]), exact)
