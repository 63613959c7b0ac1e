"""A study in which something fails says so, keeps its results, and continues when run again."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import mlflow
import pandas as pd
import pytest
from conftest import WHOLE, Answer, broken_cell, broken_epoch, drawn_data, runs_in
from mine import TRAIN, write
from mlflow.entities import Run

from pipeline.execution.parallelism import JOB_MEMORY
from pipeline.interruption import Interrupted
from pipeline.machine import GIB
from pipeline.store.artifacts import has_file
from pipeline.store.tags import unpack
from pipeline.store.uploads import STATE_FILE

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
    note = "mlflow.note.content"
    assert failed.data.tags[note] == (
        "**FAILED:** `out of cookies`; continue by: the study's command again, or"
        f" `python -m pipeline train --resume {failed.info.run_id}`"
    )
    client.set_tag(failed.info.run_id, note, f"{failed.data.tags[note]}\n\nMine.\n\nAnd this.")
    # What the report says stays.
    first, *rest = parent.data.tags[note].split("\n\n")
    assert first.startswith("**FAILED:** `1 of 4 runs failed; bn-seed0: out of cookies")
    assert "3 runs with 2 seeds" in rest[0]
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
    assert asked.count(parent.info.run_id) == 2  # not once for each of its runs
    parents, children = by_kind(tmp_path)
    assert [run.info.status for run in parents] == ["FINISHED", "FAILED"]
    first, *rest = parents[1].data.tags[note].split("\n\n")
    assert f"; continued by [{parents[0].info.run_name}](#/experiments/0/runs/" in first
    assert parents[0].info.run_id in first
    assert "3 runs with 2 seeds" in rest[0]
    # The runs of the broken study are now children of this one, and the failed one has gone on.
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    assert not any("failure" in run.data.tags for run in children)
    assert client.get_run(failed.info.run_id).data.tags[note] == "Mine.\n\nAnd this."
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
    bars = [line for line in shown if line.startswith("Study, running bn-seed0, 1 failed:")]
    assert re.search(
        r"50%.* 1/2 runs \[\d\d:\d\d, about \d:\d\d:\d\d left\]", bars[0]
    )  # done, and time left


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

    monkeypatch.setattr("pipeline.runs.training_run._train", broken)
    answer = pipeline(*ABLATE)
    assert answer.status == 1
    assert answer.error_lines == [
        "error: all 2 runs failed, and 2 others not made; base-seed0: no luck"
    ]
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


def test_the_same_bytes_in_another_shape_are_other_images(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)  # with images that are not square
    assert pipeline(*TRAIN, "--epochs", "2").status == 0
    (run,) = runs_in(tmp_path)
    client, tags = mlflow.MlflowClient(), unpack(run)
    ablate = ["ablate", *TRAIN[1:], "--epochs", "2", "--variants", "plain", "--seeds", "1"]
    ablate += ["--dry-run", "--reuse", "any"]
    everything = "1 of 1 run is finished already"
    assert everything in pipeline(*ablate).out
    # The same bytes in another shape.
    shape = "9x6 pixels"
    assert shape in tags["images"]
    other = tags["images"].replace(shape, "27x2 pixels")
    client.set_tag(run.info.run_id, "images", other)
    assert everything not in pipeline(*ablate).out
    resume = ["train", "--resume", run.info.run_id, "--epochs", "3"]
    answer = pipeline(*resume)
    assert (answer.status, len(answer.error_lines)) == (2, 1)
    assert f"began with images {other}, here it is {tags['images']}; it continues" in answer.err


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
        r.data.params["seed"]: r.data.metrics["val_accuracy"] for r in runs_in(tmp_path, "train")
    }
    answer = pipeline(*one, "--seeds", "4")
    assert len(client.search_model_versions()) == 1
    assert accuracies[seed_of("base")] == sorted(accuracies.values())[1]
    assert f"  base-seed{seed_of('base')} as models:/synthetic-cnn/1" in answer.out
    answer = pipeline(*one, "--seeds", "4", "--register", "all")
    assert len(client.search_model_versions()) == 4
    assert str(client.get_model_version_by_alias("synthetic-cnn", "base").version) == "1"
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
    assert "1 of 2 runs is finished already" in answer.out


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
    answer = pipeline(*one, "--seeds", "2")  # more seeds are the same study
    assert answer.status == 0
    assert "2 of 4 runs are finished already and are reused" in answer.out
    assert [run.info.run_name for run in runs_in(tmp_path, "study")] == ["it's mine", "it's mine"]


def learned(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every value of every metric that depends on what the network has learned, by epoch."""
    client = mlflow.MlflowClient()
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


