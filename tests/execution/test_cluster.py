"""A study on a Ray cluster: the same results, whatever becomes of workers, nodes and driver."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import mlflow
import psutil
import pytest
from conftest import (
    REAL_DATA,
    environment,
    free_port,
    needs_real_data,
    run_forked,
    runs_in,
)
from mlflow.entities import Run
from servers import Server, needs_postgres, postgres
from trained import spec_of

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.store.liveness import PROCESS

cluster_utils = pytest.importorskip(
    "ray.cluster_utils", reason="Ray is not installed: pip install -r requirements-ray.txt"
)

TINY = ["--dataset", "synthetic", "--train-images", "600", "--batch-size", "64"]
STUDY = ["ablate", *TINY, "--epochs", "8", "--register", "none", "--variants", "base,bn"]
STUDY += ["--seeds", "1"]
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
    settings = {
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",
        "PIPELINE_DATA_DIR": str(REAL_DATA),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments, "--cluster", cluster.address],
        cwd=folder,
        env=environment(folder) | settings,
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


def every_epoch_once(server: Server, experiment: str) -> bool:
    """Whether each run has each metric of 8 epochs, once."""
    runs = runs_of(server, experiment)
    return all(len(curve) == 8 for run in runs for curve in curves(server.uri, run).values())


def process_of(run: Run) -> psutil.Process:
    return psutil.Process(int(run.data.tags[PROCESS].split()[0]))


@needs_postgres
def test_a_killed_worker_costs_no_run_and_the_bits_are_those_of_a_run_alone(
    tmp_path: Path, server: Server, cluster: Any
) -> None:
    study = start(tmp_path, server, cluster, *STUDY, experiment="worker")
    victim = training(study, server, "worker", 2)[0]
    process_of(victim).kill()
    out, err = study.communicate(timeout=400)
    assert study.returncode == 0, err
    name = victim.info.run_name
    assert f"{name} continues after " in out
    assert "Traceback" not in err
    assert "raylet" not in out + err
    assert len([line for line in out.splitlines() if line.startswith("[")]) == 2
    runs = runs_of(server, "worker")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    (again,) = (run for run in runs if run.info.run_id == victim.info.run_id)
    assert every_epoch_once(server, "worker")
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
@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param(signal.SIGTERM, marks=pytest.mark.thorough),
    ],
    ids=lambda how: how.name,
)
def test_when_the_study_ends_so_does_every_run(
    how: signal.Signals, tmp_path: Path, server: Server, cluster: Any
) -> None:
    study = start(tmp_path, server, cluster, *STUDY, experiment=how.name)
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
    if how == signal.SIGKILL:
        return  # the default suite has no time for what the other signals show
    remedy = "the same command again, which keeps what is done"
    assert err.splitlines() == [f"error: stopped by {how.name}; continue by: {remedy}"]
    study = start(tmp_path, server, cluster, *STUDY, experiment=how.name)
    out, err = study.communicate(timeout=400)
    assert study.returncode == 0, err
    for name in ("base-seed0", "bn-seed0"):
        assert f"{name} continues after " in out
    assert statuses(server, how.name) == ["FINISHED"] * 2


STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(90)
"""


@needs_postgres
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_when_a_study_of_programs_ends_so_does_every_program(
    how: signal.Signals, tmp_path: Path, server: Server, cluster: Any
) -> None:
    (tmp_path / "train.py").write_text(STUBBORN)
    (tmp_path / "programs.py").write_text(
        "from pipeline import Ablation, Outcome\n"
        "ablation = Ablation("
        "program='python train.py {seed}', variants={'a': {}}, outcome=Outcome('x'))\n"
    )
    experiment, seeds = f"programs {how.name}", [tmp_path / "0", tmp_path / "1"]
    command = ["ablate", "--ablation", "programs.py", "--seeds", "2"]
    study = start(tmp_path, server, cluster, *command, experiment=experiment)
    _until(lambda: all(one.exists() and one.read_text() for one in seeds), 120)
    programs = [psutil.Process(int(one.read_text())) for one in seeds]
    time.sleep(3)  # the study then waits for news, which no program has
    study.send_signal(how)
    try:
        _, err = study.communicate(timeout=40)
        _until(lambda: not any(one.is_running() for one in programs), 20)
        _until(lambda: "RUNNING" not in statuses(server, experiment, "program"), 20)
    finally:
        study.kill()
        for one in programs:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    assert statuses(server, experiment, "program") == ["KILLED"] * 2
    if how == signal.SIGINT:
        remedy = "the same command again, which keeps what is done"
        assert err.splitlines() == [f"error: stopped by SIGINT; continue by: {remedy}"]


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has taken too long"
        time.sleep(0.2)


@needs_postgres
@pytest.mark.thorough
def test_a_node_that_dies_costs_no_run(tmp_path: Path, server: Server, cluster: Any) -> None:
    third = cluster.add_node(num_cpus=1, node_name="third")
    options = [*STUDY[:-1], "2"]
    study = start(tmp_path, server, cluster, *options, experiment="node")
    training(study, server, "node", 3)
    cluster.remove_node(third, allow_graceful=False)
    out, err = study.communicate(timeout=500)
    assert study.returncode == 0, err
    assert " continues after " in out
    assert "on 3 nodes" in out
    assert statuses(server, "node") == ["FINISHED"] * 4
    assert every_epoch_once(server, "node")


