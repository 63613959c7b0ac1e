"""Simulate how often intervals are wrong: after any look, and with as many seeds as a margin needs.

python -m benchmarks.intervals [--studies 60000]

Prints the figures of `pipeline/statistics/intervals.py` and `skewness.py`, and of the rules that
were tried instead (docs/LOG.md). Takes about two minutes.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from benchmarks.unpaired import print_tables
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import (
    ALPHA,
    ANYTIME,
    LATER,
    PLANNED,
    PLANNED_ALPHA,
    Design,
    anytime_t,
    seeds_for_margin,
)

Floats = npt.NDArray[np.float64]
Rule = Callable[[int], float]  # critical t by number of seeds

LAST = 50  # seeds of the last look
LOOKS = range(2, LAST + 1)
TWO_STAGE = Design("two-stage", "", PLANNED_ALPHA)
STUDENT = Design("planned", "", ALPHA)  # the usual t-test
# How differences are distributed: of all pairs of variants, which are normal, or of which each is
# an exponential step from the one before; or exponential and independent in each comparison.
KINDS = ("normal", "exponential", "independent")
# `independent` is the same as `exponential` for one comparison.
COLUMNS = [(kind, n) for n in (1, 3, 6) for kind in KINDS[: 2 if n == 1 else 3]]
MOST = 30  # seeds of the two-stage design: the default of `max_seeds`
SHARES = ((0.05, 0.05), (0.05, 0.01), (0.04, 0.01), (0.03, 0.02), (0.025, 0.025))
SD, MARGIN, MARGINS = 0.85, 0.5, (0.3, 0.5, 1.0)  # points
TWO_STAGE_ROW = f"two-stage, margin {MARGIN / SD:.2f} sd, to {MOST}"


def main() -> None:
    """Print all figures as tables."""
    parser = argparse.ArgumentParser(description="Simulate how often intervals are wrong.")
    parser.add_argument("--studies", type=int, default=60_000)
    studies = parser.parse_args().studies
    print(f"studies without effect that raise a false alarm, of {studies:,}")
    print("e: exponential, all pairs of variants compared; i: the same, independent comparisons")
    print(" " * 36 + "".join(f"{kind[0]} {n}".rjust(7) for kind, n in COLUMNS))
    for name, row in zip([*scenarios(), TWO_STAGE_ROW], _columns(studies), strict=True):
        print(f"{name:36}" + "".join(f"{cell:7.1%}" for cell in row))
    print("\nshares of the planned report, at 5 seeds, and of all later ones, up to 50")
    for planned, later in SHARES:
        looks = {5: Design("planned", "", planned)}
        looks |= dict.fromkeys(range(6, LAST + 1), Design("anytime", "", later))
        shares = f"{planned:.1%}, {later:.1%}"
        lengths = [looks[seeds].critical_t(seeds) / np.sqrt(seeds) for seeds in (5, 20)]
        cells = [
            false_alarms(kind, n, studies, looks)
            for n in (1, 3)
            for kind in ("normal", "exponential")
        ]
        print(f"{shares:36}" + "".join(f"{cell:9.1%}" for cell in cells), end="")
        print(f"{lengths[0]:7.2f}{lengths[1]:7.2f}")
    print("\nother rules, one comparison; c: mean number of standard errors at 5 to 20 seeds")
    print(f"{'':36}{'normal':>9}{'exponential':>13}{'c':>7}")
    for name, normal, exponential, length in compared_rules(studies):
        print(f"{name:36}{normal:9.1%}{exponential:13.1%}{length:7.2f}")
    print(
        "\nseeds from which an interval is bounded, by comparisons: without a plan, and after one"
    )
    for count in (1, 3, 5, 12):
        first = [
            next(n for n in LOOKS if np.isfinite(design.critical_t(n, count)))
            for design in (ANYTIME, LATER)
        ]
        print(f"{count:<36}{first[0]:11}{first[1]:11}")
    print("\nthree comparisons; c by g")
    for g in (1, 3, 5, 10):
        print(f"{g:<36}{_length(lambda n, g=g: anytime_t(n, ALPHA / 3, g)):29.2f}")  # type: ignore[misc]
    print(f"\nStein's two stages, {studies:,} studies of standard deviation {SD}")
    print(f"{'margin':36}{'coverage':>11}{'mean seeds':>11}{'95 % below':>11}")
    for margin in MARGINS:
        coverage, seeds = two_stages(margin, studies)
        print(f"{margin:<36}{coverage:11.1%}{seeds.mean():11.1f}{np.quantile(seeds, 0.95):11.0f}")
    coverage, seeds = two_stages(0.5, studies, comparisons=3)
    print(f"{'0.5, each of three comparisons':36}{coverage:11.1%}{seeds.mean():11.1f}")
    print_tables(studies)


def t_paths(differences: Floats) -> Floats:
    """|t| after 2, 3, ... seeds of studies: `[studies, seeds]` to `[studies, seeds - 1]`."""
    seeds = np.arange(1, differences.shape[1] + 1)
    means = differences.cumsum(axis=1) / seeds
    squares = np.square(differences).cumsum(axis=1) - seeds * np.square(means)
    paths: Floats = np.abs(means * np.sqrt(seeds))[:, 1:]
    paths /= np.sqrt(squares[:, 1:] / (seeds[1:] - 1))
    return paths


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


def scenarios() -> dict[str, dict[int, Design]]:
    """What people may do: the design of each look, by its number of seeds."""
    after_each = {n: dict.fromkeys(range(n + 1, LAST + 1), LATER) for n in (5, 10)}
    return {
        "one planned report, at 5": {5: PLANNED},
        "one planned report, at 10": {10: PLANNED},
        "one planned report, at 20": {20: PLANNED},
        "planned at 5, then after 6 to 50": {5: PLANNED} | after_each[5],
        "planned at 10, then after 11 to 50": {10: PLANNED} | after_each[10],
        "planned at 4, then at 6, 9, 14, 22": {4: PLANNED} | dict.fromkeys((6, 9, 14, 22), LATER),
        "no plan, a look after 2 to 50": dict.fromkeys(LOOKS, ANYTIME),
        "t-test, one look at 5": {5: STUDENT},
        "t-test, a look after 2 to 50": dict.fromkeys(LOOKS, STUDENT),
    }


def false_alarms(kind: str, comparisons: int, studies: int, looks: Mapping[int, Design]) -> float:
    """Fraction of studies without effect in which something is settled at one of the looks."""
    columns = np.array([*looks]) - 2
    bounds = np.array([design.critical_t(n, comparisons) for n, design in looks.items()])
    paths = without_effect(kind, comparisons, studies)
    alarms = [(one[:, columns] > bounds).any(axis=1) for one in paths]
    return float(np.any(alarms, axis=0).mean())


def two_stage_false_alarms(kind: str, comparisons: int, studies: int) -> float:
    """The same of `seeds=auto`: a variant gets the seeds that its widest effect needs."""
    pairs = pairs_of(kind, comparisons)
    critical = TWO_STAGE.critical_t(FIRST_SEEDS, comparisons)
    differences = [*differences_without_effect(kind, comparisons, studies)]
    sds = [one[:, :FIRST_SEEDS].std(axis=1, ddof=1) for one in differences]
    asked = [np.ceil(np.square(critical * sd / (MARGIN / SD))) for sd in sds]
    needed = np.full((max(map(max, pairs)) + 1, studies), FIRST_SEEDS)
    for pair, seeds in zip(pairs, asked, strict=True):
        for variant in pair:
            needed[variant] = np.maximum(needed[variant], np.minimum(seeds, MOST))
    alarms = []
    for (first, second), one, sd in zip(pairs, differences, sds, strict=True):
        seeds = np.minimum(needed[first], needed[second])
        sums = np.take_along_axis(one.cumsum(axis=1), seeds[:, None] - 1, axis=1)[:, 0]
        alarms.append(np.abs(sums) > critical * sd * np.sqrt(seeds))
    return float(np.any(alarms, axis=0).mean())


def _columns(studies: int) -> Iterator[tuple[float, ...]]:
    """A row per scenario, and one for two stages, with the false alarms of each of `COLUMNS`."""
    columns = []
    for kind, comparisons in COLUMNS:
        column = [false_alarms(kind, comparisons, studies, looks) for looks in scenarios().values()]
        columns.append([*column, two_stage_false_alarms(kind, comparisons, studies)])
    return zip(*columns, strict=True)


def compared_rules(studies: int) -> Iterator[tuple[str, float, float, float]]:
    """Each rule's false alarms over all looks, normal and exponential, and its mean critical t.

    A rule marked * is as strict as it takes to raise no more false alarms on exponential
    differences than one look of the t-test at 5 seeds.
    """
    (normal,) = without_effect("normal", 1, studies)
    (exponential,) = without_effect("exponential", 1, studies)
    once = (exponential[:, 5 - 2] > STUDENT.critical_t(5)).mean()

    def alarms(paths: Floats, rule: Rule) -> float:
        return float((paths > [rule(seeds) for seeds in LOOKS]).any(axis=1).mean())

    def at_level(level: Callable[[int], float]) -> Rule:
        return lambda seeds: float(stats.t.isf(level(seeds) / 2, seeds - 1))

    def calibrated(shape: Rule) -> Rule:
        def excess(log_level: float) -> float:
            rule = at_level(lambda n: float(np.exp(log_level)) * shape(n))
            return alarms(exponential, rule) - float(once)

        found = optimize.brentq(excess, np.log(1e-6), np.log(ALPHA), xtol=1e-3)
        return at_level(lambda n: float(np.exp(found)) * shape(n))

    rules: dict[str, Rule] = {
        "t": STUDENT.critical_t,
        "t, the same level at each look *": calibrated(lambda n: 1.0),
        "t, level falling as 1 / n *": calibrated(lambda n: 2 / n),
    }
    for g in (0.3, 1, 3, 10, 100):
        rules[f"Bayes factor, g = {g:g}"] = lambda n, g=g: anytime_t(n, ALPHA, g)  # type: ignore[misc]
    for name, rule in rules.items():
        yield name, alarms(normal, rule), alarms(exponential, rule), _length(rule)


def _length(rule: Rule) -> float:
    """Mean critical t at 5 to 20 seeds."""
    return float(np.mean([rule(seeds) for seeds in range(5, 21)]))


def two_stages(
    margin: float, studies: int, comparisons: int = 1
) -> tuple[float, npt.NDArray[np.int64]]:
    """Stein's rule with a standard deviation of SD: coverage, and the seeds of each study.

    Of one effect, where `comparisons` hold jointly.
    """
    random = np.random.default_rng(1)
    first = random.normal(0, SD, (studies, FIRST_SEEDS))
    sds = first.std(axis=1, ddof=1)
    seeds = np.array(
        [seeds_for_margin(sd, margin, FIRST_SEEDS, 10**6, comparisons, TWO_STAGE) for sd in sds]
    )
    # The sum of the later seeds has a standard deviation of sqrt(their number).
    later = random.normal(0, SD, studies) * np.sqrt(seeds - FIRST_SEEDS)
    half = TWO_STAGE.critical_t(FIRST_SEEDS, comparisons) * sds / np.sqrt(seeds)
    return float((np.abs(first.sum(axis=1) + later) / seeds < half).mean()), seeds


if __name__ == "__main__":
    main()