def test_a_study_goes_on_to_more_epochs_from_runs_that_kept_their_state(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = [*ABLATE, "--seeds", "1", "--register", "none", "--jobs", "1"]
    assert pipeline(*study, "--keep-state", "yes").status == 0
    (parent,), short = by_kind(tmp_path)
    more = [*study, "--epochs", "3"]
    planned = pipeline(*more, "--dry-run")
    for run in short:
        place = f"{run.info.run_name}: to go on after epoch 1 of {run.info.run_id}"
        assert place in planned.out
    # Killed before it has a state of its own, and continued: it still begins with the other's.
    with broken_epoch(2):
        assert pipeline(*more).status == 1
    answer = pipeline(*more, "--jobs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.count("continues after 1 of 3 epochs") == 2

    untouched = {run.info.run_id: run for run in by_kind(tmp_path)[1]}
    for run in short:
        assert untouched[run.info.run_id].data.to_dictionary() == run.data.to_dictionary()
    assert {run.data.tags["mlflow.parentRunId"] for run in short} == {parent.info.run_id}
    new = {run.info.run_name: run for run in untouched.values() if unpack(run)["epochs"] == "3"}
    assert len(new) == len(untouched) - len(short) == 2
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "at once")
    assert pipeline(*more).status == 0
    at_once = {run.info.run_name: run for run in by_kind(tmp_path)[1][:2]}
    for run in short:
        longer = new[run.info.run_name]
        assert longer.data.tags["continued_from"] == run.info.run_id
        assert learned(longer) == learned(at_once[run.info.run_name])
        assert [step for step, _ in learned(longer)["val_loss"]] == [1, 2, 3]


def test_a_study_says_why_it_trains_anew_for_more_epochs(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ["ablate", *TINY, "--seeds", "1", "--variants", "base", "--register", "none"]

    def reason(*options: str) -> str:
        planned = pipeline(*one, "--epochs", "2", "--dry-run", *options)
        (line,) = (line for line in planned.out.splitlines() if "base-seed0: " in line)
        return line.strip()

    assert pipeline(*one).status == 0
    none = "trained for 1 epoch, and kept no state (keep_state=yes would)"
    assert reason() == f"base-seed0: to train again: {none}"
    held_out = ("--train-images", "300", "--validation", "holdout")
    assert pipeline(*one, *held_out, "--keep-state", "yes").status == 0
    assert "and has read its test split, which happens once" in reason(*held_out)
    assert pipeline("train", *TINY).status == 0  # which keeps its state, unless told otherwise
    assert f"to go on after epoch 1 of {runs_in(tmp_path, 'train')[0].info.run_id}" in reason()
    assert reason("--reuse", "none") == "base-seed0: to train"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.provenance.code_digest", lambda _: "0" * 64)
        assert reason().endswith("trained for 1 epoch, and the code has changed since")
    kept = runs_in(tmp_path, "train")[0]
    assert pipeline("train", *TINY, "--keep-state", "no", "--seed", "1").status == 0
    assert not has_file(runs_in(tmp_path, "train")[0].info.artifact_uri, STATE_FILE)
    (tmp_path / "mlruns" / "0" / kept.info.run_id / "artifacts" / STATE_FILE).write_bytes(b"?" * 99)
    answer = pipeline(*one, "--epochs", "2")
    assert answer.status == 0, answer.err
    assert f"the state of run {kept.info.run_id} is damaged, and not used" in answer.out
    assert "continued_from" not in runs_in(tmp_path, "train")[0].data.tags


def test_a_dry_run_measures_on_what_trains_and_names_no_time_that_it_does_not_know(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine with a GPU.
    monkeypatch.setattr("pipeline.training.device._is_usable", lambda name: name != "mps")
    planned = pipeline(*ABLATE, "--seeds", "1", "--device", "cpu", "--dry-run").out
    assert re.search(r"^  bn: 599,908 parameters, about 0:00:\d\d a run$", planned, re.MULTILINE)
    assert "(from a few steps of each variant on this machine)\n" in planned
    each = (JOB_MEMORY + drawn_data(100).nbytes) / GIB
    assert planned.endswith(f"; about {each:.1f} GiB of memory each\n")

    def fail(*_: object) -> float:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("pipeline.study.forecast._measure", fail)
    one = [*ABLATE, "--seeds", "1", "--variants", "bn", "--device", "cpu", "--dry-run"]
    planned = pipeline(*one).out
    assert "  bn: 599,908 parameters\n" in planned
    assert "\n1 run to train, time known after the first epoch\n" in planned