@needs_postgres
@pytest.mark.thorough
def test_a_study_survives_a_server_that_restarts(
    tmp_path: Path, server: Server, cluster: Any
) -> None:
    study = start(tmp_path, server, cluster, *STUDY, experiment="outage")
    training(study, server, "outage", 2)
    server.stop()
    time.sleep(15)
    server.start()
    out, err = study.communicate(timeout=500)
    assert study.returncode == 0, err
    assert "does not answer; training continues, and its metrics wait" in out
    assert statuses(server, "outage") == ["FINISHED"] * 2
    assert every_epoch_once(server, "outage")


def test_what_a_cluster_can_not_do_is_said_before_anything_runs(
    tmp_path: Path, cluster: Any
) -> None:
    def refusal(*arguments: str) -> str:
        """What a study says that can't begin, with nothing in the store."""
        said = run_forked(tmp_path, "pipeline", "ablate", *TINY, *arguments)
        assert said.status == 2, said.err
        assert not (tmp_path / "mlflow.db").exists() or not runs_in(tmp_path)
        assert "Traceback" not in said.err
        return said.err.splitlines()[-1]

    nowhere = f"127.0.0.1:{free_port()}"
    assert f"no Ray cluster answers at {nowhere}" in refusal("--cluster", nowhere)
    files = refusal("--cluster", cluster.address)
    assert "nodes can't reach sqlite:///mlflow.db; start `mlflow server --host" in files


@needs_postgres
@needs_real_data
@pytest.mark.thorough
def test_a_node_that_lacks_the_data_is_named(tmp_path: Path, server: Server, cluster: Any) -> None:
    (tmp_path / "empty").mkdir()
    elsewhere = dict.fromkeys(("PIPELINE_DATA_DIR", "XDG_CACHE_HOME"), str(tmp_path / "empty"))
    elsewhere["PIPELINE_DATA_SOURCE"] = "file:///no"
    lacking = cluster.add_node(num_cpus=1, node_name="lacking", env_vars=elsewhere)
    try:
        options = ["ablate", "--dataset", "cifar100"]
        study = start(tmp_path, server, cluster, *options, experiment="lacking")
        _, err = study.communicate(timeout=300)
    finally:
        cluster.remove_node(lacking)
    assert study.returncode == 2, err
    assert "1 of 3 nodes can't train the same as this machine: " in err
    assert " lacking: " in err
    assert not runs_of(server, "lacking", "study")


@needs_postgres
@pytest.mark.thorough
def test_a_run_whose_workers_all_die_has_failed_and_the_others_go_on(
    tmp_path: Path, server: Server, cluster: Any
) -> None:
    options = [*STUDY, "--epochs", "40"]
    study = start(tmp_path, server, cluster, *options, experiment="tries")
    killed = set[int]()
    while study.poll() is None and len(killed) < 4:
        for run in runs_of(server, "tries"):
            process = int(run.data.tags[PROCESS].split()[0])
            if run.data.tags["variant"] == "base" and process not in killed:
                killed.add(process)
                psutil.Process(process).kill()
        time.sleep(0.5)
    out, err = study.communicate(timeout=500)
    assert study.returncode == 1, err
    assert "base-seed0: failed: its worker or node died" in out
    assert "in each of 4 tries" in out
    states = {run.data.tags["variant"]: run.info.status for run in runs_of(server, "tries")}
    assert states == {"base": "KILLED", "bn": "FINISHED"}


def test_workers_get_the_store_and_its_credentials_but_not_the_run_of_mlflow_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.execution.ray_worker import this_place

    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "UNRELATED"):
        monkeypatch.setenv(name, "secret")
    mlflow.set_tracking_uri("http://10.0.0.1:5000")
    folder, variables = this_place()
    assert folder == str(tmp_path)
    assert variables["MLFLOW_TRACKING_URI"] == "http://10.0.0.1:5000"
    assert variables["MLFLOW_TRACKING_PASSWORD"] == variables["PGPASSWORD"] == "secret"
    assert not {"MLFLOW_RUN_ID", "UNRELATED", "OMP_NUM_THREADS"} & variables.keys()


def test_what_differs_on_a_node_is_named() -> None:
    from pipeline.runs.identity import differences

    expected = {"Python": "3.11", "torch": "2.14.1", "code": "0123456789abcdef" * 4}
    assert not differences(expected, expected)
    other = {**expected, "torch": "2.13.0", "code": "fedcba9876543210" * 4}
    assert differences(other, expected) == (
        "torch 2.13.0 instead of 2.14.1, code fedcba9876543210 instead of 0123456789abcdef"
    )


def test_of_many_nodes_that_would_train_something_else_a_few_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.execution import nodes

    ray, answer = MagicMock(), Future[dict[str, str]]()
    answer.set_result({"problem": "no data"})
    ray.remote().options().remote().future.return_value = answer
    monkeypatch.setattr(nodes, "ray", ray)
    seven = [nodes.Node("0" * 56, f"n{number}", 1, 0, 1) for number in range(7)]
    run = spec_of(Config(variant="base", dataset="synthetic"))
    with pytest.raises(InputError, match=r"^7 of 7 nodes can't .*: n0: no data; n1: ") as refused:
        nodes.examine(seven, run, "cpu")
    assert "n4: no data and 2 more (docs/clusters.md says" in str(refused.value)
