"""Time whole commands, as a user types them, each in an empty folder."""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import ROOT, Figures, spread

# What training needs before its first batch and takes seconds to import. torch.optim imports
# torch._dynamo when an optimiser is made.
LIBRARIES = """
import time
from pipeline.imports import importing
with importing():
    import torch, torch._dynamo, mlflow.pytorch, mlflow.store.tracking.sqlalchemy_store, typer
print(time.time())
"""

# The names of what is measured, in the table and in the file.
ONE_RUN, STUDY = "one run of 1 epoch", "a study of 4 runs of 10 epochs"
FIRST_BATCH, OWN_CODE = "from command to first batch", "of which our own code"
LOGGING = "share of an epoch spent logging"
BESIDE, LEFT = "a run beside its epochs", "MB that a run leaves beside its model"


def time_commands(options: argparse.Namespace, variant: str, epoch: float) -> Figures:
    """Time `--help`, `train` and `evaluate` as a user types them, in an empty folder.

    `epoch` is the seconds that an epoch on all images takes, for comparison.
    """
    data = ["--dataset", options.dataset, "--data-dir", options.data_dir]
    shape = ["--train-images", "512", "--epochs", "3", "--device", options.device]
    train = ["train", "--variant", variant, *shape, *data]
    model = f"models:/{options.dataset}-cnn@{variant}"
    evaluate = ["-m", "pipeline", "evaluate", "--model", model, *data]
    helps, libraries, begun, logged, evaluations = [], [], [], [], []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        _run(
            folder, "-c", "from pipeline.store.initialization import check_store; check_store()"
        )  # creates it
        for _ in range(1 if options.quick else 5):
            helps.append(_run(folder, "-m", "pipeline", "--help")[0])
            started = time.time()
            libraries.append(float(_run(folder, "-c", LIBRARIES)[1]) - started)
            _run(folder, "-m", "benchmarks.command", str(path), str(time.time()), *train)
            measured = json.loads(path.read_text())
            begun.append(measured["first_batch"])
            logged.append(measured["logging"] / 3)
            if not options.quick:
                evaluations.append(_run(folder, *evaluate)[0])
    own = [total - loaded for total, loaded in zip(begun, libraries, strict=True)]
    return {
        "--help": spread(helps),
        FIRST_BATCH: spread(begun),
        OWN_CODE: spread(own),
        "logging per epoch": spread(logged),
        LOGGING: spread([value / epoch for value in logged]),
    } | ({"evaluate, whole command": spread(evaluations)} if evaluations else {})


def time_whole(options: argparse.Namespace, variant: str, tutorial_seconds: float) -> Figures:
    """Time a run and a study of four as whole commands on all images, with their peak memory.

    `tutorial_seconds` is the tutorial's time for an epoch, training and validation.
    """
    where = ["--dataset", options.dataset, "--data-dir", options.data_dir]
    where += ["--device", options.device]
    study = ["ablate", "--variants", variant, "--seeds", "4", "--epochs", "10", *where]
    figures = {}
    for name, epochs, arguments in (
        (ONE_RUN, 1, ["train", "--variant", variant, "--epochs", "1", *where]),
        (STUDY, 40, study),
    ):
        with TemporaryDirectory() as folder:
            seconds, memory = _watch(folder, "-m", "pipeline", *arguments)
        figures[name] = {
            "seconds": seconds,
            "ratio": epochs * tutorial_seconds / seconds,
            "peak_memory_mb": memory,
        }
    return figures


def measure_runs(options: argparse.Namespace, variant: str) -> Figures:
    """Measure what the runs of a study take beside their epochs, and what they leave on the disk.

    From the beginning of one to that of the next: of runs of one epoch, one after the other. The
    first is left out; it also exports the network, once for all of them.
    """
    import mlflow

    study = ["ablate", "--variants", variant, "--seeds", "7", "--epochs", "1", "--jobs", "1"]
    data = ["--dataset", options.dataset, "--data-dir", options.data_dir]
    shape = ["--train-images", "512", "--device", options.device]
    with TemporaryDirectory() as folder:
        _run(folder, "-m", "pipeline", *study, *shape, *data)
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        runs = client.search_runs(["0"], "tags.kind = 'train'", order_by=["attributes.start_time"])
        artifacts = [Path(folder, "mlruns", "0", run.info.run_id) for run in runs]
        left = [sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) for run in artifacts]
    seconds = [
        (following.info.start_time - run.info.start_time) / 1000 - run.data.metrics["epoch_seconds"]
        for run, following in pairwise(runs[1:])
    ]
    return {BESIDE: spread(seconds), LEFT: spread([size / 1e6 for size in left])}


def _run(folder: str, *arguments: str) -> tuple[float, str]:
    """Run Python in `folder`; return its seconds and its output."""
    started = time.perf_counter()
    process = _start(folder, *arguments)
    out, _ = process.communicate()
    return _seconds(process, started), out


def _watch(folder: str, *arguments: str) -> tuple[float, float]:
    """Run Python in `folder`; return its seconds, and its peak memory in MB.

    Pages that several processes share count once. Looking stops the process for some milliseconds,
    so it is done twice a second.
    """
    started, peak = time.perf_counter(), 0.0
    process = _start(folder, *arguments)
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    return _seconds(process, started), peak


def _start(folder: str, *arguments: str) -> "subprocess.Popen[str]":
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=keep | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": folder},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _seconds(process: "subprocess.Popen[str]", started: float) -> float:
    if process.returncode:
        raise SystemExit(f"error: {process.args!r} failed")
    return time.perf_counter() - started


def _memory(pid: int) -> float:
    """Memory of a process and its descendants, in MB."""
    import psutil

    total = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_full_info().pss / 1e6
    return total
