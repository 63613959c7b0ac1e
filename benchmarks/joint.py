"""Simulate what intervals gain that know how the comparisons of a study are correlated.

Three comparisons of three variants share runs, and Bonferroni's correction ignores that. The
alternative is the distribution of the largest |t| (max-t). Printed by `benchmarks.intervals`.
"""

from itertools import combinations

import numpy as np
from scipy import stats

from benchmarks.studies import Floats
from pipeline.statistics.intervals import PLANNED_ALPHA

SPREADS = {"three variants alike": (1, 1, 1), "one of three with 4 times the spread": (1, 1, 4)}
SEEDS = (5, 7, 10, 20)
ESTIMATES, DRAWS = 1_000, 4_000  # studies that estimate the correlation, and draws of each


def print_tables(studies: int) -> None:
    """Print the critical t of both, and how often the estimated one is too short."""
    print("\nlargest |t| of three comparisons: its critical value, as a share of Bonferroni's t;")
    print("the same from correlations that are estimated, and its errors (allowed: 4 %)")
    print(f"{'':36}" + "".join(f"{f'{n} seeds':>24}" for n in SEEDS))
    for name, sds in SPREADS.items():
        cells = ""
        for seeds in SEEDS:
            known, estimated, wrong = gain(np.array(sds), seeds, studies)
            cells += f"{known:10.3f}{estimated:7.3f}{wrong:7.1%}"
        print(f"{name:36}{cells}")


def gain(sds: Floats, seeds: int, studies: int) -> tuple[float, float, float]:
    """Critical value by the true and by estimated correlations, and the errors of the latter."""
    random = np.random.default_rng(3)
    pairs = list(combinations(range(len(sds)), 2))
    bonferroni = stats.t.isf(PLANNED_ALPHA / len(pairs) / 2, seeds - 1)

    def largest(values: Floats) -> Floats:
        differences = np.stack([values[..., b] - values[..., a] for a, b in pairs], axis=-1)
        means, errors = differences.mean(axis=1), differences.std(axis=1, ddof=1)
        return np.asarray(np.abs(means / errors * np.sqrt(seeds)).max(axis=-1))

    values = random.standard_normal((studies, seeds, len(sds))) * sds
    found = largest(values)
    drawn = random.standard_normal((DRAWS, seeds, len(sds)))
    estimates = []
    for study in values[:ESTIMATES]:
        root = np.linalg.cholesky(np.cov(study.T) + 1e-12 * np.eye(len(sds)))
        estimates.append(np.quantile(largest(drawn @ root.T), 1 - PLANNED_ALPHA))
    wrong = (found[:ESTIMATES] > estimates).mean()
    known = np.quantile(found, 1 - PLANNED_ALPHA)
    return float(known / bonferroni), float(np.mean(estimates) / bonferroni), float(wrong)
