"""A study on a Ray cluster: the same results, whatever becomes of workers, nodes and driver."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from conftest import environment, runs_in
from mlflow.entities import Run
from servers import Server, needs_postgres, postgres

from pipeline.store.liveness import PROCESS

cluster_utils = pytest.importorskip(
    "ray.cluster_utils", reason="Ray is not installed: pip install -r requirements-ray.txt"
)

TINY = ["--dataset", "synthetic", "--train-images", "600", "--batch-size", "64"]
STUDY = ["ablate", *TINY, "--epochs", "8", "--register", "none", "--variants", "base,bn"]
LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes, with a CPU each."""
    running = cluster_utils.Cluster(shutdown_at_exit=True)
    for _ in range(2):
        running.add_node(num_cpus=1, include_dashboard=False)
    yield running
    running.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tracking server that keeps its runs in PostgreSQL, and serves the artifacts."""
    folder = tmp_path_factory.mktemp("server")
    with postgres() as uri:
        running = Server(folder, uri)
        running.start()
        yield running
        running.stop()


def start(
    folder: Path, server: Server, cluster: Any, *arguments: str, experiment: str
) -> subprocess.Popen[str]:
    """Start a study on the cluster; its runs go to an experiment of their own."""
    folder.mkdir(exist_ok=True)
    settings = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": experiment}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments, "--cluster", cluster.address],
        cwd=folder,
        env=environment(folder) | settings | {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def runs_of(server: Server, experiment: str, kind: str = "train") -> list[Run]:
    client = mlflow.MlflowClient(server.uri)
    known = client.get_experiment_by_name(experiment)
    chosen = f"tags.kind = '{kind}'"
    return list(client.search_runs([known.experiment_id], chosen)) if known else []


def training(
    study: subprocess.Popen[str], server: Server, experiment: str, count: int
) -> list[Run]:
    """Wait until so many runs have finished an epoch; return them."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and study.poll() is None:
        running = [r for r in runs_of(server, experiment) if r.info.status == "RUNNING"]
        if sum("val_loss" in run.data.metrics for run in running) == count:
            return running
        time.sleep(0.5)
    study.kill()
    raise AssertionError(study.communicate())


def statuses(server: Server, experiment: str, kind: str = "train") -> list[str]:
    return [run.info.status for run in runs_of(server, experiment, kind)]


def curves(uri: str, run: Run) -> dict[str, list[float]]:
    client = mlflow.MlflowClient(uri)
    return {
        name: [m.value for m in client.get_metric_history(run.info.run_id, name)]
        for name in LEARNED
    }


def process_of(run: Run) -> psutil.Process:
    return psutil.Process(int(run.data.tags[PROCESS].split()[0]))


@needs_postgres
def test_a_killed_worker_costs_no_run_and_the_bits_are_those_of_a_run_alone(
    tmp_path: Path, server: Server, cluster: Any
) -> None:
    study = start(tmp_path, server, cluster, *STUDY, "--seeds", "2", experiment="worker")
    victim = training(study, server, "worker", 2)[0]
    process_of(victim).kill()
    out, err = study.communicate(timeout=400)
    assert study.returncode == 0, err
    name = victim.info.run_name
    assert f"{name} continues after " in out
    assert "Traceback" not in err
    assert "raylet" not in out + err
    assert len([line for line in out.splitlines() if line.startswith("[")]) == 4
    runs = runs_of(server, "worker")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    (again,) = (run for run in runs if run.info.run_id == victim.info.run_id)
    assert all(len(curve) == 8 for curve in curves(server.uri, again).values())
    alone = tmp_path / "alone"
    alone.mkdir()
    variant, _, seed = name.partition("-seed")
    settings = ["--epochs", "8", "--variant", variant, "--seed", seed]
    subprocess.run(
        [sys.executable, "-m", "pipeline", "train", *TINY, *settings],
        cwd=alone,
        env=environment(alone) | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    (same,) = runs_in(alone)
    assert curves(server.uri, again) == curves(f"sqlite:///{alone}/mlflow.db", same)


@needs_postgres
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_when_the_study_ends_so_does_every_run(
    how: signal.Signals, tmp_path: Path, server: Server, cluster: Any
) -> None:
    options = [*STUDY, "--seeds", "1"]
    study = start(tmp_path, server, cluster, *options, experiment=how.name)
    training(study, server, how.name, 2)
    os.killpg(study.pid, how)
    out, err = study.communicate(timeout=60)
    assert study.returncode == (-9 if how == signal.SIGKILL else 128 + how), err
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "RUNNING" in [
        *statuses(server, how.name),
        *statuses(server, how.name, "study"),
    ]:
        time.sleep(0.5)
    assert statuses(server, how.name) == ["KILLED"] * 2
    assert statuses(server, how.name, "study") == ["KILLED"]
    if how != signal.SIGKILL:
        remedy = "the same command again, which keeps what is done"
        assert err.splitlines() == [f"error: stopped by {how.name}; continue by: {remedy}"]
    study = start(tmp_path, server, cluster, *options, experiment=how.name)
    out, err = study.communicate(timeout=400)
    assert study.returncode == 0, err
    for name in ("base-seed0", "bn-seed0"):
        assert f"{name} continues after " in out
    assert statuses(server, how.name) == ["FINISHED"] * 2
