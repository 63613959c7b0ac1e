"""A run tells the truth about how it ended, and about what it measured."""

import errno
import json
import math
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import torch
from conftest import (
    SMALL,
    TINY,
    Answer,
    Study,
    drawn_data,
    project_address,
    run,
    run_killed,
    run_project,
    runs_in,
    start,
    status_in_the_end,
)
from mlflow.entities import Run

from pipeline.config import Config
from pipeline.errors import percent
from pipeline.models.export import log_network
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import find_runs
from pipeline.runs.record import RunRecord
from pipeline.runs.resolve import resolve
from pipeline.runs.results import RESULT_FILE, read_results
from pipeline.runs.training_run import Beginning, train_run
from pipeline.training.history import Epoch
from pipeline.training.loop import Training
from pipeline.training.network import CNNNetwork

LONG = ["--dataset", "synthetic", "--train-images", "2000", "--epochs", "1000"]
LONG_PROJECT = ["-Pdataset=synthetic", "-Ptrain_images=2000", "-Pepochs=1000"]


def wait_for_first_epoch(folder: Path, process: subprocess.Popen[str]) -> None:
    """Return once a run in `folder` has logged a metric."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        # Not through MLflow, which would create the tables at the same time as the other process.
        with suppress(sqlite3.OperationalError):
            store = sqlite3.connect(f"file:{folder}/mlflow.db?mode=ro", uri=True)
            if store.execute("SELECT 1 FROM metrics WHERE key = 'val_loss'").fetchone():
                return
        time.sleep(0.2)
    raise AssertionError(process.communicate()[1])


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_by_a_signal_is_killed(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "python", "-m", "pipeline", "train", *LONG)
    wait_for_first_epoch(tmp_path, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    (run,) = runs_in(tmp_path)
    assert run.info.status == "KILLED"
    assert err.splitlines()[-1] == (
        f"error: stopped by {signal.Signals(number).name}; continue by: python -m pipeline train"
        f" --resume {run.info.run_id}"
    )


def test_whoever_presses_ctrl_c_twice_is_still_told_how_to_continue(tmp_path: Path) -> None:
    train = {"arguments": ["train", *TINY], "at": "in a batch", "again": "ending"}
    study = {"arguments": ["ablate", *TINY, "--seeds", "1", "--jobs", "1"], "at": "in a batch"}
    answers = run_killed(
        tmp_path,
        [
            {**train, "signal": signal.SIGTERM},
            {**train, "signal": signal.SIGINT},
            {**study, "signal": signal.SIGINT, "again": "ending:2"},  # after the run before it
        ],
    )
    *_, interrupted, terminated = runs_in(tmp_path, "train")
    assert [answer["status"] for answer in answers] == [143, 130, 130]
    again = "SIGINT for the second time, before it could end properly"
    resume = "python -m pipeline train --resume"
    assert [answer["err"].splitlines()[-1] for answer in answers] == [
        f"error: stopped by SIGTERM; continue by: {resume} {terminated.info.run_id}",
        f"error: stopped by {again}; continue by: {resume} {interrupted.info.run_id}",
        f"error: stopped by {again}; continue by: the same command again, which keeps what is done",
    ]
    assert terminated.info.status == "KILLED"
    heading = "base-seed0 on synthetic, 300 of 10,000 images: 300 training and 2,000 validation"
    assert answers[0]["out"].splitlines()[0].startswith(heading)
    assert not any("Traceback" in answer["err"] for answer in answers)


def test_a_signal_while_a_failure_is_noted_does_not_change_the_status(tmp_path: Path) -> None:
    diverging = ["train", *TINY, "--lr", "1e30"]
    kill = {"arguments": diverging, "at": "failure noted", "signal": signal.SIGTERM}
    (answer,) = run_killed(tmp_path, [kill])
    assert answer["status"] == 128 + signal.SIGTERM
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"
    assert "the loss is" in run.data.tags["failure"]
    assert run.data.tags["failure"] in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("inherited", "said"),
    [("SIG_DFL", "stopped by SIGHUP"), ("SIG_IGN", "continues")],
    ids=["plain", "nohup"],
)
def test_a_closed_terminal_stops_a_run_unless_nohup_protects_it(
    tmp_path: Path, inherited: str, said: str
) -> None:
    code = f"""
