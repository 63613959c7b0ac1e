#!/bin/sh
# GUESS: `scipy.stats.ttest_rel` takes zeros and ones (which images two classifiers got right) of
#   any numeric type, and gives the same result as for floats. So does the rest of scipy.stats.
# REAL: It subtracts before it converts. Of unsigned integers 0 - 1 is the largest number of the
#   type, and a difference that is not significant (p = 0.17) gets p = 3e-17, with the other sign,
#   without a warning. ttest_ind and wilcoxon convert first. Of booleans ttest_rel raises TypeError,
#   and `describe` says without an error that their variance is infinite.
# VERSIONS: scipy 1.17.1, numpy 2.4.6, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   float64 ttest_rel t -1.36, p 0.17; ttest_ind p 0.16; wilcoxon p 0.17; variance 0.248
#   int8    ttest_rel t -1.36, p 0.17; ttest_ind p 0.16; wilcoxon p 0.17; variance OverflowError
#   uint8   ttest_rel t 9.27, p 3e-17; ttest_ind p 0.16; wilcoxon p 0.17; variance 0.248
#   uint64  ttest_rel t 9.24, p 3.9e-17; ttest_ind p 0.16; wilcoxon p 0.17; variance 0.248
#   bool    ttest_rel TypeError; ttest_ind p 0.16; wilcoxon p 0.17; variance inf
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
from scipy import stats

random = np.random.default_rng(0)
one = random.integers(0, 2, 200)
other = (random.random(200) < 0.7).astype(int)


def attempt(compute):
    try:
        return compute()
    except (TypeError, OverflowError) as error:
        return type(error).__name__


seen = {}
for kind in ("float64", "int8", "uint8", "uint64", "bool"):
    a, b = one.astype(kind), other.astype(kind)
    paired = attempt(lambda: stats.ttest_rel(a, b))
    if not isinstance(paired, str):
        seen[kind] = float(paired.pvalue)
        paired = f"t {paired.statistic:.2f}, p {paired.pvalue:.2g}"
    variance = attempt(lambda: f"{stats.describe(a).variance:.3g}")
    seen[kind, "variance"] = variance
    print(
        f"{kind:7} ttest_rel {paired}; ttest_ind p {stats.ttest_ind(a, b).pvalue:.2g};"
        f" wilcoxon p {stats.wilcoxon(a, b).pvalue:.2g}; variance {variance}"
    )

same = abs(seen["int8"] - seen["float64"]) < 1e-9 and seen["float64"] > 0.1
wrapped = seen["uint8"] < 1e-10 and seen["uint64"] < 1e-10
raised = "bool" not in seen and seen["bool", "variance"] == "inf"
sys.exit(0 if same and wrapped and raised else "this has changed")
PYTHON
