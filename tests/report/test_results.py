"""The published results: every number again, from `results.csv` alone, by other code."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ROOT

from benchmarks.published import readme_figure

RESULTS = ROOT / "docs" / "results"
STUDIES = sorted(path.name for path in RESULTS.iterdir())


def read(study: str) -> tuple[dict[str, Any], pd.DataFrame]:
    effects = json.loads((RESULTS / study / "effects.json").read_text())
    return effects, pd.read_csv(RESULTS / study / "results.csv")


def of_setting(runs: pd.DataFrame, effects: dict[str, Any], at_rate: str) -> pd.DataFrame:
    """The runs at one learning rate, or at each variant's own, as the summaries name them."""
    summaries = [one for one in effects["summaries"] if one["setting"] == at_rate]
    rates = {one["variant"]: one["lr"] for one in summaries}
    return runs[runs["lr"] == runs["variant"].map(rates)]


def side(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    """A variant's values, or of an interaction's `(one − other)` the differences."""
    one, *other = name.strip("()").split(" − ")
    values: pd.Series[float] = table[one] - table[other[0]] if other else table[one]
    return values


def critical(design: dict[str, Any], seeds: int, comparisons: int) -> float:
    """Standard errors to each side: Student's t, or where the Bayes factor reaches 1 / alpha."""
    alpha = design["alpha"] / comparisons
    if design["name"] == "fixed-width":  # stricter at first
        alpha *= seeds / (seeds + 5 * np.log(1 / alpha))
    if design["name"] != "anytime":
        return float(scipy.stats.t.ppf(1 - alpha / 2, seeds - 1))
    assert not design.get("later_than"), "looks with an end are not published yet"

    def excess(t: float) -> float:
        return bayes_factor(t, seeds, comparisons) - 1 / float(alpha)

    return float(scipy.optimize.brentq(excess, 1, 100))


def bayes_factor(t: float, seeds: int, comparisons: int) -> float:
    """How much better than no effect a normal prior of its size explains t."""
    u, k = t**2 / (seeds - 1), 1 + seeds * comparisons
    return float(((1 + u) / (1 + u / k)) ** (seeds / 2) / np.sqrt(k))


def half_width(
    design: dict[str, Any], differences: "pd.Series[float]", comparisons: int, margin: float
) -> float:
    """How far the interval of a mean reaches to each side; margin: 0 for a secondary outcome."""
    seeds = len(differences)
    if design["name"] != "fixed-width":
        error = differences.std() / np.sqrt(seeds)
        return float(critical(design, seeds, comparisons) * error)
    for n in range(5, seeds + 1):
        reach = critical(design, n, comparisons) * differences[:n].std()
        if reach <= margin * np.sqrt(n):  # this many were needed; more shorten the interval
            return float((reach if n == 5 else margin * np.sqrt(n)) / np.sqrt(seeds))
    return float(reach / np.sqrt(seeds))


def fixed_p_value(differences: "pd.Series[float]", comparisons: int, margin: float) -> float:
    """Where an interval of fixed width would end at 0."""

    def excess(log_alpha: float) -> float:
        design = {"name": "fixed-width", "alpha": np.exp(log_alpha)}
        return half_width(design, differences, 1, margin) - abs(float(differences.mean()))

    alpha = float(np.exp(scipy.optimize.brentq(excess, -34, -1e-9)))
    return min(1.0, alpha * comparisons * 0.05 / 0.04)


@pytest.mark.parametrize("study", STUDIES)
def test_the_means_follow_from_the_runs(study: str) -> None:
    effects, runs = read(study)
    for one in effects["summaries"]:
        chosen = of_setting(runs, effects, one["setting"])
        values = chosen.loc[chosen["variant"] == one["variant"], one["metric"]]
        assert (one["seeds"], one["mean"]) == (len(values), pytest.approx(values.mean()))
        assert one["sd"] == pytest.approx(values.std(), abs=1e-9)
        if not one["interval"]:
            continue
        anytime = effects["design"]["name"] == "anytime"
        alone = {"name": "anytime" if anytime else "planned", "alpha": 0.05}
        half = critical(alone, len(values), 1) * values.std() / np.sqrt(len(values))
        assert one["interval"] == pytest.approx([values.mean() - half, values.mean() + half])


@pytest.mark.parametrize("study", STUDIES)
def test_the_effects_follow_from_the_runs(study: str) -> None:
    effects, runs = read(study)
    settings = list(dict.fromkeys(one["setting"] for one in effects["effects"]))
    best = [one for one in settings if "best" in one]
    for one in effects["effects"]:
        chosen = of_setting(runs, effects, one["setting"])
        table = chosen.pivot(index="seed", columns="variant", values=one["metric"])
        both = side(table, one["treatment"]), side(table, one["control"])
        difference = (both[0] - both[1]).dropna()
        # The single learning rates are one family, and the best ones another.
        family = best if one["setting"] in best else [s for s in settings if s not in best]
        count = sum(
            other["metric"] == one["metric"] and other["setting"] in family
            for other in effects["effects"]
        )
        error = difference.std() / np.sqrt(len(difference))
        is_primary = one["metric"] == effects["primary_metric"]
        margin = effects["design"]["margin"] / 100 if is_primary else 0.0
        half = half_width(effects["design"], difference, count, margin)
        mean = difference.mean()
        assert one["seeds"] == len(difference)
        assert one["difference"] == pytest.approx(mean)
        assert one["sd"] == pytest.approx(difference.std(), abs=1e-9)
        if not one["interval"]:
            assert error < 1e-9
            continue
        assert one["interval"] == pytest.approx([mean - half, mean + half], abs=1e-9)
        excludes = one["interval"][0] > 0 or one["interval"][1] < 0
        assert excludes == (one["p_value"] < 0.05)
        assert ("not settled" in one["sentence"]) != excludes
        freedom, alpha = len(difference) - 1, effects["design"]["alpha"]
        if effects["design"]["name"] == "fixed-width":
            assert one["p_value"] == pytest.approx(fixed_p_value(difference, count, margin))
        else:
            p = 2 * scipy.stats.t.sf(abs(mean / error), freedom)
            if effects["design"]["name"] == "anytime":
                p = 1 / bayes_factor(mean / error, len(difference), count)
            assert one["p_value"] == pytest.approx(min(1, p * count * 0.05 / alpha))
        if one["correlation"] is None:
            continue
        assert one["correlation"] == pytest.approx(np.corrcoef(*both)[0, 1])
        # As much longer as Welch's interval, by its textbook formula, is than Student's.
        shares = [values.var() / len(values) for values in both]
        other_freedom = sum(shares) ** 2 / sum(v**2 / freedom for v in shares)
        welch = scipy.stats.t.ppf(1 - alpha / count / 2, other_freedom) * np.sqrt(sum(shares))
        half *= welch / (scipy.stats.t.ppf(1 - alpha / count / 2, freedom) * error)
        assert one["unpaired"] == pytest.approx([mean - half, mean + half])


@pytest.mark.parametrize("study", STUDIES)
def test_the_last_epoch_of_the_curves_is_the_result(study: str) -> None:
    _, runs = read(study)
    curves = pd.read_csv(RESULTS / study / "curves.csv")
    last = curves.groupby("run_id").last()
    for name in (one for one in runs if "_mean" in one):
        count = int(name.rpartition("_mean")[2])
        means = curves.groupby("run_id")["val_accuracy"].apply(lambda run, n=count: run[-n:].mean())
        assert list(means[runs["run_id"]]) == pytest.approx(list(runs[name]))
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert list(last.loc[runs["run_id"], name]) == pytest.approx(list(runs[name]))
    seconds = curves.groupby("run_id")["epoch_seconds"].sum()
    assert list(seconds[runs["run_id"]]) == pytest.approx(list(runs["seconds"]))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_pages_state_these_effects(page: str) -> None:
    """Each headline in bold that gives an interval is that of a report, to the stated digits."""
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    stated = re.findall(r"\(95 % CI ([−+]?[\d.]+) to ([−+]?[\d.]+), (\d+) seeds\)", text)
    known = [one for study in STUDIES for one in read(study)[0]["effects"] if one["interval"]]
    assert stated or page == "README.md"
    for low, high, seeds in stated:
        wanted = sorted(abs(float(bound.replace("−", "-"))) for bound in (low, high))
        digits = len(low.split(".")[1])
        assert any(
            one["seeds"] == int(seeds)
            and sorted(round(abs(100 * bound), digits) for bound in one["interval"]) == wanted
            for one in known
        ), (low, high, seeds)


def test_the_first_picture_of_readme_draws_the_numbers_of_its_bullets() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    interval = r"\(95 % CI ([\d.]+) to ([\d.]+), (\d+) seeds\)"
    bullets = re.findall(rf"\*\*([\w ]+) raises [\w ]+ by ([\d.]+) points {interval}", text)
    (axes,) = readme_figure().axes
    _, *lines = (np.asarray(line.get_xdata(), dtype=float) for line in axes.lines)
    intervals, points = lines[::2], lines[1::2]
    words = [label.get_text() for label in axes.get_yticklabels()]
    below = [label.get_text() for label in axes.get_yticklabels(minor=True)]
    drawn = [
        (about, *(f"{x:.1f}" for x in (*point, *ends)), re.findall(r"(\d+) seeds", small)[0])
        for about, small, ends, point in zip(words, below, intervals, points, strict=True)
    ]
    assert drawn == bullets
    assert len(drawn) == 2
    assert "](docs/images/effects.png)" in text
    assert axes.get_xlabel().startswith("difference in validation accuracy (points)")
