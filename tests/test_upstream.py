"""What `pipeline/upstream.py` works around is still so. A test that fails here says what can go."""

import sqlite3
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from conftest import forget_stores, run_forked
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.tracking.fluent import run_id_to_system_metrics_monitor

from pipeline import upstream

GO = "this is fixed upstream: remove from pipeline/upstream.py "


def test_mlflow_does_not_say_whether_it_has_made_up_a_name() -> None:
    with mlflow.start_run() as generated:
        pass
    with mlflow.start_run(run_name="my-model-1") as chosen:
        pass
    assert upstream.is_generated_name(generated.info.run_name)
    assert not upstream.is_generated_name("my-model-1")
    tags = [set(mlflow.get_run(r.info.run_id).data.tags) for r in (generated, chosen)]
    assert tags[0] == tags[1], GO + "is_generated_name"


def test_mlflow_lists_a_file_before_it_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def list_artifacts(_: object, path: str) -> list[object]:
        asked.append(f"list {path}")
        return []

    def download(_: object, remote_file_path: str, local_path: str) -> None:
        asked.append(f"fetch {remote_file_path}")
        Path(local_path).write_text("content")

    monkeypatch.setattr(HttpArtifactRepository, "list_artifacts", list_artifacts)
    monkeypatch.setattr(HttpArtifactRepository, "_download_file", download)
    assert upstream.download_file("http://127.0.0.1/run", "file") == b"content"
    assert asked == ["fetch file"]
    mlflow.artifacts.download_artifacts("http://127.0.0.1/run/file", dst_path=str(tmp_path))
    assert asked[1:] == ["list file", "fetch file"], GO + "download_file"


def test_mlflow_calls_no_status_by_name_terminated() -> None:
    # So `mlflow run` sets FAILED over a child's KILLED.
    assert not RunStatus.is_terminated("KILLED"), GO + "keep_status"  # type: ignore[arg-type]


DIE_AT_THE_TWENTIETH_TABLE = """
import os
from itertools import count
from sqlalchemy import event
from sqlalchemy.engine import Engine
import mlflow
tables = count(1)
@event.listens_for(Engine, "after_cursor_execute")
def executed(_connection, _cursor, statement, *_):
    if statement.strip().startswith("CREATE TABLE") and next(tables) == 20:
        os._exit(9)
mlflow.search_experiments()
"""


def test_mlflow_leaves_half_a_database_when_it_is_killed_creating_one(tmp_path: Path) -> None:
    assert run_forked(tmp_path, "python", "-c", DIE_AT_THE_TWENTIETH_TABLE).status == 9
    with pytest.raises(Exception, match="already exists"):
        mlflow.search_experiments()
    # A database made elsewhere by the public way can't be renamed on Windows: the file stays open.
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    mlflow.search_experiments()
    opened = {file.path for file in psutil.Process().open_files()}
    assert str(tmp_path / "other.db") in opened, GO + "create_tables"


def test_mlflow_refuses_older_and_newer_tables_in_the_same_words() -> None:
    mlflow.search_experiments()
    messages = []
    for revision in ("451aebb31d03", "ffffffffffff"):  # its first, and one of the future
        with sqlite3.connect("mlflow.db") as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        database.close()
        forget_stores()
        with pytest.raises(MlflowException) as refused:
            mlflow.search_experiments()
        messages.append(str(refused.value).replace(revision, ""))
    assert upstream.is_known_schema("451aebb31d03")
    assert not upstream.is_known_schema("ffffffffffff")
    assert messages[0] == messages[1], GO + "is_known_schema"


def test_mlflow_stops_sampling_at_the_first_request_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise MlflowException("away")

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with mlflow.start_run(log_system_metrics=True) as active:
        monitor = run_id_to_system_metrics_monitor[active.info.run_id]
        with monkeypatch.context() as patch:
            patch.setattr(monitor, "publish_metrics", refused)
            monitor._process.join(timeout=10)
        assert not monitor._process.is_alive(), GO + "SystemSamples"


def test_samples_have_the_names_and_steps_that_mlflow_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    client = mlflow.MlflowClient()
    with mlflow.start_run(log_system_metrics=True) as active:
        deadline = time.monotonic() + 30
        while not client.get_run(active.info.run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    logged = client.get_run(active.info.run_id)
    samples = upstream.SystemSamples(logged)
    assert samples.mean() == []
    samples.take()
    first = samples.mean()
    samples.take()
    samples.take()
    second = samples.mean()
    assert {metric.key for metric in first} == logged.data.metrics.keys()
    last = max(metric.step for metric in logged.data.to_proto().metrics)
    assert [{one.step for one in taken} for taken in (first, second)] == [{last + 1}, {last + 2}]
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "2")
    samples = upstream.SystemSamples(logged)
    samples.take()
    assert (samples.are_enough, samples.mean()) == (False, [])  # nothing is due
    samples.take()
    assert (samples.are_enough, len(samples.mean())) == (True, len(first))


LIMITED = """
import resource, signal, torch
program = torch.export.export(torch.nn.Linear(300, 300), (torch.ones(2, 300),))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    torch.export.save(program, "model.pt2")
except Exception as error:
    print("raised", error)
"""


def test_torch_does_not_say_that_a_disk_is_full(tmp_path: Path) -> None:
    answer = run_forked(tmp_path, "python", "-c", LIMITED)
    assert answer.status or "raised" in answer.out
    assert "File too large" not in answer.out, GO + "storing"


def test_the_documented_way_to_a_models_version_fetches_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("net")
    client.create_model_version("net", str(tmp_path / "no files"))
    client.set_registered_model_alias("net", "best", "1")
    assert upstream.name_and_version("models:/net@best") == ["net", "1"]
    with pytest.raises((MlflowException, OSError)):
        print(mlflow.models.get_model_info("models:/net@best"), GO + "name_and_version")


def test_mlflow_tries_for_long_to_reach_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    address, waits = "postgresql://127.0.0.1:9/runs", list[float]()
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(Exception, match="refused"):
        upstream.connect_once(address)
    assert not waits
    with pytest.raises(Exception, match="refused"):
        mlflow.MlflowClient(address).search_experiments()
    assert sum(waits) > 60, GO + "connect_once"


def test_undocumented_functions_still_do_what_they_did() -> None:
    assert upstream.is_database("postgresql+psycopg://host/runs")
    assert not upstream.is_database("http://host:5000")
    assert upstream.local_path("file:///my%20runs/1") == Path("/my runs/1")
    assert upstream.local_path("/my runs/1") == Path("/my runs/1")
    assert upstream.local_path("s3://runs/1") is None
    assert upstream.local_path("mlflow-artifacts:/1") is None
    assert upstream.shell_quote("it's") == """'it'"'"'s'"""
