"""Compare what could count as a run's result, by the published curves.

The accuracy of the last epoch, the mean of the last ones, or a line through them, read at the end.
Printed by `python -m benchmarks.intervals`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.growing import MANY, RULES, Rule
from benchmarks.published import RESULTS
from benchmarks.studies import Floats

# From `[seeds, epochs]` to what counts, `[seeds]`.
Reading = Callable[[Floats], Floats]

# By study: treatment, control, and the learning rate.
PAIRS = {
    "dropout": [("dropout", "bn", 0.001)],
    "variants": [
        ("bn", "base", 0.001),
        ("dropout", "bn", 0.001),
        ("base_dropout", "base", 0.001),
    ],
    "residual": [("se", "plain", 0.001), ("smooth", "plain", 0.001), ("se_smooth", "se", 0.001)],
    "learning-rates": [("bn", "base", 0.001), ("dropout", "bn", 0.001)],
}
# Of these, the runs repeat the first ones above, bit by bit; the margin is in points.
TO_A_MARGIN = {
    "mean5-dropout": ("dropout", "bn", 0.5),
    "mean5-base-dropout": ("base_dropout", "base", 1.0),
}
MARGIN = 0.5  # points
WITHIN = 2 / 3  # of a run's epochs, at most so many count


def print_tables(studies: int) -> None:
    """Print effect and spread of each reading, then the seeds that a margin takes by real runs."""
    names = list(readings(30))
    print(
        "\nwhat counts: effect in points (standard deviation), and below it the variance as a share"
    )
    print("of the last epoch's")
    print(f"{'':36}" + "".join(f"{name:>14}" for name in names))
    of_all = []
    for study, pairs in PAIRS.items():
        for treatment, control, rate in pairs:
            found = differences_of(study, treatment, control, rate)
            known = readings(found.shape[1])
            counted = {name: reading(found) for name, reading in known.items()}
            shares = {
                name: one.var(ddof=1) / counted["last"].var(ddof=1) for name, one in counted.items()
            }
            row = f"{study}: {treatment} − {control}, {len(found)}"
            print(f"{row:36}{_cells(names, counted, '{0:+.2f} ({1:.2f})')}")
            print(f"{'':36}{_cells(names, shares, '{0:.2f}')}")
            if len(shares) == len(names):
                of_all.append(shares)
    medians = {name: np.median([one[name] for one in of_all]) for name in names}
    title = f"median of the {len(of_all)} that have all"
    print(f"{title:36}{_cells(names, medians, '{0:.2f}')}")
    print(
        f"\nseeds until ± {MARGIN} points, {studies // 6:,} studies of resampled real differences"
    )
    print(f"{'':36}{'last epoch, two stages':>26}{'mean5, fixed width':>26}{'ratio':>8}")
    for comparisons in (1, 3):
        before, after = (
            resampled(reading, RULES[rule], comparisons, studies // 6)
            for reading, rule in (("last", "two stages"), ("mean5", "fixed width"))
        )
        cells = "".join(f"{covered:16.1%}{seeds:10.1f}" for covered, seeds in (before, after))
        name = "one comparison" if comparisons == 1 else f"each of {comparisons} comparisons"
        print(f"{name:36}{cells}{after[1] / before[1]:8.2f}")
    print("\nnetworks of the studies with a margin, and by the rules of before for the same seeds")
    for study, (treatment, control, margin) in TO_A_MARGIN.items():
        last = differences_of(study, treatment, control, 0.001)[:, -1]
        (before,), _ = RULES["two stages"](last[None], margin, MANY, 1)
        name = f"{treatment} − {control} to ± {margin:g}"
        print(f"{name:36}{2 * len(last):8} now{2 * before:8} before{len(last) / before:8.2f}")


def _cells(names: Sequence[str], known: Mapping[str, Any], shown: str) -> str:
    """The mean and standard deviation of what is known, by name."""
    cells = {
        name: shown.format(np.mean(one), np.std(one, ddof=1) if np.size(one) > 1 else 0)
        for name, one in known.items()
    }
    return "".join(f"{cells.get(name, ''):>14}" for name in names)


def differences_of(study: str, treatment: str, control: str, rate: float) -> Floats:
    """Differences of validation accuracy in points, `[seeds, epochs]`."""
    first, second = (accuracies(study, variant, rate) for variant in (treatment, control))
    seeds = first.index.intersection(second.index)
    return np.asarray(100 * (first.loc[seeds] - second.loc[seeds]))


def accuracies(study: str, variant: str, rate: float) -> pd.DataFrame:
    """Validation accuracy of a variant's runs: a row per seed, a column per epoch."""
    table = _curves(study)
    runs = table[(table["variant"] == variant) & np.isclose(table["rate"], rate)]
    return runs.pivot(index="seed", columns="epoch", values="val_accuracy")


def readings(epochs: int) -> dict[str, Reading]:
    """What may count, by name; of the last epochs, not more than two thirds of all."""

    def mean(count: int) -> Reading:
        return lambda values: np.asarray(values[:, -count:].mean(axis=1))

    def line(count: int) -> Reading:
        places = np.arange(count) - (count - 1)
        weights = np.linalg.pinv(np.stack([np.ones(count), places], axis=1))[0]
        return lambda values: np.asarray(values[:, -count:] @ weights)

    last: dict[str, Reading] = {"last": lambda values: values[:, -1]}
    means = {f"mean{n}": mean(n) for n in (2, 3, 5, 7, 10) if n <= WITHIN * epochs}
    lines = {f"line{n}": line(n) for n in (5, 7, 10, 15) if n <= WITHIN * epochs}
    return {**last, **means, **lines}


def resampled(name: str, rule: Rule, comparisons: int, studies: int) -> tuple[float, float]:
    """Coverage and mean seeds for the margin, with real differences drawn with replacement.

    Of 23 seeds. Their own mean is the true effect.
    """
    real = readings(30)[name](differences_of("dropout", "dropout", "bn", 0.001))
    # Drawn with replacement, n differences have a variance that is too small by (n - 1) / n.
    real = (real - real.mean()) * np.sqrt(len(real) / (len(real) - 1))
    drawn = np.random.default_rng(4).choice(real, (studies, MANY))
    seeds, bought = rule(drawn, MARGIN, MANY, comparisons)
    sums = np.take_along_axis(drawn.cumsum(axis=1), seeds[:, None] - 1, axis=1)[:, 0]
    return float((np.abs(sums) / np.sqrt(seeds) <= bought).mean()), float(seeds.mean())


@cache
def _curves(study: str) -> pd.DataFrame:
    runs = pd.read_csv(RESULTS / study / "results.csv")[["run_id", "variant", "seed", "lr"]]
    curves = pd.read_csv(RESULTS / study / "curves.csv")
    return curves.merge(runs.rename(columns={"lr": "rate"}), on="run_id")
