"""Simulate how often the intervals of independent samples are wrong, after any look.

Its tables are printed by `python -m benchmarks.intervals`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.statistics.intervals import (
    ALPHA,
    LATER_ALPHA,
    anytime_freedom,
    anytime_t,
    log_bayes_factor,
)

Floats = npt.NDArray[np.float64]
# Degrees of freedom by Welch's, and the runs of the smaller sample.
Freedom = Callable[[Floats, Floats], Floats]

# How the samples grow, up to so many runs of the smaller one. In `5 to all`, the first has 5 runs
# when the second grows; in `random`, each run belongs to either.
GROWTHS = {"1:1": 50, "1:3": 50, "3:1": 50, "1:10": 30, "5 to all": 50, "random": 50}
VARIANCES = (1, 4, 16, 100)  # of the first sample; the second has 1
# Alpha of so many comparisons: up to all pairs of 8 variants.
FAMILIES = ((ALPHA, 1), (LATER_ALPHA, 1), (ALPHA, 3), (ALPHA, 12), (ALPHA, 28))
FEW = 2.0  # standard errors: each rule has intervals that reach further
# By name: whether intervals begin only where those of a paired comparison do, and the freedom.
FREEDOMS: dict[str, tuple[bool, Freedom]] = {
    "Welch's": (False, lambda welch, smaller: welch),
    "Welch's, from the first paired one": (True, lambda welch, smaller: welch),
    "mean, from then on": (True, lambda welch, smaller: (welch + smaller - 1) / 2),
    "harmonic mean, from then on": (True, anytime_freedom),
    "the smaller sample's": (False, lambda welch, smaller: smaller - 1),
}
CHOSEN = "harmonic mean, from then on"
TWO_SEQUENCES = "a sequence for each mean"  # with alpha / 2 each: proved, but long


class Looks(NamedTuple):
    """Looks at two independent samples without effect, of differences of FEW errors or more.

    study: which one it is. sizes, errors: of each sample, the latter of its mean, `[2, looks]`.
    """

    study: npt.NDArray[np.int64]
    difference: Floats
    sizes: Floats
    errors: Floats


def print_tables(studies: int) -> None:
    """Print the false alarms of the rule that was chosen, and compare the others with it."""
    print("\nindependent samples, a look after each run of the smaller one, one comparison")
    print(f"{'':36}" + "".join(f"{f'{variance}:1':>9}" for variance in VARIANCES))
    worst: dict[str, Floats] = {}
    for kind in ("normal", "exponential"):
        for growth in GROWTHS:
            found = [false_alarms(kind, growth, variance, studies) for variance in VARIANCES]
            cells = "".join(f"{one[CHOSEN][0]:9.1%}" for one in found)
            print(f"{f'{kind}, {growth}':36}{cells}")
            for one in found if kind == "normal" else []:
                worst = {name: np.maximum(one[name], worst.get(name, 0)) for name in one}
    print("\nby degrees of freedom, the most alarms of a normal case: alpha, number of comparisons")
    print("c: number of standard errors with 5, 10 and 20 runs of each, of equal variance")
    heads = [f"{alpha:.0%}, {count}" for alpha, count in FAMILIES] + ["c 5", "c 10", "c 20"]
    print(f"{'':36}" + "".join(f"{head:>9}" for head in heads))
    for name, shares in worst.items():
        cells = "".join(f"{one:9.1%}" for one in shares)
        print(f"{name:36}{cells}" + "".join(f"{critical_t(name, n):9.2f}" for n in (5, 10, 20)))


def false_alarms(kind: str, growth: str, variance: float, studies: int) -> dict[str, Floats]:
    """For each rule and family, the fraction of studies with an alarm, times the comparisons."""
    looks = look(kind, growth, variance, studies)
    squares, (smaller, _) = np.square(looks.errors), np.sort(looks.sizes, axis=0)
    whole = squares.sum(axis=0)
    t, size = looks.difference / np.sqrt(whole), (squares * looks.sizes).sum(axis=0) / whole
    welch = np.square(whole) / (np.square(squares) / (looks.sizes - 1)).sum(axis=0)
    found: dict[str, list[float]] = {name: [] for name in (*FREEDOMS, TWO_SEQUENCES)}

    def count(name: str, comparisons: int, alarms: npt.NDArray[np.bool_]) -> None:
        found[name].append(comparisons * len(np.unique(looks.study[alarms])) / studies)

    for family, comparisons in FAMILIES:
        alpha = family / comparisons
        begun = np.isfinite(_critical(smaller, alpha, comparisons))
        for name, (waits, freedom) in FREEDOMS.items():
            factor = log_bayes_factor(t, size, comparisons, freedom(welch, smaller))
            count(name, comparisons, (factor > -np.log(alpha)) & (begun | (not waits)))
        halves = _critical(looks.sizes, alpha / 2, comparisons) * looks.errors
        count(TWO_SEQUENCES, comparisons, np.abs(looks.difference) > halves.sum(axis=0))
    return {name: np.array(shares) for name, shares in found.items()}


def critical_t(name: str, runs: int) -> float:
    """A rule's critical t with so many runs of each, if their variances are equal."""
    if name == TWO_SEQUENCES:
        return float(np.sqrt(2) * anytime_t(runs, ALPHA / 2, 1))
    waits, freedom = FREEDOMS[name]
    if waits and not np.isfinite(anytime_t(runs, ALPHA, 1)):
        return np.inf
    welch, smaller = np.array([2.0 * (runs - 1)]), np.array([float(runs)])
    return anytime_t(runs, ALPHA, 1, float(freedom(welch, smaller)[0]))


def look(kind: str, growth: str, variance: float, studies: int) -> Looks:
    """Draw two samples with expectation 0 for each study, and look as they grow."""
    random, last = np.random.default_rng(0), GROWTHS[growth]
    if growth == "random":
        first = (random.random((studies, 2 * last)) < 0.5).cumsum(axis=1)
        sizes = np.array([first, np.arange(1, 2 * last + 1) - first])
    else:
        each = np.arange(2, last + 1)
        both = [np.full_like(each, 5), each]
        if growth != "5 to all":
            both = [int(share) * each for share in growth.split(":")]
        sizes = np.array(both)[:, None].repeat(studies, axis=1)
    means, errors = [], []
    for counts, sd in zip(sizes, (np.sqrt(variance), 1), strict=True):
        shape = studies, int(counts.max())
        normal = kind == "normal"
        values = random.standard_normal(shape) if normal else random.exponential(size=shape) - 1
        values *= sd
        at, runs = np.maximum(counts, 1) - 1, np.maximum(counts, 2)
        sums, squares = (
            np.take_along_axis(one.cumsum(axis=1), at, axis=1) for one in (values, values**2)
        )
        means.append(sums / runs)
        errors.append(np.sqrt((squares - sums**2 / runs) / (runs - 1) / runs))
    differences = means[0] - means[1]
    chosen = (np.abs(differences) >= FEW * np.hypot(*errors)) & (sizes.min(axis=0) >= 2)
    picked = (np.array([one[chosen] for one in both]) for both in (sizes, errors))
    return Looks(np.nonzero(chosen)[0], differences[chosen], *picked)


def _critical(sizes: Floats, alpha: float, g: float) -> Floats:
    """Critical t of the mean of one sample of each size."""
    table = [anytime_t(n, alpha, g) for n in range(2, int(sizes.max()) + 1)]
    return np.take([np.inf, np.inf, *table], sizes.astype(int))
