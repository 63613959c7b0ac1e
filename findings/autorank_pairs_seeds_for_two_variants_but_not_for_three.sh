#!/bin/sh
# GUESS: autorank compares columns whose rows belong together, such as variants by seed. What it says of
#   two variants by their paired t-test it also says if a third one is compared along with them, apart
#   from a correction for several comparisons.
# REAL: Of three or more normal columns, the test of all together is a repeated-measures ANOVA, which
#   uses the rows. The test of pairs that follows is Tukey's for independent samples, which does not.
#   Where seeds vary more than variants, the ANOVA is significant and no pair is: two variants that
#   alone differ with p = 7e-07 are one group next to a third, without a word on the pairing.
# VERSIONS: autorank 1.3.0, numpy 2.4.6, pandas 3.1.1, scipy 1.17.1, statsmodels 0.15.0, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   two variants: ttest, p = 7.3e-07
#   three variants: anova, p = 4.7e-09, then tukeyhsd; base and bn differ: False
#   by hand, paired and for three comparisons: p = 2.2e-06
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
from autorank import autorank, create_report
from scipy import stats

random = np.random.default_rng(0)
seed = random.normal(0, 0.03, 8)  # what a seed does to all variants alike
two = pd.DataFrame(
    {
        "base": 0.440 + seed + random.normal(0, 0.002, 8),
        "bn": 0.445 + seed + random.normal(0, 0.002, 8),
    }
)
three = two.assign(dropout=0.447 + seed + random.normal(0, 0.002, 8))

with contextlib.redirect_stdout(io.StringIO()) as said:
    alone, joint = autorank(two, verbose=False), autorank(three, verbose=False)
    create_report(joint)
one_group = "no significant differences within the following groups: base, bn, and dropout"
differ = one_group not in " ".join(said.getvalue().split())
paired = 3 * stats.ttest_rel(two["base"], two["bn"]).pvalue
independent = stats.tukey_hsd(*three.to_numpy().T).pvalue[0, 1]
print(f"two variants: {alone.omnibus}, p = {alone.pvalue:.1e}")
print(f"three variants: {joint.omnibus}, p = {joint.pvalue:.1e}, then {joint.posthoc}", end="; ")
print(f"base and bn differ: {differ}")
print(f"by hand, paired and for three comparisons: p = {paired:.1e}")
as_seen = (
    alone.omnibus == "ttest"
    and alone.pvalue < 1e-5
    and (joint.omnibus, joint.posthoc) == ("anova", "tukeyhsd")
    and joint.pvalue < 1e-5
    and not differ
    and paired < 1e-5
    and independent > 0.5
)
sys.exit(not as_seen)
PYTHON
