"""If the store fails, training continues, nothing is lost, and a lasting fault is reported."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import torch
from conftest import (
    SMALL,
    TINY,
    Answer,
    Forked,
    forget_stores,
    free_port,
    run,
    run_killed,
    runs_in,
)
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from servers import Server, needs_postgres, postgres

from pipeline.config import Config
from pipeline.errors import StoreOutageError
from pipeline.runs.queries import find_runs
from pipeline.runs.resolve import resolve
from pipeline.runs.results import RESULT_FILE, read_results
from pipeline.runs.training_run import Beginning, train_run
from pipeline.store.outages.waiting import in_store
from pipeline.training.history import Epoch
from pipeline.training.loop import Training
from pipeline.training.network import CNNNetwork

LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
# About a second an epoch on two cores.
TRAIN = ["--dataset", "synthetic", "--train-images", "2000", "--variant", "bn"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server that keeps its runs in SQLite."""
    folder = tmp_path / "server"
    folder.mkdir()
    running = Server(folder, f"sqlite:///{folder}/mlflow.db")
    running.start()
    yield running
    running.stop()


def train(
    folder: Path, server: Server, *arguments: str, patience: int = 600, command: str = "train"
) -> Forked:
    """Start a training whose store is the server; it waits for that for so many seconds."""
    folder.mkdir(exist_ok=True)
    settings = {
        "MLFLOW_TRACKING_URI": server.uri,
        "PIPELINE_STORE_PATIENCE": str(patience),
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",
    }
    return Forked(folder, "pipeline", command, *arguments, **settings)


def wait_for_epoch(server: Server, epoch: int, process: Forked) -> str:
    """Return the id of the one run once it has logged so many epochs."""
    client = mlflow.MlflowClient(server.uri)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for found in client.search_runs(["0"]):
            if len(client.get_metric_history(found.info.run_id, "val_loss")) >= epoch:
                return str(found.info.run_id)
        time.sleep(0.7)  # each look takes time from the run
    raise AssertionError(process.communicate())


