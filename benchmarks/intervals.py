"""Simulate how often intervals are wrong: after any look, and with as many seeds as a margin needs.

python -m benchmarks.intervals [--studies 60000]

Prints the figures of `pipeline/statistics/intervals.py`, and of the rules that were tried instead
(docs/LOG.md). Takes about a minute.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

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
SHARES = ((0.05, 0.05), (0.05, 0.01), (0.04, 0.01), (0.03, 0.02), (0.025, 0.025))
SD, MARGINS = 0.85, (0.3, 0.5, 1.0)  # points


def main() -> None:
    """Print all figures as tables."""
    parser = argparse.ArgumentParser(description="Simulate how often intervals are wrong.")
    parser.add_argument("--studies", type=int, default=60_000)
    studies = parser.parse_args().studies
    print(f"studies without effect that raise a false alarm, of {studies:,}")
    print(f"{'':36}{'one comparison':>22}{'three, jointly':>22}")
    print(f"{'':36}{'normal  exponential':>22}{'normal  exponential':>22}")
    for name, looks in scenarios().items():
        print(f"{name:36}{_alarm_cells(studies, looks)}")
    print("\nshares of the planned report, at 5 seeds, and of all later ones, up to 50")
    for planned, later in SHARES:
        looks = {5: Design("planned", "", planned)}
        looks |= dict.fromkeys(range(6, LAST + 1), Design("anytime", "", later))
        shares = f"{planned:.1%}, {later:.1%}"
        lengths = [looks[seeds].critical_t(seeds) / np.sqrt(seeds) for seeds in (5, 20)]
        print(f"{shares:36}{_alarm_cells(studies, looks)}{lengths[0]:7.2f}{lengths[1]:7.2f}")
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


def t_paths(differences: Floats) -> Floats:
    """|t| after 2, 3, ... seeds of studies: `[studies, seeds]` to `[studies, seeds - 1]`."""
    seeds = np.arange(1, differences.shape[1] + 1)
    means = differences.cumsum(axis=1) / seeds
    squares = np.square(differences).cumsum(axis=1) - seeds * np.square(means)
    paths: Floats = np.abs(means * np.sqrt(seeds))[:, 1:]
    paths /= np.sqrt(squares[:, 1:] / (seeds[1:] - 1))
    return paths


def without_effect(kind: str, comparisons: int, studies: int) -> list[Floats]:
    """|t| paths of each comparison in studies without effect; differences of one sd or skewed."""
    random = np.random.default_rng(0)
    if kind == "exponential":
        first, second = random.exponential(size=(2, studies, LAST)) - 1
        differences = [first, second, first + second]
    else:
        base, bn, dropout = random.standard_normal((3, studies, LAST))
        differences = [bn - base, dropout - bn, dropout - base]
    return [t_paths(one) for one in differences[:comparisons]]


def scenarios() -> dict[str, dict[int, Design]]:
    """What people may do: the design of each look, by its number of seeds."""
    return {
        "one planned report, at 5": {5: PLANNED},
        "planned at 5, then after 6 to 50": {5: PLANNED} | dict.fromkeys(range(6, LAST + 1), LATER),
        "planned at 10, then after 11 to 50": {10: PLANNED}
        | dict.fromkeys(range(11, LAST + 1), LATER),
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


def _alarm_cells(studies: int, looks: Mapping[int, Design]) -> str:
    """False alarms with one and with three comparisons, normal and exponential."""
    return "".join(
        f"{false_alarms(kind, comparisons, studies, looks):11.1%}"
        for comparisons in (1, 3)
        for kind in ("normal", "exponential")
    )


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
