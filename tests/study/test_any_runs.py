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
from invented import assert_labels_fit
from mlflow.entities import Metric, Param
from scipy import stats

from pipeline import compare
from pipeline.errors import InputError
from pipeline.report.runs_analysis import RunsAnalysis
from pipeline.report.runs_pages import runs_figures
from pipeline.runs.plan import Plan
from pipeline.store.liveness import PROCESS, this_process

A = [0.71, 0.74, 0.69, 0.77, 0.72, 0.75, 0.70, 0.73, 0.76, 0.68]
B = [0.74, 0.75, 0.73, 0.78, 0.77, 0.75, 0.74, 0.77, 0.79, 0.70]
ASK = ("--outcome", "auc", "--by", "params.model", "--pair", "params.seed")
EXPLORATORY = (
    "The first report on some of these runs counted another value: this one is exploratory."
)
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
    """Log a run as somebody's program would. metrics: a value, or steps and values in order."""
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


def test_labels_of_long_names_fit_into_the_figures() -> None:
    name = "balanced accuracy ($) on the images of an external cohort averaged geometrically ($)"
    table = frame().rename(columns={"auc": name})
    report = compare(table, outcome=name, by="model", pair="seed", unit="points of a hundred")
    assert isinstance(report.analysis, RunsAnalysis)
    assert_labels_fit(runs_figures(report.analysis))


def test_independent_samples_get_welchs_interval() -> None:
    table = frame(A[:6], B)
    with pytest.raises(InputError, match="planned is 10, but found: 6 runs of a"):
        of_frame(table, pair="none", planned=10)
    report = of_frame(frame(), pair="none", planned=10)
    by_hand = stats.ttest_ind(B, A, equal_var=False)
    low, high = by_hand.confidence_interval(0.96)
    assert report.effects["interval"][0] == pytest.approx([low, high], rel=1e-9)
    assert report.effects["p_value"][0] == pytest.approx(by_hand.pvalue / 0.8, rel=1e-9)
    assert "10 and 10 runs" in report.analysis.headline[0]
    # Without a plan, of unequal samples: longer, and around the difference of the means.
    later = of_frame(table, pair="none").effects
    low, high = later["interval"][0]
    assert (low + high) / 2 == pytest.approx(np.mean(B) - np.mean(A[:6]))
    welch = stats.ttest_ind(B, A[:6], equal_var=False).confidence_interval(0.95)
    assert high - low > welch.high - welch.low


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


def test_every_run_that_is_not_counted_is_named_with_the_reason(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:5], B[:5])
    model = {"model": "a", "seed": 7}
    expected = {
        make_run(model, {"auc": 0.9}, status="RUNNING"): r"has not ended \(RUNNING\)",
        make_run(model, {"auc": 0.9}, status="FAILED"): r"did not end well \(FAILED\)",
        make_run(model, {"auc": 0.9}, status="KILLED"): r"did not end well \(KILLED\)",
        make_run(model, {"loss": 0.9}): "has no auc",
        make_run(model, {"auc": math.nan}): "diverged: its auc is nan",
        make_run(model, {"auc": math.inf}): "diverged: its auc is inf",
        make_run(model, {"auc": 0.9}): "without partner: .* params.seed 7",
        make_run({"model": "a"}, {"auc": 0.9}): "has no params.seed",
        make_run({"model": "a", "seed": "None"}, {"auc": 0.9}): "has no params.seed",
        make_run({"seed": 7}, {"auc": 0.9}): "has no params.model",
    }
    gone = make_run(model, {"auc": 0.9})
    mlflow.MlflowClient().delete_run(gone)
    expected[gone] = "was deleted"
    old = [run.info.run_id for run in runs_in_order() if run.data.params.get("seed") == "0"]
    newest = make_run({"model": "a", "seed": "0.0"}, {"auc": 0.8})
    expected[old[0]] = rf"repeated by .*\({newest[:8]}\)"
    before = {run.info.run_id: run for run in runs_in_order()}

    answer = pipeline("compare", *ASK)
    assert answer.status == 0, answer.err
    reasons = not_counted(tmp_path)
    for run_id, why in expected.items():
        assert re.fullmatch(why, reasons.pop(run_id[:8])[: len(why) + 60]), why
    assert not reasons
    assert "Not counted: 12 runs" in answer.out
    assert "5 of 10 runs of a" in answer.out, answer.out
    table = pd.read_csv(runs_file(tmp_path, "results.csv"))
    assert list(table["run_id"]).count(newest) == 1
    assert len(table) == 10
    # Others' runs are as they were.
    after = {run.info.run_id: run for run in runs_in_order()}
    for run_id, run in before.items():
        assert repr(after[run_id].to_dictionary()) == repr(run.to_dictionary())  # NaN is not NaN


