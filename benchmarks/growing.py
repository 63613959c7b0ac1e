"""Simulate studies that add seeds: how many it takes, and how often their intervals are wrong.

By the rules of commit ecec4b8, and by those of now. Its tables are printed by
`python -m benchmarks.intervals`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.studies import Floats, Integers, fixed_width, running, t_paths, two_stage
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import (
    ALPHA,
    LATER_ALPHA,
    PLANNED,
    PLANNED_ALPHA,
    anytime_t,
)

# Differences, margin, most seeds, comparisons: to seeds, and half-widths times their square root.
Rule = Callable[[Floats, float, int, int], tuple[Integers, Floats]]

SD = 0.85  # points, of the difference of two variants after their last epochs
# The variance of the mean of the last five epochs, as a share of the last one's: that of 23 real
# differences (`benchmarks.outcomes`).
SHARE = 0.55
MARGINS = (0.3, 0.5, 1.0)  # points
RATIOS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)  # of the spread to the margin
FAMILIES = (1, 3, 6, 10, 28)  # comparisons
RULES: Mapping[str, Rule] = {"two stages": two_stage, "fixed width": fixed_width}
COLUMNS = ((two_stage, 1.0), (fixed_width, 1.0), (fixed_width, SHARE))
MANY = 400  # seeds, if there is no limit
EFFECTS = (0.8, 1.2, 2.0)  # standard deviations


def print_tables(studies: int) -> None:
    """Print the seeds that a margin takes, those that an effect takes, and the coverage."""
    fewer = studies // 6
    print(f"\nseeds until an interval is ± a margin, {fewer:,} studies, standard deviation {SD}")
    print(f"{'':36}{'two stages':>22}{'fixed width':>22}{'and mean5':>22}{'stop_early':>22}")
    for margin, comparisons in [(margin, 1) for margin in MARGINS] + [(0.5, 3)]:
        cells = ""
        for rule, share in (*COLUMNS, (sequence, 1.0)):
            spread = SD * np.sqrt(share)
            wrong, seeds = margin_study(rule, margin / spread, MANY, comparisons, fewer)
            cells += f"{1 - wrong:12.1%}{seeds:10.1f}"
        name = f"margin {margin}" + f", each of {comparisons} comparisons" * (comparisons > 1)
        print(f"{name:36}{cells}")
    print("\nmost errors of any spread and limit, as a share of those that are allowed")
    heads = "".join(f"{n:9}" for n in FAMILIES)
    print(f"{'comparisons':36}{heads}")
    for name, limits in (("no limit", (MANY,)), ("at most 7, 10, 15, 30", (7, 10, 15, 30))):
        cells = "".join(f"{worst_errors(limits, n, fewer):9.2f}" for n in FAMILIES)
        print(f"{name:36}{cells}")
    print("\nseeds until an effect is settled, if one looks after each seed; mean (median)")
    print(f"{'effect in standard deviations':36}" + "".join(f"{one:14}" for one in EFFECTS))
    rows = [(name, critical, 1.0) for name, critical in looks().items()]
    rows += [(f"{name}, mean5", critical, SHARE) for name, critical in looks().items()]
    for name, critical, share in rows:
        found = [seeds_to_settle(critical, effect / np.sqrt(share), fewer) for effect in EFFECTS]
        cells = "".join(f"{f'{one.mean():.1f} ({np.median(one):.0f})':>14}" for one in found)
        print(f"{name:36}{cells}")
    print("\ncritical t at 6, 7, 8, 10, 15, 16 and 30 seeds")
    for name, critical in looks().items():
        cells = "".join(f"{critical[n - 2]:9.2f}" for n in (6, 7, 8, 10, 15, 16, 30))
        print(f"{name:36}{cells}")


def sequence(
    differences: Floats, margin: float, most: int, comparisons: int = 1
) -> tuple[Integers, Floats]:
    """The rule of `stop_early=yes`, if no question is answered before the margin is reached."""
    counts = np.arange(FIRST_SEEDS, most + 1)
    critical = np.array([anytime_t(int(n), ALPHA / comparisons, comparisons) for n in counts])
    bought = critical * running(differences[:, :most])[1][:, FIRST_SEEDS - 2 :]
    enough = bought <= margin * np.sqrt(counts)
    enough[:, -1] = True
    stop = enough.argmax(axis=1)
    return counts[stop], np.take_along_axis(bought, stop[:, None], axis=1)[:, 0]


def margin_study(
    rule: Rule, margin: float, most: int, comparisons: int, studies: int
) -> tuple[float, float]:
    """How often the interval of one comparison is wrong, and the mean number of seeds.

    margin: in standard deviations.
    """
    differences = np.random.default_rng(1).standard_normal((studies, most))
    seeds, bought = rule(differences, margin, most, comparisons)
    # Given the spread, the mean of so many differences is normal: exactly, instead of by a draw.
    return float(2 * stats.norm.sf(bought).mean()), float(seeds.mean())


def worst_errors(limits: tuple[int, ...], comparisons: int, studies: int) -> float:
    """The most errors of the fixed-width rule at any spread, as a share of the allowed ones."""
    allowed = PLANNED_ALPHA / comparisons
    return max(
        margin_study(fixed_width, 1 / ratio, most, comparisons, studies)[0] / allowed
        for ratio in RATIOS
        for most in limits
    )


def looks() -> dict[str, Floats]:
    """Critical t after 2, 3, ... seeds, without a plan and after one at 5.

    `of 10`: so many were named as the most that there could ever be.
    """
    counts = range(2, MANY + 1)
    before = np.array([anytime_t(n, ALPHA, 1) for n in counts])
    after = np.array([anytime_t(n, LATER_ALPHA, 1) for n in counts])
    found = {"no plan": before, "planned at 5": after}
    for most in (10, 15):
        later = replace(PLANNED, most=most).after(FIRST_SEEDS)
        found[f"planned at 5 of {most}"] = np.array([later.critical_t(n) for n in counts])
    for name, one in found.items():
        if name != "no plan":
            one[: FIRST_SEEDS - 2] = np.inf
            one[FIRST_SEEDS - 2] = PLANNED.critical_t(FIRST_SEEDS)
    return found


def seeds_to_settle(critical: Floats, effect: float, studies: int) -> npt.NDArray[np.int64]:
    """After how many seeds each study settles an effect, if it looks after each."""
    drawn = np.random.default_rng(2).standard_normal((studies, len(critical) + 1)) + effect
    reached = t_paths(drawn) > critical
    reached[:, -1] = True
    return np.asarray(reached.argmax(axis=1) + 2)
