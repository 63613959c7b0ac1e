"""`compare --outcome` gives the means and error bars of runs that somebody else has made."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Answer, runs_in
from mlflow.entities import Metric, Param, RunTag
from scipy import stats

from pipeline import Outcome, compare
from pipeline.errors import InputError

A = [0.71, 0.74, 0.69, 0.77, 0.72, 0.75, 0.70, 0.73, 0.76, 0.68]
B = [0.74, 0.75, 0.73, 0.78, 0.77, 0.75, 0.74, 0.77, 0.79, 0.70]
ASK = ("--outcome", "auc", "--by", "params.model", "--pair", "params.seed")
_clock = count(1_700_000_000_000, 1000)

Logged = Mapping[str, float | Sequence[tuple[int, float]]]


def make_run(
    params: Mapping[str, object],
    metrics: Logged,
    *,
    experiment: str = "0",
    status: str = "FINISHED",
    tags: Mapping[str, str] | None = None,
    same_time: bool = False,
) -> str:
    """Log a run as somebody's program would; metrics: a value, or (step, value) one after another."""
    client, now = mlflow.MlflowClient(), next(_clock)
    run = client.create_run(experiment, start_time=now, tags=dict(tags or {}))
    points = [
        Metric(name, value, now + (0 if same_time else place), step)
        for name, logged in metrics.items()
        for place, (step, value) in enumerate(
            [(0, logged)] if isinstance(logged, int | float) else logged
        )
    ]
    named = [Param(name, str(value)) for name, value in params.items()]
    client.log_batch(run.info.run_id, points, named)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def make_pairs(a: Sequence[float] = A, b: Sequence[float] = B, **others: Any) -> None:
    for seed, (first, second) in enumerate(zip(a, b, strict=True)):
        make_run({"model": "a", "seed": seed}, {"auc": first}, **others)
        make_run({"model": "b", "seed": seed}, {"auc": second}, **others)


def frame(a: Sequence[float] = A, b: Sequence[float] = B, **columns: Any) -> pd.DataFrame:
    rows = [{"model": "a", "seed": n, "auc": v} for n, v in enumerate(a)]
    rows += [{"model": "b", "seed": n, "auc": v} for n, v in enumerate(b)]
    return pd.DataFrame(rows).assign(**columns)


def of_frame(table: pd.DataFrame, **asked: Any) -> Any:
    return compare(table, **{"outcome": "auc", "by": "model", "pair": "seed"} | asked)


def artifact(folder: Path, path: str) -> str:
    run = runs_in(folder, "comparison")[0]
    return Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, path)).read_text()


def not_counted(folder: Path) -> dict[str, str]:
    """Why runs were not counted, by the beginnings of their ids."""
    found: dict[str, str] = json.loads(artifact(folder, "comparison.json"))["not_counted"]
    return {re.findall(r"\((\w+)\)$", name)[0]: why for name, why in found.items()}


def test_paired_runs_get_the_numbers_of_scipy(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs()
    answer = pipeline("compare", *ASK, "--planned", "10")
    assert answer.status == 0, answer.err
    effects = json.loads(artifact(tmp_path, "effects.json"))
    (effect,) = effects["effects"]
    by_hand = stats.ttest_rel(B, A)
    low, high = by_hand.confidence_interval(0.96)  # 4 % are for a planned report
    assert effect["difference"] == pytest.approx(np.mean(np.subtract(B, A)), rel=1e-12)
    assert effect["interval"] == pytest.approx([low, high], rel=1e-9)
    assert effect["p_value"] == pytest.approx(by_hand.pvalue * 0.05 / 0.04, rel=1e-9)
    assert (effect["treatment"], effect["control"]) == ("b", "a")
    assert "Model b instead of a raises auc by 0.027 (95 % CI" in answer.out
    assert "10 seeds" in answer.out
    summary = {one["variant"]: one for one in effects["summaries"]}
    assert summary["b"]["mean"] == pytest.approx(np.mean(B), rel=1e-12)
    mean = stats.t.interval(0.95, 9, np.mean(A), stats.sem(A))
    assert summary["a"]["interval"] == pytest.approx(mean, rel=1e-9)


def test_without_a_plan_intervals_are_valid_at_every_look(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs()
    assert pipeline("compare", *ASK).status == 0
    found = json.loads(artifact(tmp_path, "effects.json"))
    n, alpha, d = 10, 0.05, np.subtract(B, A)
    # Lai's interval for a t statistic, with a normal prior of variance 1.
    ratio = ((1 + n) / alpha**2) ** (1 / n)
    t = math.sqrt((n - 1) * (ratio - 1) / (1 - ratio / (1 + n)))
    half = t * d.std(ddof=1) / math.sqrt(n)
    assert found["effects"][0]["interval"] == pytest.approx([d.mean() - half, d.mean() + half])
    assert found["design"]["name"] == "anytime"


def test_independent_samples_get_welchs_interval() -> None:
    table = frame(A[:6], B)
    report = of_frame(table, pair="none", planned=10)
    with pytest.raises(InputError, match="planned is 10, but there is 6 runs of a"):
        of_frame(table, pair="none", planned=10)
    assert report


def test_lower_is_better_and_other_outcomes(pipeline: Callable[..., Answer]) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"lr": lr, "fold": fold, "loss": 1 + fold + lr + noise, "auc": 0.5 + noise / 10}
        for lr in (0.1, 0.01, 10)
        for fold in range(6)
        for noise in [rng.normal(0, 0.1)]
    ]
    report = compare(
        pd.DataFrame(rows), outcome="loss,auc", better="lower,higher", by="lr", pair="fold"
    )
    table = report.effects.set_index(["metric", "treatment"])
    values = pd.DataFrame(rows).pivot(index="fold", columns="lr")
    # Values are numbers: 10 is the last, and the lowest is the baseline.
    for metric in ("loss", "auc"):
        for treatment, lr in (("lr=0.1", 0.1), ("lr=10", 10)):
            d = values[metric][lr] - values[metric][0.01]
            assert table.loc[(metric, treatment), "difference"] == pytest.approx(d.mean())
            assert table.loc[(metric, treatment), "control"] == "lr=0.01"
    assert "lower is better" in report.about
    assert "All other outcomes" in report.report
    assert report.analysis.headline[1].startswith("Lr 10 instead of 0.01 raises loss by")
