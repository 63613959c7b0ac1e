"""The published results: every number again, from `results.csv` alone, by other code."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ROOT

RESULTS = ROOT / "docs" / "results"
INTERACTION = "(dropout − bn)"


@pytest.mark.parametrize("study", ["variants", "dropout"])
def test_the_effects_follow_from_the_results(study: str) -> None:
    effects = json.loads((RESULTS / study / "effects.json").read_text())
    runs = pd.read_csv(RESULTS / study / "results.csv")
    for one in effects["summaries"]:
        values = runs.loc[runs["variant"] == one["variant"], one["metric"]]
        assert (one["seeds"], one["mean"]) == (len(values), pytest.approx(values.mean()))
        assert one["sd"] == pytest.approx(values.std())
    for one in effects["effects"]:
        table = runs.pivot(index="seed", columns="variant", values=one["metric"])
        if one["treatment"] == INTERACTION:
            both = table["dropout"] - table["bn"], table["base_dropout"] - table["base"]
        else:
            both = table[one["treatment"]], table[one["control"]]
        difference = (both[0] - both[1]).dropna()
        count = sum(other["metric"] == one["metric"] for other in effects["effects"])
        first = difference[:5] if effects["design"]["name"] == "two-stage" else difference
        tail = scipy.stats.t(len(first) - 1)
        half = tail.ppf(1 - 0.025 / count) * np.std(first, ddof=1) / np.sqrt(len(difference))
        assert one["seeds"] == len(difference)
        assert one["difference"] == pytest.approx(difference.mean())
        assert one["interval"] == pytest.approx(
            [difference.mean() - half, difference.mean() + half], abs=1e-9
        )
        excludes = one["interval"][0] > 0 or one["interval"][1] < 0
        assert excludes == (one["p_value"] < 0.05)
        assert ("not settled" in one["sentence"]) != excludes