import os, signal
from pipeline import interruption
signal.signal(signal.SIGHUP, signal.{inherited})  # as `nohup` does, or a terminal
interruption.install()
try:
    os.kill(os.getpid(), signal.SIGHUP)
    print("continues")
except interruption.Interrupted as stop:
    print(stop)
"""
    assert run(tmp_path, "python", "-c", code).out == f"{said}\n"


@pytest.mark.thorough
def test_a_study_that_is_stopped_is_killed_with_its_running_child(tmp_path: Path) -> None:
    process = start(tmp_path, "python", "-m", "pipeline", "ablate", *LONG)
    wait_for_first_epoch(tmp_path, process)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert [run.info.status for run in runs_in(tmp_path)] == ["KILLED", "KILLED"]
    assert err.splitlines()[-1] == (
        "error: stopped by SIGTERM; continue by: the same command again, which keeps what is done"
    )


def project_child(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that `mlflow run` has started."""
    while True:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.Error):
                if "pipeline" in child.cmdline():
                    return child
        time.sleep(0.01)


def test_bash_replaces_itself_by_the_last_command() -> None:
    """So a signal to the process that MLflow has started reaches Python, in every environment."""
    command = f"true && {shlex.quote(sys.executable)} -c 'import os; print(os.getpid())'"
    process = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
    assert int(process.communicate()[0]) == process.pid


def test_a_signal_to_the_child_of_mlflow_run_ends_as_killed(tmp_path: Path) -> None:
    command = ["mlflow", "run", project_address(), "--env-manager", "local"]
    process = start(tmp_path, *command, *LONG_PROJECT)
    wait_for_first_epoch(tmp_path, process)
    project_child(process).terminate()
    process.communicate(timeout=20)
    assert status_in_the_end(tmp_path, "KILLED") == "KILLED"


