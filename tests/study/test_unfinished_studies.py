"""A study in which something fails says so, keeps its results, and continues when run again."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import mlflow
import pandas as pd
import pytest
from conftest import WHOLE, Answer, broken_cell, runs_in
from mlflow.entities import Run

from pipeline.interruption import Interrupted

TINY = ["--dataset", "synthetic", "--train-images", "100", "--epochs", "1"]
ABLATE = ["ablate", *TINY, "--seeds", "2", "--variants", "base,bn"]


def by_kind(folder: Path) -> tuple[list[Run], list[Run]]:
    return runs_in(folder, "study"), runs_in(folder, "train")


def test_a_child_that_fails_is_listed_and_the_others_continue(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    with broken_cell("bn", 0, RuntimeError("out of cookies\nand of milk")):
        answer = pipeline(*ABLATE)
    assert answer.status == 1
    assert answer.error_lines == [
        "error: 1 of 4 runs failed; bn-seed0: out of cookies; run the same command again to"
        " retry them; finished runs are kept"
    ]
    assert "bn-seed0: failed: out of cookies" in answer.out
    (parent,), children = by_kind(tmp_path)
    assert parent.info.status == "FAILED"
    statuses = {run.info.run_name: run.info.status for run in children}
    assert statuses.pop("bn-seed0") == "FAILED"
    assert set(statuses) == {"base-seed0", "base-seed1", "bn-seed1"}
    assert set(statuses.values()) == {"FINISHED"}
    failed = next(run for run in children if run.info.run_name == "bn-seed0")
    assert failed.data.tags["failure"] == "out of cookies"
    client = mlflow.MlflowClient()
    report = Path(client.download_artifacts(parent.info.run_id, "report.md")).read_text()
    assert "| bn-seed0 | out of cookies |" in report
    # The comparison takes the seed that both variants have.
    assert "BatchNorm" in answer.out
    assert "in one seed" in answer.out

    with patch("mlflow.get_run", wraps=mlflow.get_run) as get_run:
        again = pipeline(*ABLATE)
    assert again.status == 0, again.err
    assert "3 of 4 runs are finished already" in again.out
    asked = [call.args[0] for call in get_run.call_args_list]
    assert asked.count(parent.info.run_id) == 1  # not once for each of its runs
    parents, children = by_kind(tmp_path)
    assert [run.info.status for run in parents] == ["FINISHED", "FAILED"]
    # The runs of the broken study are now children of this one, and the failed one has gone on.
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    assert not any("failure" in run.data.tags for run in children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    table = pd.read_csv(client.download_artifacts(parents[0].info.run_id, "results.csv"))
    assert list(table["reused"]) == [True, False, True, True]


def test_a_bar_on_the_terminal_says_how_far_the_study_is(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with broken_cell("base", 0, RuntimeError("no luck")):
        answer = pipeline("ablate", *TINY, "--seeds", "1", "--variants", "base,bn")
    shown = answer.err.replace("\n", "\r").split("\r")
    bars = [line for line in shown if line.startswith("Study, 1 failed, running bn-seed0:")]
    assert re.search(r"50%.* 1/2 \[\d\d:\d\d<\d\d:\d\d", bars[0])  # done, and time left


@pytest.mark.parametrize(
    ("options", "runs"), [([], 4), (["--seeds", "auto", "--margin", "20"], 10)]
)
def test_a_study_that_was_stopped_continues_where_it_was(
    pipeline: Callable[..., Answer], tmp_path: Path, options: list[str], runs: int
) -> None:
    command = [*ABLATE, *options, "--jobs", "1"]
    with broken_cell("bn", 1, Interrupted(15)):
        assert pipeline(*command).status == 143
    (parent,), children = by_kind(tmp_path)
    assert parent.info.status == "KILLED"
    finished = {run.info.run_id for run in children if run.info.status == "FINISHED"}
    assert len(finished) == 2
    assert pipeline(*command).status == 0
    parents, children = by_kind(tmp_path)
    assert [run.info.status for run in parents] == ["FINISHED", "KILLED"]
    nested = {
        run.info.run_id
        for run in children
        if run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    }
    assert finished < nested
    assert len(nested) == runs


def test_nothing_to_report_if_every_run_fails(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("pipeline.runs.training_run.train_network", broken)
    answer = pipeline(*ABLATE)
    assert answer.status == 1
    assert answer.error_lines == ["error: all 4 runs failed; base-seed0: no luck"]
    (parent,), _ = by_kind(tmp_path)
    assert parent.info.status == "FAILED"


def test_what_may_be_reused_is_asked_for(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ["ablate", *TINY, "--seeds", "1", "--variants", "base", "--register", "none"]
    assert pipeline(*one).status == 0

    def trained() -> int:
        return len(runs_in(tmp_path, "train"))

    assert trained() == 1
    assert pipeline(*one, "--lr", "1e-3").status == 0  # the same, typed in another way
    assert trained() == 1
    assert pipeline(*one, "--reuse", "none").status == 0
    assert trained() == 2
    assert pipeline(*one, "--batch-size", "128").status == 0
    assert trained() == 3
    monkeypatch.setattr("pipeline.runs.provenance.code_digest", lambda _: "0" * 64)
    assert pipeline(*one, "--reuse", "any").status == 0
    assert trained() == 3
    assert pipeline(*one).status == 0
    assert trained() == 4


def test_every_model_is_registered_if_asked_for_also_of_runs_that_are_reused(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    one = ["ablate", *WHOLE, "--variants", "base"]
    client = mlflow.MlflowClient()

    def seed_of(alias: str) -> str:
        return str(client.get_model_version_by_alias("synthetic-cnn", alias).tags["seed"])

    assert pipeline(*one, "--seeds", "4", "--register", "none").status == 0
    assert client.search_model_versions() == []
    # Four seeds: the lower of the two in the middle, also where accuracies are equal.
    accuracies = {
        r.data.tags["seed"]: r.data.metrics["val_accuracy"] for r in runs_in(tmp_path, "train")
    }
    answer = pipeline(*one, "--seeds", "4")
    assert len(client.search_model_versions()) == 1
    assert accuracies[seed_of("base")] == sorted(accuracies.values())[1]
    assert f"  base-seed{seed_of('base')} as models:/synthetic-cnn/1" in answer.out
    answer = pipeline(*one, "--seeds", "4", "--register", "all")
    assert len(client.search_model_versions()) == 4
    assert client.get_model_version_by_alias("synthetic-cnn", "base").version == "1"
    said = [line for line in answer.out.splitlines() if "synthetic-cnn@base" in line]
    assert len(said) == 1
    assert f"base-seed{seed_of('base')} as" in said[0]


def test_a_finished_run_whose_model_was_deleted_is_compared_but_not_reused(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    one = ["ablate", *TINY, "--variants", "base,bn", "--seeds", "1"]
    assert pipeline(*one, "--register", "none").status == 0
    client = mlflow.MlflowClient()
    (bn,) = (run for run in runs_in(tmp_path, "train") if run.data.tags["variant"] == "bn")
    # Registered by hand, without what this project says of a version.
    mlflow.register_model(f"runs:/{bn.info.run_id}/model", "synthetic-cnn")
    answer = pipeline(*one, "--register", "all")
    assert answer.status == 0, answer.err
    version = client.get_model_version("synthetic-cnn", "1")
    assert (version.run_id, version.tags["variant"]) == (bn.info.run_id, "bn")
    assert len(client.search_model_versions()) == 2
    (model,) = client.search_logged_models(["0"], f"source_run_id = '{bn.info.run_id}'")
    client.delete_logged_model(model.model_id)
    answer = pipeline("compare")
    assert answer.status == 0, answer.err
    answer = pipeline(*one, "--register", "none")
    assert answer.status == 0, answer.err
    assert "1 of 2 runs are finished already" in answer.out


def test_a_deleted_run_is_not_compared(pipeline: Callable[..., Answer], tmp_path: Path) -> None:
    assert pipeline("ablate", *TINY, "--variants", "base,bn", "--seeds", "1").status == 0
    ids = [run.info.run_id for run in runs_in(tmp_path, "train")]
    mlflow.delete_run(ids[0])
    answer = pipeline("compare", *ids)
    assert answer.status == 2
    assert f"'{ids[0]}' is not the id of a finished training run" in answer.err


def test_a_name_stands_for_one_recipe(pipeline: Callable[..., Answer], tmp_path: Path) -> None:
    one = ["ablate", *TINY, "--variants", "base,bn", "--register", "none", "--name", "it's mine"]
    assert pipeline(*one, "--seeds", "1").status == 0
    before = len(runs_in(tmp_path))
    answer = pipeline(*one, "--seeds", "1", "--batch-size", "64")
    assert answer.status == 2
    assert answer.err.splitlines() == [
        'error: a study named "it\'s mine" exists with batch_size 256 instead of 64; give this one'
        " another name"
    ]
    assert len(runs_in(tmp_path)) == before
    assert pipeline(*one, "--seeds", "2").status == 0  # more seeds are the same study
    assert [run.info.run_name for run in runs_in(tmp_path, "study")] == ["it's mine", "it's mine"]
