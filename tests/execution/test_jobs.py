"""The runs of a study in parallel: the same results, and none harms another."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
from conftest import Answer, environment, runs_in
from mlflow.entities import Run

from pipeline.execution.parallelism import share_threads
from pipeline.store.liveness import PROCESS
from pipeline.store.tags import unpack

TINY = ["--dataset", "synthetic", "--train-images", "600", "--batch-size", "64"]
# What `auto` chooses depends on the machine: test_machine.py.
TWO = ["--jobs", "2"]
LONG = [*TINY, "--epochs", "8"]


def start(folder: Path, *arguments: str, threads: int = 2) -> subprocess.Popen[str]:
    """Start a command on a machine with so many cores."""
    return subprocess.Popen(
        ["python", "-m", "pipeline", *arguments],
        cwd=folder,
        env=environment(folder) | {"OMP_NUM_THREADS": str(threads)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def training(folder: Path, count: int) -> list[Run]:
    """Wait until so many runs have finished an epoch; return them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "mlflow.db").exists():
            running = [r for r in runs_in(folder, "train") if r.info.status == "RUNNING"]
            if len(running) == count and all("val_loss" in run.data.metrics for run in running):
                return running
        time.sleep(0.7)  # each look takes time from the runs
    raise AssertionError("the runs did not begin")


def process_of(run: Run) -> int:
    return int(run.data.tags[PROCESS].split()[0])


def curves(folder: Path, run: Run) -> dict[str, list[float]]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return {
        name: [m.value for m in client.get_metric_history(run.info.run_id, name)] for name in names
    }


def report_of(folder: Path) -> str:
    (path,) = folder.rglob("report.md")
    return path.read_text()


@pytest.mark.parametrize(
    ("cells", "jobs", "threads", "expected"),
    [
        (4, 2, 2, [1, 1, 1, 1]),
        (3, 2, 2, [1, 1, 2]),  # the last one has the machine for itself
        (2, 2, 16, [8, 8]),
        (9, 4, 8, [2, 2, 2, 2, 2, 2, 2, 2, 8]),
        (3, 3, 2, [1, 1, 1]),
    ],
)
def test_no_core_is_left_idle(cells: int, jobs: int, threads: int, expected: list[int]) -> None:
    assert share_threads(cells, jobs, threads) == expected


def test_runs_in_parallel_are_the_same_as_alone(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    options = [*TINY, "--epochs", "2"]
    study = start(together, "ablate", *options, *TWO, "--variants", "base,dropout", "--seeds", "1")
    out, err = study.communicate()
    assert study.returncode == 0, err
    ended = [line for line in out.splitlines() if line.startswith("[")]
    assert [line[:6] for line in ended] == ["[1/2] ", "[2/2] "]
    assert {line[6:].split(":")[0] for line in ended} == {"base-seed0", "dropout-seed0"}
    assert "Epoch 1 (T)" not in out + err  # the bars of the runs
    assert "runs in parallel" in report_of(together)
    (parent,), runs = runs_in(together, "study"), runs_in(together, "train")
    assert len({process_of(run) for run in [parent, *runs]}) == 3
    assert {unpack(run)["threads"] for run in runs} == {"1"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    assert {run.info.experiment_id for run in runs} == {parent.info.experiment_id}
    (run,) = (run for run in runs if run.info.run_name == "dropout-seed0")
    single = start(alone, "train", *options, "--variant", "dropout", threads=1)
    _, err = single.communicate()
    assert single.returncode == 0, err
    (same,) = runs_in(alone)
    assert curves(together, run) == curves(alone, same)


@pytest.mark.thorough
def test_a_run_of_a_study_is_continued_alone_with_the_threads_that_it_had(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    options = [*TINY, "--epochs", "2", "--variants", "base,dropout", "--seeds", "1"]
    study = start(together, "ablate", *options, *TWO)
    _, err = study.communicate()
    assert study.returncode == 0, err
    (run,) = (r for r in runs_in(together, "train") if r.info.run_name == "dropout-seed0")
    more = ["--epochs", "3"]
    for single in (
        start(together, "train", "--resume", run.info.run_id, *more, threads=2),
        start(alone, "train", *TINY, "--variant", "dropout", *more, threads=1),
    ):
        _, err = single.communicate()
        assert single.returncode == 0, err
    (same,) = runs_in(alone)
    assert curves(together, run) == curves(alone, same)


def test_a_process_that_dies_harms_no_other(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    """Nor the study, even if it trains one run after the other."""
    one = ["--jobs", "1", "--variants", "base", "--seeds", "3", "--register", "none"]
    options = ["ablate", *LONG, *one]
    study = start(tmp_path, *options)
    victim = training(tmp_path, 1)[0]
    os.kill(process_of(victim), signal.SIGKILL)
    out, err = study.communicate()
    assert study.returncode == 1
    name = victim.info.run_name
    assert f"{name}: failed: its process was killed by SIGKILL" in out
    assert err.splitlines()[-1] == (
        f"error: 1 of 3 runs failed; {name}: its process was killed by SIGKILL; run the same"
        " command again to retry them; finished runs are kept"
    )
    statuses = {run.info.run_name: run.info.status for run in runs_in(tmp_path, "train")}
    assert statuses.pop(name) == "KILLED"
    assert list(statuses.values()) == ["FINISHED"] * 2

    again = pipeline(*options)
    assert again.status == 0, again.err
    assert "2 of 3 runs are finished already" in again.out
    assert f"{name} continues after " in again.out
    assert [run.info.status for run in runs_in(tmp_path, "train")] == ["FINISHED"] * 3


def interrupt(study: subprocess.Popen[str]) -> None:
    """Press Ctrl-C: the terminal sends it to every process of the group."""
    os.killpg(study.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (interrupt, 130),
        pytest.param(subprocess.Popen.terminate, 143, marks=pytest.mark.thorough),
        pytest.param(subprocess.Popen.kill, -9, marks=pytest.mark.thorough),
    ],
)
def test_when_the_study_is_stopped_so_is_every_run(
    tmp_path: Path, stop: Callable[[subprocess.Popen[str]], None], status: int
) -> None:
    study = start(tmp_path, "ablate", *LONG, *TWO, "--variants", "base,bn", "--seeds", "2")
    processes = [psutil.Process(process_of(run)) for run in training(tmp_path, 2)]
    stop(study)
    _, err = study.communicate()
    assert study.returncode == status
    gone, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    assert len(gone) == 2
    assert [run.info.status for run in runs_in(tmp_path, "train")] == ["KILLED"] * 2
    assert "Traceback" not in err
    if status > 0:
        name = signal.Signals(status - 128).name
        remedy = "the same command again, which keeps what is done"
        assert err.splitlines() == [f"error: stopped by {name}; continue by: {remedy}"]
        assert [run.info.status for run in runs_in(tmp_path, "study")] == ["KILLED"]
    if status == 130:
        return  # the default suite has no time for what the other signals show
    # The same command again continues each, and marks the study that was killed.
    again = start(tmp_path, "ablate", *LONG, *TWO, "--variants", "base,bn", "--seeds", "2")
    out, err = again.communicate()
    assert again.returncode == 0, err
    for name in ("base-seed0", "bn-seed0"):
        assert f"{name} continues after " in out
    assert [run.info.status for run in runs_in(tmp_path, "study")] == ["FINISHED", "KILLED"]
    runs = runs_in(tmp_path, "train")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert all(len(curve) == 8 for run in runs for curve in curves(tmp_path, run).values())