@pytest.mark.parametrize(
    ("is_dead", "why"),
    [(True, "did not end well (KILLED)"), (False, "has not ended (RUNNING)")],
)
def test_a_run_that_mlflow_ended_in_the_middle_of_its_program_is_not_counted(
    is_dead: bool, why: str
) -> None:
    process = this_process()
    if is_dead:  # as if another process had had the same number
        number = process[PROCESS].split()[0]
        process[PROCESS] = f"{number} 1.00 1.00"
    half_done = ""
    for seed in range(4):
        for variant in ("a", "b"):
            tags = {"kind": "program", "variant": variant, "seed": str(seed), **process}
            if half_done:
                tags["pipeline.exit_status"] = "0"
            run_id = make_run({}, {"auc": seed + (variant == "b")}, tags=tags)
            half_done = half_done or run_id[:8]
    report = compare(outcome="auc", by="tags.variant", pair="tags.seed")
    assert [reason for name, reason in report.unused.items() if half_done in name][:1] == [why]


def runs_in_order() -> list[Any]:
    found = mlflow.search_runs(["0"], output_format="list", order_by=["start_time"])
    return [run for run in found if "kind" not in run.data.tags]


def runs_file(folder: Path, name: str) -> Path:
    run = runs_in(folder, "comparison")[0]
    return Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, name))


VALUES = {
    "last": [((0, 0.1), (1, 0.9), (2, 0.5)), 0.5],
    # A run that was resumed has logged steps twice: of a step, the latest value counts.
    "last, resumed": [((0, 0.1), (1, 0.9), (2, 0.8), (1, 0.7), (2, 0.6)), 0.6],
    "last, logged out of order": [((5, 0.5), (9, 0.9), (1, 0.1)), 0.9],
    "last, without steps": [((0, 0.9), (0, 0.3)), 0.3],
    "max": [((0, 0.1), (1, 0.9), (2, 0.5)), 0.9],
    "min": [((0, 0.1), (1, 0.9), (2, 0.5)), 0.1],
    "1": [((0, 0.1), (1, 0.9), (2, 0.5)), 0.9],
    "max, with NaN before": [((0, math.nan), (1, 0.9), (2, 0.5)), 0.9],
    "last, with steps of NumPy": [tuple((np.int64(s), s / 10) for s in range(4)), 0.3],
}


@pytest.mark.parametrize("case", VALUES)
def test_which_value_of_a_run_counts(case: str, tmp_path: Path) -> None:
    logged, expected = VALUES[case]
    for seed in range(2):
        make_run({"model": "a", "seed": seed}, {"auc": logged})  # type: ignore[dict-item]
        make_run({"model": "b", "seed": seed}, {"auc": [(step, 0.0) for step in range(3)]})
    value = case.partition(",")[0]
    report = compare(
        experiment="Default",
        outcome="auc",
        by="params.model",
        pair="params.seed",
        value=value,
    )
    table = report.runs.set_index("variant")
    assert table.loc["a", "auc"].tolist() == [expected, expected]
    for _, curve in report.curves.groupby("run"):
        assert curve["step"].is_monotonic_increasing


def test_two_values_of_one_millisecond_are_not_guessed(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:5], B[:5])
    odd = make_run({"model": "a", "seed": 9}, {"auc": ((0, 0.2), (0, 0.9))}, same_time=True)
    make_run({"model": "b", "seed": 9}, {"auc": 0.5})
    assert pipeline("compare", *ASK).status == 0
    assert re.match(
        "logged auc 0.2 and 0.9 in the same millisecond", not_counted(tmp_path)[odd[:8]]
    )