def test_ctrl_c_in_mlflow_run_ends_as_killed(tmp_path: Path) -> None:
    command = ["mlflow", "run", project_address(), "--env-manager", "local"]
    process = start(tmp_path, *command, *LONG_PROJECT)
    wait_for_first_epoch(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    process.communicate(timeout=20)
    assert status_in_the_end(tmp_path, "KILLED") == "KILLED"


@pytest.mark.thorough
def test_ctrl_c_before_the_run_is_taken_over_ends_as_killed_too(tmp_path: Path) -> None:
    command = ["mlflow", "run", project_address(), "--env-manager", "local"]
    process = start(tmp_path, *command, *LONG_PROJECT)
    child = project_child(process)
    while child.memory_info().rss < 100e6:  # once it imports torch, it listens to signals
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    assert status_in_the_end(tmp_path, "KILLED") == "KILLED"
    (run,) = runs_in(tmp_path)
    assert "kind" not in run.data.tags


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_a_run_that_breaks_is_failed(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runs.run_figures.learning_curves", broken)
    with pytest.raises(ZeroDivisionError):
        pipeline("train", *SMALL)
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.metrics["val_accuracy"] > 0


def test_a_store_that_breaks_during_a_run_is_reported_in_one_line(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.store.uploads.upload_folder", full)
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    (line,) = answer.error_lines
    assert "No space left on device" in line
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"


def test_a_loss_that_is_no_number_stops_the_run_at_once(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = pipeline("train", *SMALL, "--batch-size", "100", "--lr", "1e30")
    assert answer.status == 1
    (line,) = answer.error_lines
    assert re.search(r"the loss is (nan|inf) in epoch 1 \(T\), batch 2 of 6", line)
    assert "at learning rate 1e+30; try a smaller one, such as 1e+29" in line
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] in line
    assert run.data.metrics.keys() == set()  # none of a training that went wrong


def test_a_loss_that_becomes_infinite_later_leaves_the_last_good_epoch(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    calls = 0
    step = torch.optim.Adam.step

    def lose_a_weight(optimizer: torch.optim.Adam) -> None:
        nonlocal calls
        calls += 1
        step(optimizer)
        if calls == 8:
            optimizer.param_groups[0]["params"][0].data[0] = math.nan  # of the first convolution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.models.trial.variants.try_variants", lambda *_: None)
        patch.setattr(torch.optim.Adam, "step", lose_a_weight)
        answer = pipeline("train", *SMALL, "--batch-size", "100")
    assert "the loss is nan in epoch 2 (T), batch 3 of 6" in answer.error_lines[0]
    (run,) = runs_in(tmp_path)
    answer = pipeline("train", "--resume", run.info.run_id)
    assert answer.status == 0, answer.err
    assert "continues after 1 of 2 epochs" in answer.out


def test_a_model_that_predicts_no_numbers_is_not_evaluated(
    pipeline: Callable[..., Answer],
) -> None:
    network = CNNNetwork()
    network.fc2.bias.data.fill_(math.nan)
    with track("run", {}, {}):
        uri = log_network(network, {}, drawn_data(), 1)
    answer = pipeline("evaluate", "--model", uri)
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert "did its training diverge?" in line


def test_a_loss_that_stays_at_a_guess_is_reported(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    small = ["--dataset", "synthetic", "--train-images", "600", "--epochs", "2"]
    answer = pipeline("train", *small, "--lr", "0.3")
    assert answer.status == 0
    assert "warning: base-seed0-lr0.3 has learned nothing" in answer.err
    assert "a random guess over 100 classes, 4.605 by cross-entropy" in answer.err
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.tags["learning"] == "stuck"
    answer = pipeline("train", "--dataset", "synthetic", "--variant", "bn", "--epochs", "1")
    assert "warning" not in answer.err
    assert runs_in(tmp_path)[0].data.tags["learning"] == "ok"


def test_a_small_study_says_so_first_and_counts_the_runs_that_learned_nothing(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    tiny = ["--dataset", "synthetic", "--train-images", "100", "--epochs", "1", "--seeds", "1"]
    answer = pipeline("ablate", *tiny, "--variants", "base,bn", "--name", "{x")
    assert answer.status == 0, answer.err
    (study,) = runs_in(tmp_path, "study")
    record = mlflow.artifacts.load_dict(f"{study.info.artifact_uri}/record.json")
    assert (record["study"], record["recipe"]["epochs"]) == ("{x", 1)
    assert json.loads(record["plan"])["variants"] == ["base", "bn"]
    assert "warning" not in answer.out + answer.err  # a line for each run would be too many
    (report,) = tmp_path.rglob("report.md")
    assert "base-seed0 (stuck)" in report.read_text()
    (headline,) = (json.loads(p.read_text())["headline"] for p in tmp_path.rglob("effects.json"))
    description = study.data.tags["mlflow.note.content"]
    for text in (answer.out, report.read_text(), description):
        assert "synthetic, 100 of 10,000 images, 1 epoch, 2 runs" in text
        told = [text.index(line) for line in headline]
        assert told == sorted(told)
    few, effect, *notes = headline
    assert few.startswith("Trained on only 100 of 10,000 images")
    assert effect.endswith(", and 1 of 1 run of bn and 1 of 1 run of base have learned nothing.")
    assert [note.partition(":")[0] for note in notes] == [
        "1 of 1 run of base has learned nothing",
        "1 of 1 run of bn has learned nothing",
    ]


def test_a_step_that_must_not_be_cut_in_two_ends_first_whatever_threads_there_are() -> None:
    code = """
import os, signal, threading, time
from pipeline import interruption
interruption.install()
threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
try:
    with interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print("whole")
    print("not reached")
except interruption.Interrupted as stop:
    print(stop)
"""
    answer = run(Path.cwd(), "python", "-c", code)
    assert answer.out.splitlines() == ["whole", "stopped by SIGTERM"]


def test_who_presses_ctrl_c_again_does_not_wait_for_a_store_that_hangs() -> None:
    code = """
import os, signal, time
from pipeline import interruption
interruption.install()
try:
    with interruption.deferred():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            print("held")
        time.sleep(30)
except interruption.Interrupted as stop:
    print(stop)
"""
    answer = run(Path.cwd(), "python", "-c", code)
    assert answer.out.splitlines() == ["held", "stopped by SIGINT"]


def test_the_same_command_gives_the_same_metrics_to_the_last_bit(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    for _ in range(2):
        assert pipeline("train", "--variant", "dropout", *SMALL).status == 0
    first, second = runs_in(tmp_path)
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        histories = [
            [m.value for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]
            for run in (first, second)
        ]
        assert histories[0] == histories[1]


def test_cpu_and_memory_are_sampled(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    pipeline("train", *SMALL)
    (run,) = runs_in(tmp_path)
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_a_run_says_which_images_it_classifies_correctly(study: Study) -> None:
    for child in study.runs.values():
        correct = np.load(study.artifact(child, RESULT_FILE))["correct"]
        assert correct.dtype == bool
        assert correct.mean() == pytest.approx(child.data.metrics["val_accuracy"], abs=1e-12)


def train_with_an_infinite_metric(monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """Train for two epochs; MLflow stores infinity as the largest float."""
    epochs = Training.epochs

    def infinite(self: Training) -> Iterator[Epoch]:
        for _ in epochs(self):
            *before, last = self.history
            self.history = (*before, replace(last, val_loss=math.inf))
            yield self.history[-1]

    monkeypatch.setattr(Training, "epochs", infinite)
    config = Config(variant="base", dataset="synthetic", train_images=300, epochs=2)
    return train_run(resolve(config), Beginning(register="none"))


def assert_same_results(read: RunRecord, trained: RunRecord) -> None:
    """To the last bit."""
    assert read.correct is not None
    assert trained.correct is not None
    assert read.correct.dtype == bool
    np.testing.assert_array_equal(read.correct, trained.correct)
    assert (read.history, read.identity) == (trained.history, trained.identity)
    assert (read.model_uri, read.config) == (trained.model_uri, trained.config)


def test_results_are_read_as_training_returned_them(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train_with_an_infinite_metric(monkeypatch)
    (found,) = find_runs("0", {}).records
    assert_same_results(read_results(found), trained)
    # As an older MLflow server finds it.
    assert_same_results(read_results(replace(found, models=())), trained)


def test_the_history_of_a_run_whose_file_is_gone_is_read_from_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train_with_an_infinite_metric(monkeypatch)
    (file,) = tmp_path.rglob(RESULT_FILE)
    file.unlink()
    (gone,) = find_runs("0", {}).records
    assert read_results(gone).history == trained.history
    assert read_results(gone).correct is None


def test_a_run_that_is_continued_beyond_its_epochs_has_the_result_of_the_last_one(
    pipeline: Callable[..., Answer],
) -> None:
    assert pipeline("train", *TINY).status == 0
    (first,) = find_runs("0", {}).records
    notes = {"note": "{todo", "grid": "{later", "list": '{"a": 1}'}  # a user's, which are no JSON
    for name, text in notes.items():
        mlflow.MlflowClient().set_tag(first.run_id, name, text)
    assert pipeline("train", "--resume", first.run_id, "--epochs", "2").status == 0
    (run,) = find_runs("0", {}).records
    tags = mlflow.get_run(run.run_id).data.tags
    assert {name: tags[name] for name in notes} == notes
    result = read_results(run)
    assert len(result.history) == 2
    last = {name: v for name, v in run.metrics.items() if not name.startswith("system/")}
    assert result.history[-1].metrics == last
    assert result.correct is not None
    assert result.correct.mean() == pytest.approx(last["val_accuracy"], abs=1e-12)
    assert result.model_uri != read_results(first).model_uri


def test_the_champion_is_the_best_of_those_measured_on_the_same_images(
    pipeline: Callable[..., Answer],
) -> None:
    client = mlflow.MlflowClient()

    def newest(alias: str) -> str:
        return str(client.get_model_version_by_alias("synthetic-cnn", alias).version)

    data = ["--dataset", "synthetic", "--train-images", "1000"]
    good = [*data, "--epochs", "3", "--batch-size", "40"]
    poor = [*data, "--epochs", "1", "--lr", "0.00001"]
    pipeline("train", "--variant", "bn", *good)
    assert newest("champion") == "1"
    pipeline("train", "--variant", "bn", *poor)
    assert newest("champion") == "1"
    # A trial on fewer images is measured on the same ones, and so has to be better.
    pipeline("train", "--variant", "base", *poor, "--train-images", "500")
    assert newest("champion") == "1"
    pipeline("train", "--variant", "dropout", *poor, "--validation", "holdout")
    assert newest("champion") == "1"
    assert list(client.get_registered_model("synthetic-cnn").aliases) == ["champion"]


def test_evaluate_measures_what_the_run_logged_and_is_linked_to_the_version(study: Study) -> None:
    def evaluations() -> list[Run]:
        # A test in another process may evaluate another model at the same time.
        runs = runs_in(study.folder, "evaluate")
        return [run for run in runs if run.info.run_name == "evaluate-synthetic-cnn@bn"]

    before = len(evaluations())
    answer = run_project(study.folder, "-e", "evaluate", "-P", "model=models:/synthetic-cnn@bn")
    assert answer.status == 0, answer.err
    evaluation, *others = evaluations()
    assert len(others) == before
    trained = study.children["bn"]
    metrics = evaluation.data.metrics
    assert metrics["accuracy"] == pytest.approx(trained.data.metrics["val_accuracy"], abs=0.0005)
    assert metrics["loss"] == pytest.approx(trained.data.metrics["val_loss"], abs=1e-3)
    assert metrics["accuracy"] <= metrics["superclass_accuracy"] <= 1
    assert metrics["accuracy"] <= metrics["top5_accuracy"] <= 1
    assert 0 <= metrics["calibration_error"] <= 1
    files = {entry.path for entry in study.client.list_artifacts(evaluation.info.run_id)}
    assert {"per_class_accuracy.csv", "confusions.csv", "confusion_matrix.png"} <= files
    version = study.client.get_model_version_by_alias("synthetic-cnn", "bn")
    assert evaluation.data.tags["model_version"] == f"synthetic-cnn/{version.version}"
    assert version.tags["evaluation_run"] == evaluation.info.run_id
    inputs = study.client.get_run(evaluation.info.run_id).inputs
    assert inputs is not None
    (model,) = inputs.model_inputs
    assert version.source == f"models:/{model.model_id}"
    assert percent(metrics["accuracy"]) in answer.out


def test_evaluate_takes_a_run_id(study: Study, pipeline: Callable[..., Answer]) -> None:
    os.chdir(study.folder)
    run = study.children["base"]
    answer = pipeline("evaluate", "--model", run.info.run_id)
    assert answer.status == 0
    evaluation = runs_in(study.folder, "evaluate")[0]
    for metric in ("accuracy", "superclass_accuracy", "calibration_error"):
        shown = percent(evaluation.data.metrics[metric])
        assert re.search(rf"^  {metric} +{shown}$", answer.out, re.MULTILINE)
    assert evaluation.data.metrics["accuracy"] == pytest.approx(
        run.data.metrics["val_accuracy"], abs=0.0005
    )
