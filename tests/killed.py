"""Run commands of the pipeline in processes that begin at once and are killed at chosen moments.

Reads a line of JSON for each request: {"folder": …, "environment": {…}, "jobs": [{"program":
"pipeline", "mlflow" or "python", "arguments": […], "at": MOMENT or null, "signal": number}, …]}.
Torch and MLflow, whose import takes seconds, are imported once; each process is a fork of this one,
which computes nothing itself. A study trains its runs in its own process, unless the job has
`"child_processes": true`.

A MOMENT is `name` or `name:occurrence` out of MOMENTS, `in a write:line`, or seconds since the
start; at a moment "again", the signal comes a second time. `RUN` in the arguments stands for the id
of the first training run in mlflow.db; if there is none yet, the arguments are those of
"otherwise". Jobs one after the other that have `"together": true` start at the same moment. Answers
by a line of JSON, a list: of each job its status (128 + the signal that it died of), stdout,
stderr, duration, and what all runs say then.

With {"background": NAME, …} the one job is begun, and its output goes to the files NAME.out and
NAME.err; the answer is its process id. {"ended": ID} asks for the status of that process.
"""

import gc
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import alembic.command
import mlflow
import torch
from in_process import compute_once, one_by_one
from mlflow import MlflowClient
from mlflow.cli import cli as run_mlflow

import pipeline.__main__
from pipeline.__main__ import main as run_command
from pipeline.ablation.loading import load_ablation
from pipeline.data import synthetic
from pipeline.execution import engine
from pipeline.models import export
from pipeline.runs import run_figures
from pipeline.runs.checkpoint import Checkpoints
from pipeline.runs.provenance import code_digest
from pipeline.store import uploads
from pipeline.training.batches import ValidationBatches

# What a run imports on its way; with the others, before the fork.
for _name in (
    "git",
    "matplotlib.pyplot",
    "mlflow.pytorch",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "networkx",
    "pipeline.study.study",
    "torch._dynamo",
    "torch._export.serde.serialize",
):
    import_module(_name)

# Where the process dies: before or after the call of a function, by what it does for a run.
MOMENTS: dict[str, tuple[Any, str, str]] = {
    "tables made": (alembic.command, "upgrade", "before"),
    "run begun": (mlflow, "start_run", "after"),
    "run described": (mlflow, "log_params", "after"),
    "in a batch": (torch.optim.Adam, "step", "before"),
    "in validation": (ValidationBatches, "__iter__", "before"),
    "metrics sent": (MlflowClient, "log_batch", "after"),
    "state written": (os, "fsync", "before"),
    "state renamed": (Path, "replace", "after"),
    "figure": (run_figures, "learning_curves", "before"),
    "weights": (export, "export_network", "before"),
    "model named": (MlflowClient, "create_logged_model", "after"),
    "model begun": (MlflowClient, "log_outputs", "after"),
    "model exported": (export, "upload_folder", "before"),
    "model stored": (export, "upload_folder", "after"),
    "model ready": (MlflowClient, "finalize_logged_model", "after"),
    "version": (mlflow, "register_model", "after"),
    "alias": (MlflowClient, "set_registered_model_alias", "after"),
    "failure noted": (MlflowClient, "set_tag", "before"),
    "ending": (MlflowClient, "set_terminated", "before"),
}

OF_TRAINING = ("in a batch", "in validation")


def wait_for_states() -> None:
    """Have the store get the state of each epoch before the next one, so that moments are exact."""
    write = Checkpoints.write

    def written(self: Checkpoints, state: Callable[[], Any], *_: bool) -> None:
        write(self, state, is_last=True, is_kept=True)
        uploads.flush()

    Checkpoints.write = written  # type: ignore[method-assign,assignment]


def die_at(moment: str, number: int) -> None:
    """Have this process send itself a signal at a moment."""
    name, _, occurrence = moment.partition(":")
    if name == "in a write":
        die_in_a_write(int(occurrence), number)
        return
    owner, attribute, when = MOMENTS[name]
    original: Callable[..., Any] = getattr(owner, attribute)
    left = int(occurrence or 1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        run = mlflow.active_run()
        if name in OF_TRAINING and not (run and run.data.tags["kind"] == "train"):
            return original(*args, **kwargs)  # in the trial, or while a study measures a few steps
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), number)
        result = original(*args, **kwargs)
        if left == 0 and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, attribute, wrapped)


def die_in_a_write(line: int, number: int) -> None:
    """Have this process send itself a signal at a line of SQLAlchemy that stores metrics."""
    original = MlflowClient.log_batch

    def trace(frame: FrameType, _event: str, _value: Any) -> Any:
        nonlocal line
        if "sqlalchemy" in frame.f_code.co_filename:
            line -= 1
            if line == 0:
                sys.settrace(None)
                os.kill(os.getpid(), number)
        return trace if line > 0 else None

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        sys.settrace(trace if line > 0 else None)
        try:
            return original(*args, **kwargs)
        finally:
            sys.settrace(None)

    MlflowClient.log_batch = wrapped  # type: ignore[method-assign]