def test_unequal_numbers_of_steps_are_told_if_several_count() -> None:
    for seed in range(5):
        make_run({"model": "a", "seed": seed}, {"auc": [(n, n / 10 + seed) for n in range(4)]})
        make_run({"model": "b", "seed": seed}, {"auc": [(n, n / 10 - seed) for n in range(9)]})
    asked: dict[str, Any] = {"outcome": "auc", "by": "params.model", "pair": "params.seed"}
    asked["better"] = "higher"
    report = compare(experiment="Default", value="max", **asked)
    assert any(
        "different numbers of steps: 4 (a), 9 (b)" in one for one in report.analysis.headline
    )
    assert "extreme one of many noisy values" in report.report
    told = "4 (a), 9 (b). The last 3 of more steps are a shorter part of training."
    assert any(told in one for one in compare(value="mean3", **asked).analysis.headline)
    assert not any("numbers of steps" in one for one in compare(**asked).analysis.headline)


def test_what_differs_beside_the_variant_is_named() -> None:
    # With the variant, so that it may be the cause:
    follows = of_frame(frame(batch=[32] * 10 + [64] * 10))
    assert any("batch: 32 (a), 64 (b)" in line for line in follows.analysis.headline)
    # For a few runs, which are left out:
    few = of_frame(frame(batch=[32] * 18 + [64] * 2))
    assert set(few.unused.values()) >= {"also differ in batch: 32, 64; only 32 is compared"}
    assert len(few.runs) == 16
    empty = of_frame(frame(note=[""] * 18 + ["tried again"] * 2))
    assert "also differ in note: '', tried again; only '' is compared" in empty.unused.values()
    # From pair to pair, or in every run, which is no matter:
    for values in ([*range(10)] * 2, [f"folder{n}" for n in range(20)]):
        same = of_frame(frame(place=values))
        assert len(same.runs) == 20
        assert len(same.analysis.headline) == 1
    # All combinations: one is compared.
    every = pd.concat([frame(batch=32), frame([v - 0.1 for v in A], B, batch=64)])
    report = of_frame(every)
    assert len(report.runs) == 20
    assert report.effects["difference"][0] == pytest.approx(np.mean(np.subtract(B, A)) + 0.1)
    assert len(report.unused) == 20


def test_variants_by_several_settings_are_a_design_of_their_own() -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"opt": opt, "warm": warm, "seed": seed}
        | {"loss": seed + (opt == "sgd") - warm / 100 + rng.normal(0, 0.01)}
        for seed in range(6)
        for opt in ("sgd", "adam")
        for warm in (0, 100)
    ]
    report = compare(pd.DataFrame(rows), outcome="loss", by=["opt", "warm"], pair="seed")
    assert report.analysis.variants == [
        "adam, warm=0",
        "adam, warm=100",
        "sgd, warm=0",
        "sgd, warm=100",
    ]
    effects = report.effects.set_index(["treatment", "control"])["difference"]
    assert effects["sgd, warm=0", "adam, warm=0"] == pytest.approx(1, abs=0.05)
    assert effects["adam, warm=100", "adam, warm=0"] == pytest.approx(-1, abs=0.05)
    assert effects["(sgd, warm=100 − adam, warm=100)", "(sgd, warm=0 − adam, warm=0)"] == (
        pytest.approx(0, abs=0.05)
    )
    other = compare(
        pd.DataFrame(rows), outcome="loss", by=["opt", "warm"], pair="seed", baseline="sgd"
    )
    assert other.analysis.variants[0] == "sgd, warm=0"