@contextmanager
def counted_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that this process sends requests to."""
    sent: list[str] = []
    send = requests.Session.send

    def count(session: requests.Session, request: Any, **settings: Any) -> requests.Response:
        sent.append(request.url)
        return send(session, request, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(requests.Session, "send", count)
        yield sent


def test_a_finished_run_is_read_from_a_server_by_two_requests(
    server: Server, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    for seed in "012":
        assert pipeline("train", *TINY, "--seed", seed).status == 0
    first, *others = find_runs("0", {}).records
    read_results(first)  # MLflow asks what the server can do, once
    with counted_requests(monkeypatch) as sent:
        results = [read_results(one) for one in others]
    assert len(sent) <= 2 * len(others), sent
    for one, result in zip(others, results, strict=True):
        assert result.correct is not None
        assert result.correct.mean() == pytest.approx(one.metrics["val_accuracy"], abs=1e-12)
        assert result.history[0].metrics.items() <= one.metrics.items()
        assert result.model_uri
    # A file that is gone is not an outage.
    (file,) = (server.folder / "served").rglob(f"{results[0].run_id}/artifacts/{RESULT_FILE}")
    file.unlink()
    again = read_results(others[0])
    assert (again.history, again.correct) == (results[0].history, None)


@contextmanager
def slow_requests(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    """Let a server take so many seconds longer for each request."""
    send = requests.Session.send

    def slow(session: requests.Session, request: Any, **settings: Any) -> requests.Response:
        time.sleep(seconds)
        return send(session, request, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(requests.Session, "send", slow)
        yield


def test_training_never_waits_for_a_slow_server(
    server: Server, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, took = Training.epochs, []

    def slowly(self: Training) -> Iterator[Epoch]:
        if not mlflow.active_run():  # in the trial, which reads a part of this
            yield from epochs(self)
            return
        with slow_requests(monkeypatch, 3.0):
            started = time.monotonic()
            yield from epochs(self)
            took.append(time.monotonic() - started)

    monkeypatch.setattr(Training, "epochs", slowly)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr("pipeline.store.uploads.METRICS_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.store.uploads.STATE_SECONDS", 0.0)
    answer = pipeline("train", *TINY, "--epochs", "6")
    assert answer.status == 0, answer.err
    assert took[0] < 3 * 6 / 2  # it would take twice that to wait once in each epoch
    (found,) = mlflow.MlflowClient(server.uri).search_runs(["0"])
    assert found.info.status == "FINISHED"
    every_metric_once(server, found.info.run_id, 6)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_a_run_takes_hardly_longer_if_each_request_takes_a_second(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    spec = resolve(Config(dataset="synthetic", train_images=200, epochs=40))
    seconds = []
    for delay in (0.0, 0.0, 1.0):  # the first one exports
        with slow_requests(monkeypatch, delay):
            started = time.monotonic()
            train_run(spec, Beginning(register="none"), lambda _: time.sleep(3))
            seconds.append(time.monotonic() - started)
    assert seconds[2] <= 1.1 * seconds[1], seconds


def every_metric_once(server: Server, run_id: str, epochs: int) -> None:
    client = mlflow.MlflowClient(server.uri)
    for name in (*LEARNED, "lr", "epoch_seconds", "images_per_second"):
        steps = sorted(m.step for m in client.get_metric_history(run_id, name))
        assert steps == list(range(1, epochs + 1)), name


def goes_through_an_outage(folder: Path, server: Server, seconds: float) -> None:
    """Stop the server in mid-run for so long, start it again, and look for gaps."""
    epochs = int(20 + 1.6 * seconds)  # of a second or more each; a server takes some to start
    whole = ["--dataset", "synthetic", "--variant", "bn"]
    process = train(folder, server, *whole, "--epochs", str(epochs))
    run_id = wait_for_epoch(server, 2, process)
    server.stop()
    time.sleep(seconds)
    assert process.poll() is None
    server.start()
    again = time.time()
    before = len(mlflow.MlflowClient(server.uri).get_metric_history(run_id, "val_loss"))
    err = process.communicate(timeout=600)[1]
    assert process.returncode == 0, err
    assert before < epochs  # else there was nothing to go on with
    if seconds:  # a shorter one may fall between two requests
        assert "does not answer; training continues, and its metrics wait" in err
        assert "answers again" in err
    assert "Traceback" not in err
    every_metric_once(server, run_id, epochs)
    client = mlflow.MlflowClient(server.uri)
    samples = client.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    assert samples[-1].timestamp / 1000 > again
    ended = client.get_run(run_id)
    assert ended.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(run_id)}
    assert {"training_state.pt", "checkpoint.pt", "learning_curves.png"} <= files
    assert client.get_model_version_by_alias("synthetic-cnn", "bn").run_id == run_id


def test_training_continues_while_the_server_is_away(
    tmp_path: Path, server: Server, tally: Callable[[str, int], None]
) -> None:
    goes_through_an_outage(tmp_path / "client", server, 0)  # and as long as it takes to start
    tally("restarts of a server survived", 1)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_a_minute_without_the_server(
    tmp_path: Path, server: Server, tally: Callable[[str, int], None]
) -> None:
    goes_through_an_outage(tmp_path / "client", server, 60)
    tally("outages of a server of 60 s survived", 1)


@needs_postgres
def test_a_study_keeps_its_runs_in_postgresql_and_its_password_to_itself(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with postgres() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("runs@", "runs:secret@"))
        answer = pipeline("ablate", *TINY, "--variants", "base,bn", "--seeds", "2", "--jobs", "1")
        assert answer.status == 0, answer.err
        compared = pipeline("compare")
        assert compared.status == 0, compared.err
        assert "BatchNorm" in compared.out
        evaluated = pipeline("evaluate", "--model", "models:/synthetic-cnn@champion")
        assert evaluated.status == 0, evaluated.err
        unknown = pipeline("evaluate", "--model", "0" * 32)
        assert unknown.status == 2
        forget_stores()
    assert not (tmp_path / "mlflow.db").exists()
    for said in (answer, compared, evaluated, unknown):
        assert "secret" not in said.out + said.err


@needs_postgres
@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_a_minute_without_a_server_that_keeps_its_runs_in_postgresql(
    tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with postgres() as uri:
        server = Server(folder, uri)
        server.start()
        try:
            goes_through_an_outage(tmp_path / "client", server, 60)
        finally:
            server.stop()
    tally("outages of a server with PostgreSQL of 60 s survived", 1)


@pytest.mark.thorough
def test_a_study_in_parallel_continues_while_the_server_is_away(
    tmp_path: Path, server: Server
) -> None:
    options = ["--dataset", "synthetic", "--train-images", "1000", "--epochs", "8", "--seeds", "2"]
    study = train(
        tmp_path, server, *options, "--variants", "base,bn", "--jobs", "2", command="ablate"
    )
    client = mlflow.MlflowClient(server.uri)
    deadline = time.monotonic() + 120
    while not client.search_runs(["0"], "tags.kind = 'train' and metrics.val_loss > 0"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    server.stop()
    time.sleep(20)
    assert study.poll() is None
    server.start()
    out, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    assert "does not answer; training continues" in out  # as a line of the study
    runs = client.search_runs(["0"], "tags.kind = 'train'")
    assert [found.info.status for found in runs] == ["FINISHED"] * 4
    for found in runs:
        every_metric_once(server, found.info.run_id, 8)


def test_only_a_job_of_a_study_waits_for_the_store_before_a_run_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.store.outages.waiting.RETRY_SECONDS", 0.01)
    calls = 0

    @in_store
    def answer() -> int:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise requests.ConnectionError("refused")
        return calls

    with pytest.raises(StoreOutageError):
        answer()
    assert calls == 1
    monkeypatch.setattr("pipeline.store.outages.waiting._waits_from_the_start", True)
    assert answer() == 4


def test_a_server_whose_connections_are_all_in_use_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.store.outages.waiting.RETRY_SECONDS", 0.01)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    said = "BAD_REQUEST: QueuePool limit of size 5 overflow 10 reached, connection timed out"
    failures = [MlflowException(said, error_code=BAD_REQUEST)] * 3

    @in_store
    def ask() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert ask() == "answer"


def test_a_thread_that_asks_the_store_leaves_the_others_their_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.store.outages.waiting.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("pipeline.store.outages.waiting._waits_from_the_start", True)
    asked, answered = threading.Event(), threading.Event()
    failures = [requests.ConnectionError("refused")] * 3

    @in_store
    def ask_long() -> None:
        asked.set()
        answered.wait(60)

    @in_store
    def ask() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    with ThreadPoolExecutor(1) as other:
        other.submit(ask_long)
        assert asked.wait(60)
        try:
            assert ask() == "answer"
        finally:
            answered.set()


def test_a_server_that_never_comes_back_costs_nothing_that_was_measured(
    tmp_path: Path, server: Server, tally: Callable[[str, int], None]
) -> None:
    client = tmp_path / "client"
    process = train(client, server, "--epochs", "4", *TRAIN, patience=3)
    run_id = wait_for_epoch(server, 1, process)
    server.stop()
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    kept = client / "state" / "mlflow-ablation" / f"{run_id}.pt"
    assert (
        f"all results of the run are kept in {kept}; once the store answers, deliver them" in line
    )
    assert "Traceback" not in err
    assert kept.exists()
    server.start()
    delivery = line.split("deliver them by: ")[1].split()
    assert delivery[:4] == ["python", "-m", "pipeline", "train"]
    process = train(client, server, *delivery[4:])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "bn-seed0 continues after 4 of 4 epochs" in out
    every_metric_once(server, run_id, 4)
    assert mlflow.MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"
    assert not kept.exists()
    tally("lost servers whose run was delivered later", 1)


@pytest.mark.thorough
def test_a_study_whose_server_never_comes_back_is_delivered_by_the_same_command(
    tmp_path: Path, server: Server
) -> None:
    options = ["--dataset", "synthetic", "--train-images", "1000", "--epochs", "8", "--seeds", "1"]
    options += ["--variants", "base,bn", "--jobs", "2"]
    client = mlflow.MlflowClient(server.uri)
    study = train(tmp_path, server, *options, command="ablate", patience=3)
    deadline = time.monotonic() + 120
    while len(client.search_runs(["0"], "tags.kind = 'train' and metrics.val_loss > 0")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    server.stop()
    err = study.communicate(timeout=300)[1]
    assert study.returncode == 1
    assert "the same command again, which keeps what is done" in err.splitlines()[-1]
    assert "Traceback" not in err
    server.start()
    again = train(tmp_path, server, *options, command="ablate")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert out.count(" continues after ") == 2
    for found in client.search_runs(["0"], "tags.kind = 'train'"):
        assert found.info.status == "FINISHED"
        every_metric_once(server, found.info.run_id, 8)
        files = {entry.path for entry in client.list_artifacts(found.info.run_id)}
        assert "training_state.pt" not in files  # of a finished run of a study


@pytest.mark.thorough
def test_a_run_that_is_killed_while_the_server_is_away_continues_from_its_last_epoch(
    tmp_path: Path, server: Server
) -> None:
    process = train(tmp_path / "client", server, *TRAIN, "--epochs", "60")
    run_id = wait_for_epoch(server, 1, process)
    server.stop()
    kept = tmp_path / "client" / "state" / "mlflow-ablation" / f"{run_id}.pt"
    written: set[int] = set()
    while len(written) < 2:  # the first may be of the epoch that the store has seen
        time.sleep(0.1)
        assert process.poll() is None
        if kept.exists():
            written.add(kept.stat().st_mtime_ns)
    process.kill()
    process.communicate()
    server.start()
    before = len(mlflow.MlflowClient(server.uri).get_metric_history(run_id, "val_loss"))
    process = train(tmp_path / "client", server, "--resume", run_id)
    wait_for_epoch(server, before + 1, process)
    process.terminate()
    out, err = process.communicate()
    assert process.returncode == 143, err
    goes_on = re.search(r"continues after (\d+) of 60 epochs", out)
    assert goes_on
    assert int(goes_on[1]) > before  # the store has not seen those


@pytest.mark.thorough
def test_another_machine_continues_a_run_from_the_server_alone(
    tmp_path: Path, server: Server
) -> None:
    process = train(tmp_path / "one", server, *TRAIN, "--epochs", "4")
    run_id = wait_for_epoch(server, 2, process)
    process.kill()
    process.communicate()
    process = train(tmp_path / "other", server, "--resume", run_id)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "of 4 epochs" in out
    assert "after 0" not in out
    every_metric_once(server, run_id, 4)


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_runs_may_begin_at_once_on_a_store_that_is_not_there_yet(
    tmp_path: Path, count: int, tally: Callable[[str, int], None]
) -> None:
    few = ["train", "--dataset", "synthetic", "--train-images", "200", "--epochs", "2"]
    jobs = [{"arguments": [*few, "--seed", str(seed)], "together": True} for seed in range(count)]
    answers = run_killed(tmp_path, jobs)
    for answer in answers:
        assert answer["status"] == 0, answer["err"]
        assert "locked" not in answer["err"]
        assert "Traceback" not in answer["err"]
    runs = runs_in(tmp_path, "train")
    assert [run.info.status for run in runs] == ["FINISHED"] * count
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for found in runs:
        for name in LEARNED:
            history = client.get_metric_history(found.info.run_id, name)
            assert [metric.step for metric in history] == [1, 2]
    versions = client.search_model_versions()
    assert {version.run_id for version in versions} == {found.info.run_id for found in runs}
    tally(f"{count} runs begun at once on an empty store", 1)


def limited(folder: Path, kilobytes: int, *arguments: str) -> Answer:
    """Run a training that may write no larger files, as on a disk that has no more room."""
    command = f'ulimit -f {kilobytes}; exec python -m pipeline train "$@"'
    return run(folder, "bash", "-c", command, "train", *arguments)


def test_a_disk_without_room_for_the_state_fails_the_run_and_keeps_the_last_one(
    pipeline: Callable[..., Answer], tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    tiny = ["--dataset", "synthetic", "--train-images", "200", "--epochs", "2"]
    assert pipeline("train", *tiny).status == 0
    (state,) = tmp_path.rglob("training_state.pt")
    (first,) = runs_in(tmp_path)
    before = state.read_bytes()
    # A state takes 7 MB, and everything else less than 6.
    answer = limited(tmp_path, 6000, "--resume", first.info.run_id, "--epochs", "3")
    assert answer.status == 1
    (line,) = answer.error_lines
    assert "File too large" in line
    assert "make room" in line
    assert "Traceback" not in answer.err
    (failed,) = runs_in(tmp_path)
    assert failed.info.status == "FAILED"
    assert state.read_bytes() == before
    assert list(state.parent.glob(".*")) == []  # nothing half-written is left
    go_on = line.split("continue by: ")[1].split()
    assert go_on[:3] == ["python", "-m", "pipeline"]
    answer = pipeline(*go_on[3:])
    assert answer.status == 0, answer.err
    assert "continues after 2 of 3 epochs" in answer.out
    tally("full disks survived", 1)


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["weights", "model"])
def test_a_disk_without_room_for_weights_or_model_fails_the_run_in_one_line(
    tmp_path: Path, what: str, tally: Callable[[str, int], None]
) -> None:
    tiny = ["train", *TINY]
    (killed,) = run_killed(tmp_path, [{"arguments": tiny, "at": "figure", "signal": 9}])
    assert killed["status"] == 128 + 9
    (run_,) = runs_in(tmp_path)
    # The weights take 2.40 MB, the model's archive 2.45 MB; the database is smaller.
    weights = {"settings": {}, "state_dict": CNNNetwork().state_dict()}
    torch.save(weights, tmp_path / "weights.pt")
    kilobytes = -(-(tmp_path / "weights.pt").stat().st_size // 1024)
    answer = limited(tmp_path, kilobytes - (what == "weights"), "--resume", run_.info.run_id)
    assert answer.status == 1
    (line,) = answer.error_lines
    assert "make room" in line
    assert "Traceback" not in answer.err
    assert "terminate called" not in answer.err  # torch's own writer ends the process
    assert bool(list((tmp_path / "mlruns").rglob("checkpoint.pt"))) == (what == "model")
    (failed,) = runs_in(tmp_path)
    assert failed.info.status == "FAILED"
    answer = run(tmp_path, *line.split("continue by: ")[1].split())
    assert answer.status == 0, answer.err
    tally("full disks survived", 1)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="mounts a small tmpfs")
def test_a_disk_that_is_full_for_database_and_files_alike(
    tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        tiny = [*TINY, "--epochs", "3"]
        answer = run(small, sys.executable, "-m", "pipeline", "train", *tiny)
        assert answer.status == 1  # two states, or one and the model, are more than there is room
        (line,) = answer.error_lines
        assert "make room on its disk" in line
        assert "Traceback" not in answer.err
        (failed,) = runs_in(small)
        assert failed.info.status in ("FAILED", "RUNNING")  # that, too, may find no room
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        answer = run(small, sys.executable, *line.split("continue by: ")[1].split()[1:])
        assert answer.status == 0, answer.err
        (ended,) = runs_in(small)
        assert ended.info.status == "FINISHED"
        tally("full disks survived", 1)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def revise(folder: Path, version: str) -> None:
    """Have the store in a folder say that another version of MLflow has made it."""
    store = sqlite3.connect(folder / "mlflow.db")
    store.execute("UPDATE alembic_version SET version_num = ?", (version,))
    store.commit()
    store.close()


def test_a_store_of_another_mlflow_says_what_to_do(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    for version, said in (
        ("ffffffffffff", "an MLflow newer than MLflow 3"),
        ("451aebb31d03", "mlflow db upgrade sqlite:///"),  # MLflow 1.0
    ):
        folder = tmp_path / version
        folder.mkdir()
        shutil.copy(tmp_path / "mlflow.db", folder)
        revise(folder, version)
        monkeypatch.chdir(folder)
        answer = pipeline("compare")
        assert answer.status == 1
        (line,) = answer.err.splitlines()
        assert said in line


def test_a_relic_of_the_old_file_store_says_what_to_do(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    relic = tmp_path / "mlruns" / "0"
    relic.mkdir(parents=True)
    (relic / "meta.yaml").write_text("name: Default\n")
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "holds runs as files" in line
    assert "mlflow migrate-filestore" in line
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in line


def test_a_file_that_is_not_a_database_says_so(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_text("rubbish" * 1000)
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "file is not a database" in line


def test_a_database_that_may_only_be_read_says_so(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "readonly" in line
    assert "MLFLOW_TRACKING_URI" in line
    assert len(list(tmp_path.rglob("mlflow.db"))) == 1  # MLflow makes a folder named `file:`


def test_a_store_that_refuses_costs_no_epoch_that_was_measured(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    log_batch = mlflow.MlflowClient.log_batch

    def refused(
        client: mlflow.MlflowClient, run_id: str, metrics: list[Metric], **others: Any
    ) -> None:
        if metrics and metrics[0].step == 2:
            raise MlflowException("Forbidden")
        log_batch(client, run_id, metrics, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", refused)
        answer = pipeline("train", *SMALL, "--epochs", "3")
    assert answer.status == 1
    (line,) = answer.error_lines
    assert "Forbidden" in line
    answer = pipeline(*line.split("continue by: python -m pipeline ")[1].split())
    assert answer.status == 0, answer.err
    # The thread that sends may be refused while the last epoch is trained.
    assert re.search("continues after [23] of 3 epochs", answer.out)
    assert not list((tmp_path / "state").rglob("*.pt"))


def test_a_server_that_is_not_there_is_reported_at_once(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    started = time.monotonic()
    answer = pipeline("train", *SMALL)
    assert time.monotonic() - started < 20
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "does not answer" in line
