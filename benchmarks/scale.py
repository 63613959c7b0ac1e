"""Measure how a study of many short runs scales with the workers of a cluster.

python -m benchmarks.scale [--workers 64] [--runs 192] [--seconds 60] [--rounds 1]
    [--before CHECKOUT] [--server-workers 1] [--output FILE]

A run is a task of the engine that trains on clusters. It sends the requests of a real run of 30
epochs at their times, with files of the same size, but sleeps instead of training: what is measured
is all the rest. The requests go to `mlflow server` with PostgreSQL (Debian: postgresql), which
shares the cores with all workers. Efficiency is the time that the runs sleep, divided by that of
the workers from the start of the study to its end.

With --before, the checkout of an older commit is measured in turn with this one. What it sends is
its own; the engine that starts the tasks is this commit's for both.
"""

import argparse
import json
import os
import pickle
import random
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
import requests

from benchmarks import recorded_run
from benchmarks.figures import ROOT, Figures, Target, judge, origin, show, spread, target_lines
from benchmarks.recorded_run import Exchange
from pipeline.config import Config
from pipeline.execution.tasks import NetworkTask, Progress
from pipeline.store.variables import VARIABLES

EPOCHS = 30
CONFIG = Config(dataset="synthetic", train_images=100, epochs=EPOCHS, variant="base")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # before Ray is imported
TARGETS = (
    Target("efficiency with 64 workers", "at least", 0.9, ("now", "64", "efficiency")),
    Target("requests of a run", "at most", 35, ("now", "requests")),
    Target("megabytes that it uploads", "at most", 20, ("now", "megabytes")),
    Target("server: processor seconds of a run", "at most", 0.5, ("now", "64", "server_seconds")),
)
# Whose processor time is counted, by a word of the command.
ROLES = {
    "ray::": "workers",
    "uvicorn": "mlflow server",
    "mlflow": "mlflow server",
    "postgres": "PostgreSQL",
    "raylet": "Ray",
    "gcs_server": "Ray",
}