def test_variants_of_any_names_get_effects_that_mlflow_takes_as_metrics(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    odd = ["../models/a", "a, b=1", "a; b=1", "é 中" + "x" * 300]
    for seed in range(3):
        for place, name in enumerate(odd):
            make_run({"model": name, "seed": seed}, {"auc": place + seed * place / 10})
    answer = pipeline("compare", *ASK)
    assert answer.status == 0, answer.err
    (run,) = runs_in(tmp_path, "comparison")
    effects = [n for n in run.data.metrics if not n.endswith(("_low", "_high"))]
    assert {"a b 1_vs_.. models a", "a b 1_vs_.. models a 1"} < set(effects)
    assert len(effects) == 3  # each with the baseline


def test_a_plan_counts_only_before_the_first_look(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:5], B[:5])
    assert (
        "planned is 10, but found: 5 seeds of a" in pipeline("compare", *ASK, "--planned", "10").err
    )
    assert not runs_in(tmp_path, "comparison")
    for _ in range(2):  # the same look again is no other one
        assert pipeline("compare", *ASK, "--planned", "5").status == 0
        assert json.loads(artifact(tmp_path, "effects.json"))["design"]["name"] == "planned"
    for seed in range(5, 10):
        make_run({"model": "a", "seed": seed}, {"auc": A[seed]})
        make_run({"model": "b", "seed": seed}, {"auc": B[seed]})
    answer = pipeline("compare", *ASK, "--planned", "10")
    assert answer.status == 2
    assert "an earlier comparison" in answer.err
    assert "has seen 10 of these 20 runs" in answer.err
    assert pipeline("compare", *ASK).status == 0
    later = json.loads(artifact(tmp_path, "effects.json"))
    assert (later["design"]["name"], later["design"]["alpha"]) == ("anytime", 0.01)
    assert not any("exploratory" in one for one in later["headline"])
    assert pipeline("compare", *ASK, "--value", "max").status == 0
    assert EXPLORATORY in json.loads(artifact(tmp_path, "effects.json"))["headline"]


@pytest.mark.parametrize(("most", "alpha"), [(30, 0.01), (10, 0.006)])
def test_a_studys_report_is_a_look_whose_end_takes_a_part(
    pipeline: Callable[..., Answer], tmp_path: Path, most: int, alpha: float
) -> None:
    plan = Plan.of(["a", "b"], [], range(5), most=most)
    make_pairs(tags={"reported_with": plan.as_json()})
    assert pipeline("compare", *ASK).status == 0
    design = json.loads(artifact(tmp_path, "effects.json"))["design"]
    assert (design["name"], design["alpha"]) == ("anytime", pytest.approx(alpha))


def test_another_value_than_a_studys_is_exploratory() -> None:
    plan = Plan.of(["a", "b"], [], range(10), value="mean2")
    for seed, (a, b) in enumerate(zip(A, B, strict=True)):
        for model, value in (("a", a), ("b", b)):
            tags = {"reported_with": plan.as_json()}
            make_run({"model": model, "seed": seed}, {"auc": [(0, 0.5), (1, value)]}, tags=tags)
    asked: dict[str, Any] = {"outcome": "auc", "by": "params.model", "pair": "params.seed"}
    assert EXPLORATORY in compare(**asked).analysis.headline
    assert EXPLORATORY not in compare(value="mean2", **asked).analysis.headline


def test_the_last_step_alone_stands_beside_the_mean_of_the_last_ones(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    for seed, (a, b) in enumerate(zip(A, B, strict=True)):
        make_run({"model": "a", "seed": seed}, {"auc": [(1, 0.1), (2, a - 0.01), (3, a + 0.01)]})
        make_run({"model": "b", "seed": seed}, {"auc": [(1, 0.1), (2, b - 0.05), (3, b + 0.05)]})
    assert pipeline("compare", *ASK, "--value", "mean2").status == 0
    effects = artifact(tmp_path, "report.md").partition("## Effects")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in effects.splitlines() if line.endswith("| b − a |")]
    assert [row[1] for row in rows] == ["auc", "auc of the last step alone"]
    differences = [float(re.findall(r"\+[\d.]+", row[3])[0]) for row in rows]
    assert differences == pytest.approx([0.027, 0.067])


