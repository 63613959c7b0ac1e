"""Simulate how often intervals are wrong, after whichever looks, and how many seeds they take.

python -m benchmarks.intervals [--studies 60000]

Prints the figures of `pipeline/statistics` (`intervals`, `fixed_width`, `skewness`), and of the
rules that were tried instead (docs/LOG.md). Takes about six minutes.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from benchmarks import growing, joint, outcomes, unpaired
from benchmarks.growing import SD
from benchmarks.studies import (
    LAST,
    Floats,
    Integers,
    differences_without_effect,
    fixed_width,
    pairs_of,
    two_stage,
    without_effect,
)
from pipeline.statistics import FIRST_SEEDS, boundary
from pipeline.statistics.intervals import (
    ALPHA,
    ANYTIME,
    LATER,
    LATER_ALPHA,
    PLANNED,
    WITHIN,
    Design,
    anytime_t,
)

Rule = Callable[[int], float]  # critical t by number of seeds

LOOKS = range(2, LAST + 1)
STUDENT = Design("planned", "", ALPHA)  # the usual t-test
# How differences are distributed: of all pairs of variants, which are normal, or of which each is
# an exponential step from the one before; or exponential and independent in each comparison.
KINDS = ("normal", "exponential", "independent")
# `independent` is the same as `exponential` for one comparison.
COLUMNS = [(kind, n) for n in (1, 3, 6, 10) for kind in KINDS[: 2 if n == 1 else 3]]
MARGIN = 0.5 / SD  # standard deviations
MOST = 30  # the default of `max_seeds`
WIDTHS = {"two-stage, before": two_stage, "fixed width": fixed_width}


@dataclass(frozen=True)
class Ending(Design):
    """Looks with an end, whichever it is, that take another share of the errors; not kept."""

    share: float = WITHIN

    def critical_t(self, size: float, comparisons: int = 1, freedom: float | None = None) -> float:
        """How many standard errors the interval reaches to each side."""
        alpha, first = self.alpha / comparisons, self.later_than + 1
        if size <= self.most:
            return boundary.critical_t(int(size), self.share * alpha, first, self.most)
        return anytime_t(size, (1 - self.share) * alpha, comparisons)


def main() -> None:
    """Print all figures as tables."""
    parser = argparse.ArgumentParser(description="Simulate how often intervals are wrong.")
    parser.add_argument("--studies", type=int, default=60_000)
    studies = parser.parse_args().studies
    print(f"studies without effect that raise a false alarm, of {studies:,}")
    print("e: exponential, all pairs of variants compared; i: the same, independent comparisons")
    print(" " * 44 + "".join(f"{kind[0]} {n}".rjust(7) for kind, n in COLUMNS))
    names = [*scenarios(), *(f"{one}, margin {MARGIN:.2f} sd, to {MOST}" for one in WIDTHS)]
    for name, row in zip(names, _columns(studies), strict=True):
        print(f"{name:44}" + "".join(f"{cell:7.1%}" for cell in row))
    print("\nother rules, one comparison; c: mean number of standard errors at 5 to 20 seeds")
    print(f"{'':36}{'normal':>9}{'exponential':>13}{'c':>7}")
    for name, normal, exponential, length in compared_rules(studies):
        print(f"{name:36}{normal:9.1%}{exponential:13.1%}{length:7.2f}")
    print("\nconfidence sequences: seeds from which an interval is bounded, by comparisons")
    print(f"{'':36}{'no plan':>11}{'after one':>11}")
    for count in (1, 3, 5, 12):
        first = [
            next(n for n in LOOKS if np.isfinite(design.critical_t(n, count)))
            for design in (ANYTIME, LATER)
        ]
        print(f"{count:<36}{first[0]:11}{first[1]:11}")
    print("\nthree comparisons; c by g")
    for g in (1, 3, 5, 10):
        print(f"{g:<36}{_length(lambda n, g=g: anytime_t(n, ALPHA / 3, g)):29.2f}")  # type: ignore[misc]
    growing.print_tables(studies)
    outcomes.print_tables(studies)
    joint.print_tables(studies)
    unpaired.print_tables(studies)


def scenarios() -> dict[str, dict[int, Design]]:
    """What people may do: the design of each look, by its number of seeds; the last is at 50.

    `of 10`: so many were named as the most that there could ever be.
    """

    def after(planned: int, later: Design = LATER) -> dict[int, Design]:
        return {planned: PLANNED} | dict.fromkeys(range(planned + 1, LAST + 1), later)

    def of(most: int, planned: int) -> Design:
        return replace(PLANNED, most=most).after(planned)

    def tried(share: float, most: int, planned: int = FIRST_SEEDS) -> dict[int, Design]:
        later = Ending("anytime", "", LATER_ALPHA, most=most, later_than=planned, share=share)
        return after(planned, later)

    return {
        "one planned report, at 5": {5: PLANNED},
        "one planned report, at 10": {10: PLANNED},
        "one planned report, at 20": {20: PLANNED},
        "planned at 5, then after 6 to 50": after(5),
        "planned at 5 of 10, then after 6 to 50": after(5, of(10, 5)),
        "planned at 5 of 15, then after 6 to 50": after(5, of(15, 5)),
        "planned at 3, then after 4 to 50": after(3),
        "planned at 3 of 10, then after 4 to 50": after(3, of(10, 3)),
        "planned at 10, then after 11 to 50": after(10),
        "planned at 4, then at 6, 9, 14, 22": ({4: PLANNED} | dict.fromkeys((6, 9, 14, 22), LATER)),
        "not kept: 5 of 30, half within": tried(0.5, 30),
        "not kept: 5 of 30, nine tenths within": tried(0.9, 30),
        "not kept: 10 of 30, two fifths within": tried(0.4, 30, 10),
        "planned at 5, then after 6 to 10": dict([*after(5).items()][:6]),
        "planned at 5 of 10, then after 6 to 10": dict([*after(5, of(10, 5)).items()][:6]),
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


def margin_false_alarms(
    kind: str,
    comparisons: int,
    studies: int,
    rule: Callable[[Floats, float, int, int], tuple[Integers, Floats]],
) -> float:
    """The same of `seeds=auto`: a variant gets the seeds that its widest effect needs."""
    pairs = pairs_of(kind, comparisons)
    differences = [*differences_without_effect(kind, comparisons, studies)]
    asked = [rule(one, MARGIN, MOST, comparisons) for one in differences]
    needed = np.full((max(map(max, pairs)) + 1, studies), FIRST_SEEDS)
    for pair, (seeds, _) in zip(pairs, asked, strict=True):
        for variant in pair:
            needed[variant] = np.maximum(needed[variant], seeds)
    alarms = []
    for (first, second), one, (_, bought) in zip(pairs, differences, asked, strict=True):
        seeds = np.minimum(needed[first], needed[second])
        sums = np.take_along_axis(one.cumsum(axis=1), seeds[:, None] - 1, axis=1)[:, 0]
        alarms.append(np.abs(sums) > bought * np.sqrt(seeds))
    return float(np.any(alarms, axis=0).mean())


def _columns(studies: int) -> Iterator[tuple[float, ...]]:
    """A row per scenario, and per rule for a margin, with the false alarms of each of `COLUMNS`."""
    columns = []
    for kind, comparisons in COLUMNS:
        column = [false_alarms(kind, comparisons, studies, looks) for looks in scenarios().values()]
        for rule in WIDTHS.values():
            column.append(margin_false_alarms(kind, comparisons, studies, rule))
        columns.append(column)
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


if __name__ == "__main__":
    main()
