"""Measure how a study of many short runs scales with the workers of a cluster.

python -m benchmarks.scale [--workers 64] [--runs 1000] [--seconds 60] [--output FILE]

A run is a task of the engine that trains on clusters. It sends the requests of a real run, with
files of the same size, but sleeps instead of training: what is measured is all the rest. The
requests go to `mlflow server` with PostgreSQL (Debian: postgresql), which shares the cores with all
workers. Efficiency is the time that the runs sleep, divided by that of the workers from the start
of the study to its end.
"""

import argparse
import json
import os
import pickle
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import requests

from benchmarks.figures import Figures, Target, judge, origin, target_lines
from pipeline.config import Config
from pipeline.execution.tasks import NetworkTask, Progress

EPOCHS = 30
SAMPLE_SECONDS = 5  # between MLflow's samples of CPU and memory, as the commands set it
SAMPLE = b'"system/'
CONFIG = Config(dataset="synthetic", train_images=100, epochs=EPOCHS, variant="base")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # before Ray is imported
TARGETS = (Target("efficiency with 64 workers", "at least", 0.9, ("workers", "64", "efficiency")),)
# Whose processor time is counted, by a word of the command.
ROLES = {
    "ray::": "workers",
    "uvicorn": "mlflow server",
    "mlflow": "mlflow server",
    "postgres": "PostgreSQL",
    "raylet": "Ray",
    "gcs_server": "Ray",
}


class Exchange(NamedTuple):
    """A request to the tracking server.

    file_size: bytes of a file that it uploads, whose content does not matter. created: the id of a
    new run or model in its answer.
    """

    method: str
    path: str
    content_type: str
    body: bytes
    file_size: int
    created: str