WRONG = {
    "by is 'model'; it must be params.NAME or tags.NAME, such as params.model": {"--by": "model"},
    "none of 4 runs has a metric 'acu'; the metrics are: auc; did you mean auc?": {
        "--outcome": "acu"
    },
    "where is 'foo': ": {"--where": "foo"},
    "experiment 'Default' has no runs that where chooses": {"--where": "params.model = 'z'"},
    "no variant is 'z'; baseline must be one of a, b": {"--baseline": "z"},
    "unknown better 'more'; it must be one of higher, lower": {"--better": "more"},
    "value is 'best'; it must be last, the mean of the last steps (mean5), max, min, or": {
        "--value": "best"
    },
    "scale is 0.0; it must be a number above 0": {"--scale": "0"},
    "params.model can't be in both by and pair": {"--pair": "params.model"},
    "no experiment is named 'none'": {"--experiment": "none"},
    "nothing to compare: 2 runs of one variant, a": {"--where": "params.model = 'a'"},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_stored(
    pipeline: Callable[..., Answer], tmp_path: Path, message: str
) -> None:
    make_pairs(A[:2], B[:2])
    asked = dict(zip(ASK[::2], ASK[1::2], strict=True)) | WRONG[message]
    answer = pipeline("compare", *(word for pair in asked.items() for word in pair))
    assert answer.status == 2, answer
    assert answer.err.startswith(f"error: {message}"), answer.err
    assert answer.err.count("\n") == 1
    assert not runs_in(tmp_path, "comparison")


def test_runs_of_another_question_are_not_counted_as_failures(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:5], B[:5])
    for seed in range(3):
        make_run({"model": "lstm", "seed": seed}, {"perplexity": 9.0})
        make_run({"model": "gru", "seed": seed}, {"auc": math.nan})
    answer = pipeline("compare", *ASK)
    assert answer.status == 0, answer.err
    assert "lstm" not in answer.out
    assert "gru" in answer.out
    assert list(not_counted(tmp_path).values()).count("has no auc") == 3


def test_a_setting_that_a_program_logs_by_another_name_is_no_other_difference() -> None:
    for seed in range(3):
        for variant, depth in (("stumps", 1), ("trees", 3)):
            tags = {"variant": variant, "seed": str(seed), "settings": json.dumps({"depth": depth})}
            make_run({"max_depth": depth, "width": 2 * depth}, {"auc": depth + seed}, tags=tags)
    report = compare(outcome="auc", by="tags.variant", pair="tags.seed")
    (line,) = (line for line in report.analysis.headline if "differ in more" in line)
    assert "width: 2 (stumps), 6 (trees)" in line
    assert "max_depth" not in line


def test_what_differs_in_most_runs_of_two_variants_is_named_in_the_answer() -> None:
    for seed in range(6):
        tuned = {"a": 0.1 + seed % 2 / 10, "b": 0.5 + seed % 2 / 10}
        for model in "ab":
            batch = 64 if model == "b" and seed else 32
            often = {
                "lr": tuned[model],
                "batch": batch,
                "even": seed % 2,
                "folder": f"{model}{seed}",
            }
            tags = {
                "data": f"{model}.csv",
                "note": f"{model} {seed}",
                "mlflow.source.name": f"{model}.py",
            }
            make_run({"model": model, "seed": seed, **often}, {"auc": A[seed]}, tags=tags)
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    (line,) = (line for line in report.analysis.headline if "differ in more" in line)
    for told in ("lr: 0.1, 0.2 (a), 0.5, 0.6 (b)", "batch: 32 (a), 32, 64 (b)"):
        assert told in line
    for told in ("data: a.csv (a), b.csv (b)", "script: a.py (a), b.py (b)"):
        assert told in report.report
    for other in ("even", "folder", "note"):
        assert other not in line
    assert len(report.runs) == 12


def test_values_of_another_parameter_that_mean_the_same_are_the_same() -> None:
    for seed in range(6):
        make_run({"model": "a", "seed": seed, "lr": ["0.1", "0.10"][seed < 2]}, {"auc": A[seed]})
        make_run({"model": "b", "seed": seed, "lr": "1e-1"}, {"auc": B[seed]})
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    assert len(report.runs) == 12
    assert not report.unused
    assert "differ in" not in str(report)


@pytest.mark.parametrize("fold", [True, False])
def test_a_parent_counts_and_not_its_children(fold: bool) -> None:
    for seed in range(5):
        for model, values in (("a", A), ("b", B)):
            mean = make_run({"model": model, "seed": seed}, {"auc": values[seed]})
            for place in range(3):
                make_run(
                    {"model": model, "seed": seed, **({"fold": place} if fold else {})},
                    {"auc": values[seed] + place},
                    tags={"mlflow.parentRunId": mean},
                )
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    assert sorted(report.runs["auc"]) == sorted(A[:5] + B[:5])
    assert "30 runs: is a child of another run" in str(report)
    table = mlflow.search_runs(experiment_names=["Default"])
    again = compare(table, outcome="metrics.auc", by="params.model", pair="params.seed")
    assert len(again.runs) == 10
    assert len(again.unused) == 30  # without the comparison's own run