def statuses() -> list[str]:
    """The status of every run in the store."""
    with suppress(sqlite3.OperationalError):  # no store yet, or no tables
        return [
            status for (status,) in sqlite3.connect("mlflow.db").execute("SELECT status FROM runs")
        ]
    return []


def first_run() -> str:
    """The id of the oldest training run whose settings are known; empty if there is none."""
    store = sqlite3.connect("mlflow.db")
    query = (
        "SELECT r.run_uuid FROM runs r JOIN tags t USING (run_uuid) JOIN params p USING (run_uuid)"
        " WHERE t.key = 'kind' AND t.value = 'train' AND p.key = 'seed' ORDER BY r.start_time"
    )
    with suppress(sqlite3.OperationalError):  # no store yet, or no tables
        found = store.execute(query).fetchone()
        return str(found[0]) if found else ""
    return ""


def start(job: dict[str, Any], name: str) -> int:
    """Fork a process that runs a job; its output goes to the files `name`.out and `name`.err."""
    arguments = job["arguments"]
    if "RUN" in arguments:
        run_id = first_run()
        arguments = [run_id if word == "RUN" else word for word in arguments]
        arguments = arguments if run_id else job["otherwise"]
    pid = os.fork()
    if pid:
        return pid
    if job.get("alone"):
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{name}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for moment in (job.get("at"), job.get("again")):
        if isinstance(moment, str):
            wait_for_states()
            die_at(moment, job["signal"])
    if not job.get("child_processes"):
        engine.in_parallel = one_by_one  # type: ignore[attr-defined]
    execute(job.get("program", "pipeline"), arguments)
    sys.exit()


def execute(program: str, arguments: list[str]) -> None:
    """Do what a program does, in this process."""
    sys.argv = [program, *arguments]
    if program == "python":
        option, code, *others = arguments
        sys.argv = [option, *others]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif program == "mlflow":
        run_mlflow()
    else:
        sys.modules["__main__"] = pipeline.__main__  # which processes of its own import first
        run_command()


def wait(pid: int, job: dict[str, Any], started: float) -> int:
    """Wait for a process, and kill it when its time has come."""
    if isinstance(job.get("at"), float | int):
        while time.monotonic() - started < job["at"]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.002)
        os.kill(pid, job["signal"])
    return os.waitpid(pid, 0)[1]


def run(jobs: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Run jobs that start at the same moment; say how each ended. `first` is the first's number."""
    started = time.monotonic()
    names = [f"job{first + n}" for n in range(len(jobs))]
    pids = [start(job, name) for job, name in zip(jobs, names, strict=True)]
    answers = []
    for pid, job, name in zip(pids, jobs, names, strict=True):
        status = wait(pid, job, started)
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        files = [Path(f"{name}.{stream}") for stream in ("out", "err")]
        out, err = (file.read_text() for file in files)
        for file in files:
            file.unlink()
        seconds = time.monotonic() - started
        answer = {"status": code, "out": out, "err": err, "seconds": seconds}
        answers.append({**answer, "runs": statuses()})
    return answers


def enter(request: dict[str, Any]) -> None:
    """Go to the folder of a request, and take its environment."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


def begin(request: dict[str, Any]) -> int:
    """Start the one job of a request in a process group of its own."""
    here, environment = Path.cwd(), os.environ.copy()
    enter(request)
    (job,) = request["jobs"]
    try:
        return start(job | {"alone": True}, request["background"])
    finally:
        enter({"folder": here, "environment": environment})


def ended(pid: int) -> int | None:
    """The exit status of a job that was begun, as `subprocess` has it; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def answer(request: dict[str, Any]) -> None:
    """Run the jobs of a request in its folder, and print how each ended."""
    enter(request)
    answers: list[dict[str, Any]] = []
    for together, group in groupby(request["jobs"], lambda job: job.get("together", False)):
        jobs = list(group)
        for team in [jobs] if together else [[job] for job in jobs]:
            answers += run(team, len(answers))
    print(json.dumps(answers), flush=True)


def main() -> None:
    """Answer each request, in a fork."""
    compute_once()
    synthetic.generate()
    code_digest(load_ablation("auto"))
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request or "background" in request:
            is_new = "background" in request
            print(json.dumps(begin(request) if is_new else ended(request["ended"])), flush=True)
            continue
        pid = os.fork()
        if not pid:
            answer(request)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            print("null", flush=True)  # what is wrong stands on stderr


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
