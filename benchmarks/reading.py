"""Measure how long a report takes to read many finished runs, and by how many requests.

python -m benchmarks.reading [--runs 1000] [--epochs 30] [--rounds 3] [--output FILE]

One run is trained on a few images of the built-in data, and copied: its parameters, tags, outputs,
metrics, and the files that are read. The runs are in SQLite, and then on `mlflow server` with
PostgreSQL (Debian: postgresql), which shares the cores with its client. A request is one that is
sent to the server; in SQLite, it is a transaction. Figures are medians over the rounds, with
minimum and maximum. Each round searches for the runs, and then reads them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import mlflow
import requests
from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tqdm import tqdm

from benchmarks.figures import Figures, Target, judge, origin, show, spread, target_lines
from benchmarks.inference import free_port, server
from pipeline.config import Config
from pipeline.runs.queries import check_ours, find_runs
from pipeline.runs.resolve import resolve
from pipeline.runs.results import read_results
from pipeline.runs.training_run import Beginning, train_run

SQLITE, SERVER = "SQLite", "mlflow server on PostgreSQL"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
TARGETS = tuple(
    Target(f"requests a run, {store}", "at most", 2, ("stores", store, "requests_per_run"))
    for store in (SQLITE, SERVER)
)


def main() -> None:
    """Measure; print a table; write the figures."""
    parser = argparse.ArgumentParser(description="Measure reading finished runs.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=30, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file; by default none")
    options = parser.parse_args()
    figures = measure(options)
    print(table(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> Figures:
    """Make the runs in each store, and read them."""
    stores = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        stores[SQLITE] = _measure_store(f"sqlite:///{folder}/mlflow.db", folder, options)
        if POSTGRES:
            with postgres() as database, mlflow_server(folder, database) as address:
                stores[SERVER] = _measure_store(address, folder, options)
    figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.reading {' '.join(sys.argv[1:])}".strip(),
        **origin(),
        **{name: getattr(options, name) for name in ("runs", "epochs", "rounds")},
        "stores": stores,
    }
    return figures | {"targets": judge(TARGETS, figures)}


def _measure_store(address: str, folder: Path, options: argparse.Namespace) -> Figures:
    mlflow.set_tracking_uri(address)
    artifacts = None if address.startswith("http") else str(folder / "artifacts")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("reading", artifacts))
    trained = _train(options.epochs)
    _copy(trained, options.runs - 1)
    searching, reading, sent = [], [], []
    read_results(check_ours(trained))  # MLflow asks once what the server can do
    for _ in range(options.rounds):
        started = time.perf_counter()
        runs = find_runs(trained.info.experiment_id, {}).records
        searching.append(time.perf_counter() - started)
        with _counted_requests() as count:
            started = time.perf_counter()
            results = [read_results(run) for run in runs]
            reading.append(time.perf_counter() - started)
        sent.append(len(count) / options.runs)
        assert len(results) == options.runs
        assert all(result.model_uri and result.correct is not None for result in results)
        assert {len(result.history) for result in results} == {options.epochs}
    return {
        "search_seconds": spread(searching),
        "reading_seconds": spread(reading),
        "milliseconds_per_run": spread([1000 * seconds / options.runs for seconds in reading]),
        "requests_per_run": spread(sent),
    }


def _train(epochs: int) -> Run:
    """Train a run of so many epochs, each on a few images."""
    few: dict[str, Any] = {"dataset": "synthetic", "train_images": 100, "epochs": epochs}
    config = Config(variant="base", **few)
    return mlflow.get_run(train_run(resolve(config), Beginning(register="none")).run_id)


def _copy(trained: Run, count: int) -> None:
    """Copy a run so many times, as far as `read_results` can see."""
    client, experiment = mlflow.MlflowClient(), trained.info.experiment_id
    tags = [RunTag(name, value) for name, value in trained.data.tags.items()]
    params = [Param(name, value) for name, value in trained.data.params.items()]
    metrics: list[Metric] = []
    for name in trained.data.metrics:
        metrics += client.get_metric_history(trained.info.run_id, name)
    files = Path(client.download_artifacts(trained.info.run_id, "", mkdtemp()))
    read = list(files.glob("*.np[yz]"))
    for _ in tqdm(range(count), "copying"):
        run_id = client.create_run(experiment).info.run_id
        client.log_batch(run_id, metrics, params, tags)
        for file in read:
            client.log_artifact(run_id, str(file))
        model = client.create_logged_model(experiment, source_run_id=run_id)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=len(metrics))])
        client.set_terminated(run_id)
    shutil.rmtree(files)


@contextmanager
def _counted_requests() -> Iterator[list[object]]:
    """Count what this process sends to a server, and the transactions it begins in a database."""
    sent: list[object] = []
    note, send = sent.append, requests.Session.send

    def count(session: requests.Session, request: Any, **settings: Any) -> requests.Response:
        note(request)
        return send(session, request, **settings)

    requests.Session.send = count  # type: ignore[assignment]
    event.listen(Engine, "begin", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "begin", note)
        requests.Session.send = send  # type: ignore[method-assign]


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL on loopback; the URI of its database."""
    data, port = Path(mkdtemp()), free_port()
    user: list[str] = []
    if os.getuid() == 0:  # as root it refuses to run
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(data, "postgres")

    def control(program: str, *arguments: str) -> None:
        command = [*user, str(POSTGRES[-1] / program), "-D", str(data), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    control("initdb", "-U", "runs", "-A", "trust", "-E", "UTF8")
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
    control("pg_ctl", "-w", "-o", options, "-l", str(data / "log"), "start")
    try:
        yield f"postgresql://runs@127.0.0.1:{port}/postgres"
    finally:
        control("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(data)


@contextmanager
def mlflow_server(folder: Path, database: str, workers: int = 1) -> Iterator[str]:
    """Run `mlflow server`, which also serves the artifacts; its address."""
    port = free_port()
    # With two workers a request takes 64 ms instead of 11 on two cores, whatever is read.
    connections = "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=80"  # as docs/clusters.md says
    command = ["env", connections, sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    command += ["--workers", str(workers)]
    options = ["--backend-store-uri", database, "--artifacts-destination", str(folder / "served")]
    with server(folder, [*command, *options], port, "/health"):
        yield f"http://127.0.0.1:{port}"


def table(figures: Figures) -> str:
    """Format the figures."""
    runs = f"{figures['runs']:,} runs of {figures['epochs']} epochs"
    lines = [f"{figures['machine']}; mlflow {figures['versions']['mlflow']}; medians (min to max)"]
    lines += ["", f"{runs:34} {'s to read all':>24} {'ms a run':>22} {'requests a run':>15}"]
    for name, one in figures["stores"].items():
        seconds = show(one["reading_seconds"], ",.1f")
        each = show(one["milliseconds_per_run"], ".1f")
        sent = show(one["requests_per_run"], ".2f")
        lines.append(f"{name:34} {seconds:>24} {each:>22} {sent:>15}")
    return "\n".join([*lines, "", *target_lines(figures["targets"])])


if __name__ == "__main__":
    main()