def test_runs_that_are_chosen_by_their_result_are_said_to_be() -> None:
    make_pairs()
    chosen = compare(outcome="auc", by="params.model", pair="none", where="metrics.auc > 0.7")
    assert "The runs were chosen by a metric" in str(chosen)
    plain = compare(
        outcome="auc", by="params.model", pair="none", where="params.seed != 'metrics.'"
    )
    assert "chosen by a metric" not in str(plain)


def test_a_metric_of_the_system_can_be_the_outcome() -> None:
    for seed in range(3):
        for model in "ab":
            make_run({"model": model, "seed": seed}, {"system/gpu": seed + 0.1, "auc": seed})
    report = compare(outcome="system/gpu", by="params.model", pair="params.seed")
    assert len(report.runs) == 6


def test_the_best_value_of_early_stopping_is_seen_in_a_table_too() -> None:
    for seed in range(3):
        make_run({"model": "a", "seed": seed}, {"auc": seed, "best_iteration": 3})
        make_run({"model": "b", "seed": seed}, {"auc": seed})
    table = mlflow.search_runs(experiment_names=["Default"])
    report = compare(table, outcome="metrics.auc", by="params.model", pair="params.seed")
    assert "Only runs of a have logged best_iteration" in str(report)


def test_an_empty_experiment_is_not_the_default_one() -> None:
    make_pairs()
    some: tuple[dict[str, Any], ...] = (
        {},
        {"outcome": "auc", "by": "params.model", "pair": "params.seed"},
    )
    for asked in some:
        with pytest.raises(InputError, match="experiment is empty"):
            compare(experiment=" ", **asked)


def test_some_of_a_grid_are_compared_only_if_they_are_most_and_the_answer_says_so() -> None:
    every = pd.concat([frame(batch=32), frame(batch=64)])
    assert any("Only runs with batch " in line for line in of_frame(every).analysis.headline)
    with pytest.raises(InputError) as refused:
        of_frame(pd.concat([frame(C=0.5), frame(C=1.0), frame(C=2.0)]).astype({"C": str}))
    assert str(refused.value) == (
        "runs of the same variant and pair also differ in C: 0.5, 1.0, 2.0; choose some by where"
        " (C == '2.0'), or give C to pair or by, too"
    )


def test_only_losses_among_what_is_compared_are_told() -> None:
    for seed in range(4):
        for model, values in (("a", A), ("b", B)):
            make_run({"model": model, "seed": seed, "batch": 32}, {"auc": values[seed]})
    lost = {"model": "a", "seed": 9, "batch": 64}
    make_run(lost, {"auc": math.nan})
    make_run({**lost, "seed": 1, "batch": 32}, {}, status="FAILED")  # which has been run again
    make_run({**lost, "seed": 1}, {"auc": 0.5})
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    assert not any("Not counted" in line for line in report.analysis.headline)
    make_run({**lost, "batch": "32.0"}, {"auc": math.nan})
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    assert any("Not counted: 1 of 5 runs of a" in line for line in report.analysis.headline)


def test_a_parameter_that_no_run_has_is_named_with_those_that_there_are() -> None:
    make_pairs()
    asked: dict[str, Any] = {"outcome": "auc", "by": "params.Model", "pair": "params.seed"}
    with pytest.raises(InputError, match=r"none of 20 runs has params.Model; .* did you mean"):
        compare(**asked)
    with pytest.raises(InputError, match=r"^pair is missing: to compare anybody's runs takes"):
        compare(outcome="auc", by="params.model")


@pytest.mark.parametrize("kind", ["program", "train", "comparison", "baseline"])
def test_other_peoples_tag_of_our_name_means_nothing(kind: str) -> None:
    for seed in range(4):
        for model in "ab":
            tags = {"kind": kind, "data": f"{model}.csv"}
            make_run({"model": model, "seed": seed}, {"auc": A[seed]}, tags=tags)
    report = compare(outcome="auc", by="params.model", pair="params.seed")
    assert len(report.runs) == 8
    assert any("data: a.csv (a), b.csv (b)" in line for line in report.analysis.headline)
    table = mlflow.search_runs(experiment_names=["Default"])
    assert (
        len(compare(table, outcome="metrics.auc", by="params.model", pair="params.seed").runs) == 8
    )