def main() -> None:
    """Measure; print a table; write the figures."""
    parser = argparse.ArgumentParser(description="Measure how a study scales on a cluster.")
    parser.add_argument("--workers", default="64", help="numbers, divided by commas")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60, help="that a run sleeps")
    parser.add_argument("--output", type=Path, help="a JSON file; by default none")
    options = parser.parse_args()
    figures = measure(options)
    print(table(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> Figures:
    """Record the requests of a run, and send them from so many workers."""
    from benchmarks.reading import mlflow_server, postgres

    workers = {}
    with TemporaryDirectory() as name, postgres() as database:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        with mlflow_server(folder, database) as address:
            os.environ |= {"MLFLOW_TRACKING_URI": address, "PIPELINE_SCALE": str(folder / "run")}
            recorded = _record()
            plain = [tuple(one) for one in recorded]  # workers don't know this module
            (folder / "run").write_bytes(pickle.dumps((options.seconds, plain)))
            for number in options.workers.split(","):
                workers[number] = _study(int(number), options, len(recorded))
    figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.scale {' '.join(sys.argv[1:])}".strip(),
        **origin(),
        "runs": options.runs,
        "seconds": options.seconds,
        "epochs": EPOCHS,
        "megabytes_per_run": sum(one.file_size for one in recorded) / 1e6,
        "workers": workers,
    }
    return figures | {"targets": judge(TARGETS, figures)}


def _record() -> list[Exchange]:
    """Train a real run on a few images; return what it sends to the server."""
    from pipeline.runs.resolve import resolve
    from pipeline.runs.training_run import Beginning, train_run

    sent: list[Exchange] = []
    send = requests.Session.send

    def record(session: Any, request: Any, **settings: Any) -> requests.Response:
        if hasattr(request.body, "read"):
            request.body = request.body.read()
        answer = send(session, request, **settings)
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        created = ""
        if request.path_url.endswith("/runs/create"):
            created = answer.json()["run"]["info"]["run_id"]
        if request.path_url.endswith("/logged-models") and request.method == "POST":
            created = answer.json()["model"]["info"]["model_id"]
        kind = request.headers.get("Content-Type", "")
        is_file = request.method == "PUT" and "/artifacts/" in request.path_url
        size, body = (len(body), b"") if is_file else (0, body)
        sent.append(Exchange(request.method, request.path_url, kind, body, size, created))
        return answer

    requests.Session.send = record  # type: ignore[assignment]
    try:
        train_run(resolve(CONFIG), Beginning(register="none"))
    finally:
        requests.Session.send = send  # type: ignore[method-assign]
    samples = [one for one in sent if SAMPLE in one.body]
    return [one for one in sent if one not in samples[1:]]


def sleeping_run(number: int, _task: NetworkTask, study: Any, events: Any) -> Any:
    """Stand in for `ray_worker.train`: send what a run sends, and sleep before each checkpoint."""
    study.place.enter()
    events.put((number, Progress()))
    seconds, plain = pickle.loads(Path(os.environ["PIPELINE_SCALE"]).read_bytes())
    recorded = [Exchange(*one) for one in plain]
    address, session = os.environ["MLFLOW_TRACKING_URI"], requests.Session()
    ids: dict[str, str] = {}  # by recorded id

    def send(one: Exchange) -> None:
        path, body = one.path, one.body or bytes(one.file_size)
        for before, now in ids.items():
            path = path.replace(before, now)
            body = body.replace(before.encode(), now.encode()) if one.body else body
        headers = {"Content-Type": one.content_type} if one.content_type else {}
        answer = session.request(one.method, address + path, data=body, headers=headers)
        answer.raise_for_status()
        if one.created:
            created = answer.json()
            kind = "run" if "run" in created else "model"
            ids[one.created] = created[kind]["info"][f"{kind}_id"]

    (sample,) = (one for one in recorded if SAMPLE in one.body)
    epochs, slept, sampled = 0, 0.0, 0.0
    for one in recorded:
        if one is sample:
            continue
        if "training_state" in one.path and one.method == "PUT" and epochs < EPOCHS:
            epochs += 1
            time.sleep(seconds / EPOCHS)
            slept += seconds / EPOCHS
            while sampled + SAMPLE_SECONDS <= slept:
                sampled += SAMPLE_SECONDS
                send(sample)
            events.put((number, Progress(epochs, "", seconds / EPOCHS)))
        send(one)
    return SimpleNamespace()  # where the engine expects a result


def _study(workers: int, options: argparse.Namespace, requests_of_run: int) -> Figures:
    """Run the study on a cluster with so many workers."""
    import ray
    from ray.cluster_utils import Cluster

    from pipeline.execution import cluster, ray_worker

    nodes = Cluster()
    # As if each worker had a machine with the memory that a run needs.
    nodes.add_node(num_cpus=workers, memory=workers * 2**31, include_dashboard=False)
    ray_worker.train = sleeping_run  # type: ignore[assignment]
    try:
        cluster.connect(nodes.address, "Default")
        cells = [replace(CONFIG, seed=seed) for seed in range(options.runs)]
        tasks = [NetworkTask(cell, 1) for cell in cells]
        driver, before = psutil.Process(), _processor_seconds()
        started, begun = time.perf_counter(), sum(driver.cpu_times()[:2])
        parent = SimpleNamespace(experiment_id="0", run_id="0" * 32)
        outcomes = [
            event
            for _, event in cluster.train_on_cluster(
                tasks,
                parent,  # type: ignore[arg-type]
                at_once=options.runs,
                resources={"num_cpus": 1},
                settings={},
                guard=nodes.head_node.node_id,
            )
            if not isinstance(event, Progress)
        ]
        wall = time.perf_counter() - started
        failed = [one for one in outcomes if isinstance(one, Exception)]
        assert not failed, failed[0]
        after = _processor_seconds()
        return {
            "efficiency": options.runs * options.seconds / (workers * wall),
            "wall_seconds": wall,
            "requests_per_run": requests_of_run + options.seconds // SAMPLE_SECONDS,
            "requests_per_second": options.runs
            * (requests_of_run + options.seconds // SAMPLE_SECONDS)
            / wall,
            "cores": {role: (after[role] - before[role]) / wall for role in sorted(after)}
            | {"driver": (sum(driver.cpu_times()[:2]) - begun) / wall},
            "driver_megabytes": driver.memory_info().rss / 1e6,
        }
    finally:
        ray.shutdown()
        nodes.shutdown()


def _processor_seconds() -> Counter[str]:
    """The processor time that the processes of each role have taken."""
    seconds = Counter[str]()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join([process.name(), *process.cmdline()])
            role = next((role for word, role in ROLES.items() if word in command), "")
            if role and process.pid != os.getpid():
                seconds[role] += sum(process.cpu_times()[:2])
    return seconds


def table(figures: Figures) -> str:
    """Format the figures."""
    lines = [
        f"{figures['machine']}; {figures['runs']} runs of {figures['seconds']:g} s",
        "",
        f"{'workers':>8} {'efficiency':>11} {'requests/s':>11} {'driver':>9}   cores taken by",
    ]
    for number, one in figures["workers"].items():
        cores = ", ".join(f"{role} {count:.2f}" for role, count in one["cores"].items())
        lines.append(
            f"{number:>8} {one['efficiency']:>11.1%} {one['requests_per_second']:>11.0f}"
            f" {one['driver_megabytes']:>6.0f} MB   {cores}"
        )
    return "\n".join([*lines, "", *target_lines(figures["targets"])])


if __name__ == "__main__":
    main()