def main() -> None:
    """Measure; print a table; write the figures."""
    parser = argparse.ArgumentParser(description="Measure how a study scales on a cluster.")
    parser.add_argument("--workers", default="64", help="numbers, divided by commas")
    parser.add_argument("--runs", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=60, help="that a run sleeps")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of an older commit")
    parser.add_argument("--server-workers", type=int, default=1, help="of `mlflow server`")
    parser.add_argument("--output", type=Path, help="a JSON file; by default none")
    options = parser.parse_args()
    figures = measure(options)
    print(table(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> Figures:
    """Record what a run sends, and send it from so many workers, one build after the other."""
    checkouts = {"before": options.before, "now": ROOT}
    recorded = {
        name: _record(folder, options.seconds) for name, folder in checkouts.items() if folder
    }
    rounds: dict[str, dict[str, list[Figures]]] = {name: {} for name in recorded}
    for _ in range(options.rounds):
        for name, exchanges in recorded.items():
            for number in options.workers.split(","):
                found = _round(exchanges, int(number), options)
                print(name, number, json.dumps(found), flush=True)
                rounds[name].setdefault(number, []).append(found)
    figures: Figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.scale {shlex.join(sys.argv[1:])}".strip(),
        **origin(),
        **{name: getattr(options, name) for name in ("runs", "seconds", "rounds")},
        "server_workers": options.server_workers,
        "epochs": EPOCHS,
    }
    for name, exchanges in recorded.items():
        sent = {
            "requests": len(exchanges),
            "megabytes": sum(one.file_size + len(one.body) for one in exchanges) / 1e6,
        }
        figures[name] = sent | {
            number: {key: spread([one[key] for one in found]) for key in found[0]}
            for number, found in rounds[name].items()
        }
    return figures | {"targets": judge(TARGETS, figures)}


def _record(checkout: Path, seconds: float) -> list[Exchange]:
    """What a real run of a checkout sends, of epochs that together take so long."""
    from benchmarks.reading import mlflow_server, postgres

    with TemporaryDirectory() as name, postgres() as database:
        file = Path(name) / "run"
        with mlflow_server(Path(name), database) as address:
            own = {"XDG_STATE_HOME": name, "MLFLOW_TRACKING_URI": address, "TQDM_DISABLE": "1"}
            environment = {**os.environ, **VARIABLES, **own, "PYTHONPATH": str(checkout.resolve())}
            command = [sys.executable, "-P", recorded_run.__file__, str(EPOCHS), str(seconds)]
            subprocess.run([*command, str(file)], env=environment, cwd=name, check=True)
        return [Exchange(*one) for one in pickle.loads(file.read_bytes())]


def sleeping_run(number: int, _task: NetworkTask, study: Any, events: Any) -> Any:
    """Stand in for `ray_worker.train`: sleep for each epoch, and send what a run sends.

    What it sent from a thread while it was trained is sent from one.
    """
    study.place.enter()
    events.put((number, Progress()))
    seconds, plain = pickle.loads(Path(os.environ["PIPELINE_SCALE"]).read_bytes())
    recorded = [SimpleNamespace(**one) for one in plain]  # workers don't know these modules
    address, ids = os.environ["MLFLOW_TRACKING_URI"], dict[str, str]()  # by recorded id

    def send(session: requests.Session, one: Any) -> None:
        path, body = one.path, one.body or bytes(one.file_size)
        for before, now in ids.items():
            path = path.replace(before, now)
            body = body.replace(before.encode(), now.encode()) if one.body else body
        headers = {"Content-Type": one.content_type} if one.content_type else {}
        for tries in range(20):
            answer = session.request(one.method, address + path, data=body, headers=headers)
            if answer.ok:
                break
            # An overloaded server; a run waits, too, and tries again.
            text = answer.text
            passes = "QueuePool limit" in text or "violates unique constraint" in text
            assert answer.status_code >= 500 or passes, text
            time.sleep(min(2 ** (tries + 2), 60) * random.uniform(0.5, 1.5))
        if one.created:
            created = answer.json()
            kind = "run" if "run" in created else "model"
            ids[one.created] = created[kind]["info"][f"{kind}_id"]

    def send_behind() -> None:
        session, started = requests.Session(), time.monotonic()
        for one in recorded:
            if one.is_behind:
                time.sleep(max(0.0, started + one.at - time.monotonic()))
                send(session, one)

    thread, session = threading.Thread(target=send_behind), requests.Session()
    waited_for = [one for one in recorded if not one.is_behind]
    for epoch in range(EPOCHS + 1):
        for one in waited_for:
            if one.epochs == epoch:
                send(session, one)
        if epoch == 0:
            thread.start()
        if epoch < EPOCHS:
            time.sleep(seconds / EPOCHS)
            events.put((number, Progress(epoch + 1, "", seconds / EPOCHS)))
        else:
            thread.join()
    return SimpleNamespace()  # where the engine expects a result


def _round(recorded: list[Exchange], workers: int, options: argparse.Namespace) -> Figures:
    """Run the study once, with a server, a database and a cluster of its own."""
    from benchmarks.reading import mlflow_server, postgres

    with (
        TemporaryDirectory() as name,
        postgres() as database,
        mlflow_server(Path(name), database, options.server_workers) as address,
    ):
        file = Path(name) / "run"
        os.environ |= {"MLFLOW_TRACKING_URI": address, "PIPELINE_SCALE": str(file)}
        file.write_bytes(pickle.dumps((options.seconds, [one._asdict() for one in recorded])))
        return _study(workers, options)


def _study(workers: int, options: argparse.Namespace) -> Figures:
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
        _start_workers(workers)
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
        taken = _processor_seconds() - before
        return {
            "efficiency": options.runs * options.seconds / (workers * wall),
            "wall_seconds": wall,
            "server_seconds": taken["mlflow server"] / options.runs,
            **{f"cores of {role}": taken[role] / wall for role in sorted(set(ROLES.values()))},
            "cores of the study": (sum(driver.cpu_times()[:2]) - begun) / wall,
            "megabytes of the study": driver.memory_info().rss / 1e6,
        }
    finally:
        ray.shutdown()
        nodes.shutdown()


def _start_workers(count: int) -> None:
    """Have all worker processes running. On a real cluster each would start on its own cores."""
    import ray

    @ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
    def wait(until: float) -> None:
        time.sleep(max(0.0, until - time.time()))

    seconds = 2 * count  # a process takes about a second of a core to start
    ray.get([wait.remote(time.time() + seconds) for _ in range(count)])


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
    """Format the figures, medians with minimum and maximum of the rounds."""
    builds = [name for name in ("before", "now") if name in figures]
    lines = [
        f"{figures['machine']}; {figures['runs']} runs of {figures['seconds']:g} s,"
        f" {figures['rounds']} rounds",
        *(
            f"{name}: {figures[name]['requests']} requests and"
            f" {figures[name]['megabytes']:.1f} MB of a run"
            for name in builds
        ),
    ]
    for number in [key for key in figures["now"] if key.isdecimal()]:
        for key in figures["now"][number]:
            values = ", ".join(
                f"{name} {show(figures[name][number][key], '.3g')}" for name in builds
            )
            lines.append(f"{number} workers, {key}: {values}")
    return "\n".join([*lines, "", *target_lines(figures["targets"])])


if __name__ == "__main__":
    main()
