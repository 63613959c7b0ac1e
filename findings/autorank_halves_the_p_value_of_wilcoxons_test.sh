#!/bin/sh
# GUESS: The p value that autorank gives for two columns which are not normal is that of Wilcoxon's
#   signed-rank test, as scipy computes it, two-sided: the same as of its paired t-test of normal ones.
# REAL: It is half of that. The columns are sorted by their ranks first, and then the better one is
#   tested to be better, one-sided, on the side that the data have chosen. So twice as many comparisons
#   without any difference are called significant as the level says. Of normal columns the t-test's p value
#   is two-sided, so the same result counts twice as much if the columns look less normal.
# VERSIONS: autorank 1.3.0, numpy 2.4.6, pandas 3.1.1, scipy 1.17.1, statsmodels 0.15.0, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   wilcoxon: p = 0.0261, and by scipy 0.0522
#   autorank: 8.7%, scipy: 3.3% of equal columns differ
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    autorank==1.3.0 numpy==2.4.6 pandas==3.1.1 scipy==1.17.1 statsmodels==0.15.0

"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
import sys

import numpy as np
import pandas as pd
from autorank import autorank
from scipy import stats


def compared(one, other, mode="auto"):
    """The test that autorank takes, and its p value."""
    with contextlib.redirect_stdout(io.StringIO()):
        table = pd.DataFrame({"one": one, "other": other})
        found = autorank(table, verbose=False, force_mode=None if mode == "auto" else mode)
    return found.omnibus, found.pvalue


random = np.random.default_rng(0)
one = random.exponential(size=12) ** 3  # far from normal
other = one + random.normal(0.5, 0.6, 12)
chosen, p = compared(one, other)
by_scipy = stats.wilcoxon(one, other).pvalue
print(f"{chosen}: p = {p:.4f}, and by scipy {by_scipy:.4f}")

alarms = {"autorank": 0, "scipy": 0}
STUDIES = 300
for _ in range(STUDIES):
    one, other = random.normal(size=(2, 15))
    alarms["autorank"] += compared(one, other, "nonparametric")[1] < 0.05
    alarms["scipy"] += stats.wilcoxon(one, other).pvalue < 0.05
shares = {name: count / STUDIES for name, count in alarms.items()}
print(", ".join(f"{name}: {share:.1%}" for name, share in shares.items()), "of equal columns differ")
as_seen = chosen == "wilcoxon" and np.isclose(2 * p, by_scipy)
sys.exit(not (as_seen and shares["autorank"] > 0.075 > shares["scipy"]))
PYTHON
