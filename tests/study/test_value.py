"""What counts as a run's result: the last epoch, or the mean of the last ones, as was planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from conftest import Answer, runs_in
from invented import TUTORIAL, assert_labels_fit
from invented import study as runs_of

from pipeline.report.analysis import analyse
from pipeline.report.figures import study_figures
from pipeline.report.files import report_files
from pipeline.runs.plan import Plan

SMALL = ["--dataset", "synthetic", "--train-images", "300", "--epochs", "3", "--jobs", "1"]
STUDY = ["ablate", *SMALL, "--variants", "base,bn", "--seeds", "2", "--register", "none"]


def files(folder: Path, kind: str = "study") -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    newest = runs_in(folder, kind)[0]
    client = mlflow.MlflowClient()
    effects, runs, curves = (
        Path(client.download_artifacts(newest.info.run_id, name))
        for name in ("effects.json", "results.csv", "curves.csv")
    )
    return json.loads(effects.read_text()), pd.read_csv(runs), pd.read_csv(curves)


def test_the_mean_of_the_last_epochs_is_what_was_planned_and_stays_it(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = pipeline(*STUDY, "--value", "mean2")
    assert answer.status == 0, answer.err
    assert "mean validation accuracy of the last 2 epochs" in answer.out
    effects, runs, curves = files(tmp_path)
    assert effects["primary_metric"] == "val_accuracy_mean2"
    last = curves[curves["epoch"] > 1].groupby("run")["val_accuracy"]
    by_run = runs.set_index("run")
    for run in by_run.index:
        assert by_run.loc[run, "val_accuracy_mean2"] == pytest.approx(last.mean()[run])
        assert by_run.loc[run, "val_accuracy"] == last.last()[run]
    found = {one["metric"]: one for one in effects["effects"]}
    means = runs.groupby("variant")[["val_accuracy_mean2", "val_accuracy"]].mean()
    for metric in ("val_accuracy_mean2", "val_accuracy"):
        difference = means.loc["bn", metric] - means.loc["base", metric]
        assert found[metric]["difference"] == pytest.approx(difference)
    assert found["val_accuracy"]["sentence"].count("validation accuracy of the last epoch alone")
    # The runs say what was planned; the same command again is the same plan.
    (study,) = runs_in(tmp_path, "study")
    assert study.data.params["value"] == "mean2"
    tag = runs_in(tmp_path, "train")[0].data.tags["reported_with"]
    assert Plan.from_json(tag).value == "mean2"
    assert pipeline(*STUDY, "--value", "mean2").status == 0
    assert files(tmp_path)[0]["design"]["name"] == "planned"
    # A comparison of exactly these runs repeats their answer.
    assert pipeline("compare", "--experiment", "Default").status == 0
    again, _, _ = files(tmp_path, "comparison")
    assert (again["primary_metric"], again["design"]["name"]) == ("val_accuracy_mean2", "planned")
    # Another value, chosen after a look, says so.
    assert pipeline(*STUDY).status == 0
    other = files(tmp_path)[0]
    assert other["primary_metric"] == "val_accuracy"
    assert (other["design"]["name"], other["design"]["alpha"]) == ("anytime", 0.01)
    assert "counted another value of them: what counts here was" in other["design"]["reason"]
    headline = " ".join(other["headline"])
    assert "counted another value: this one is exploratory." in headline
    newest = runs_in(tmp_path, "study")[0].info.run_id
    page = mlflow.artifacts.load_text(f"runs:/{newest}/report.md")
    assert "The primary outcome is the validation accuracy after" in page
    # Seeds that were added after a report are none of their own.
    assert pipeline(*STUDY, "--seeds", "4", "--value", "mean2").status == 0
    added = [one.info.run_id for one in runs_in(tmp_path, "train")[:4]]
    assert pipeline("compare", *added).status == 0
    assert files(tmp_path, "comparison")[0]["design"]["name"] == "anytime"
    # A run that nobody has reported does not change what counts.
    assert pipeline("train", *SMALL[:-2], "--seed", "9", "--register", "none").status == 0
    assert pipeline("compare", "--experiment", "Default").status == 0
    assert files(tmp_path, "comparison")[0]["primary_metric"] == "val_accuracy_mean2"


def test_a_name_stands_for_one_value(pipeline: Callable[..., Answer]) -> None:
    named = [*STUDY, "--name", "first", "--train-images", "100", "--seeds", "1"]
    assert pipeline(*named, "--value", "mean2").status == 0
    answer = pipeline(*named, "--seeds", "2")
    assert answer.status == 2
    assert "a study named 'first' exists with value mean2 instead of last" in answer.error_lines[0]


def test_the_report_shows_both_and_says_which_counts() -> None:
    analysis = analyse(TUTORIAL, runs_of({"base": [0.4, 0.42], "bn": [0.5, 0.51]}), value="mean2")
    page = report_files(analysis, "", {}, {})["report.md"].decode()
    assert "is the mean validation accuracy of the last 2 epochs." in page
    effects = page.partition("## Effects")[2].partition("## Variants")[0]
    rows = [line for line in effects.splitlines() if line.endswith("| bn − base |")]
    assert [row.split(" | ")[1] for row in rows] == [
        "mean validation accuracy of the last 2 epochs",
        "validation accuracy of the last epoch alone",
    ]
    assert "BatchNorm raises the mean validation accuracy of the last 2 epochs by" in page
    # invented: 0.9 and 1 times the accuracy that is reached
    assert "+9.03 points" in rows[0]
    assert "+9.50 points" in rows[1]
    assert page.count("| BatchNorm | validation accuracy of the last epoch alone |") == 1
    figures = study_figures(analysis)
    (axes,) = figures["seeds"].axes
    assert axes.get_ylabel() == "mean validation accuracy of the last 2 epochs (%)"
    assert_labels_fit(figures)
    assert "| last epoch |" in page.partition("## Variants")[2]
    assert "The mean validation accuracy of the last 2 epochs counts, and if curves" in page
    plain = report_files(analyse(TUTORIAL, analysis.results), "", {}, {})["report.md"].decode()
    assert "validation accuracy after the last epoch." in plain
    assert "last epoch alone" not in plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--value", "max"], "value is 'max'; it must be last, or mean5"),
        (["--value", "mean1"], "value is 'mean1'; it must be last, or mean5"),
        (["--value", "mean5"], "value is mean5, and a run has 3 epochs; take the mean of fewer"),
        (["--value", "mean2", "--validation", "holdout"], "the test images are read once"),
        (["--value", "mean2", "--lr", "0.01,0.001"], "the test images are read once"),
        (["--stop-early", "yes"], "stop_early is for seeds=auto"),
        (["--stop-early", "perhaps"], "unknown stop_early 'perhaps'; it must be one of yes, no"),
        (["--max-seeds", "1001"], "max_seeds is 1001; it must be at most 1000"),
    ],
)
def test_what_can_not_count_is_refused_before_anything_is_made(
    pipeline: Callable[..., Answer], tmp_path: Path, options: list[str], message: str
) -> None:
    answer = pipeline(*STUDY, *options)
    assert answer.status == 2
    (line,) = answer.error_lines
    assert message in line
    assert not list(tmp_path.glob("mlflow.db"))
