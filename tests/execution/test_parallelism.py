"""How many runs of a study train at once, and why."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from conftest import REAL_DATA, SMALL, Answer, drawn_data, needs_real_data, runs_in, start

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.execution import jobs, parallelism
from pipeline.execution.engine import local_engine
from pipeline.execution.parallelism import JOB_MEMORY, choose_jobs
from pipeline.execution.tasks import NetworkTask, Progress
from pipeline.machine import GIB, visible_gpus
from pipeline.store.tags import unpack
from pipeline.training import batches
from pipeline.training.device import choose_device, choose_precision


@pytest.mark.parametrize(
    ("asked", "cells", "threads", "gpus", "processors", "free", "expected"),
    [
        (0, 9, 2, 0, 2, 20.0, "2 jobs: one for each of 2 processors"),
        (0, 9, 16, 0, 1, 20.0, "1 job: there is 1 processor"),
        (0, 9, 2, 0, 16, 20.0, "2 jobs: one for each of 2 threads"),
        (0, 3, 16, 0, 16, 20.0, "3 jobs: one for each of 3 runs"),
        (0, 9, 8, 0, 8, 2.5, "3 jobs: 2.5 GiB of memory is free, and each takes 0.8"),
        (0, 9, 8, 0, 8, 0.2, "1 job: 0.2 GiB of memory is free, and each takes 0.8"),
        (0, 9, 8, 1, 8, 20.0, "1 job: a GPU trains one network after the other"),
        (0, 9, 8, 2, 8, 20.0, "2 jobs: one for each of 2 GPUs"),
        (0, 9, 8, 2, 1, 20.0, "1 job: there is 1 processor"),
        (6, 9, 2, 0, 2, 0.2, "6 jobs: as asked for"),
        (6, 9, 2, 1, 2, 0.2, "6 jobs: as asked for"),
        (6, 3, 2, 0, 2, 20.0, "3 jobs: one for each of 3 runs"),
    ],
)
def test_a_study_has_as_many_jobs_as_fit_and_says_why(
    asked: int,
    cells: int,
    threads: int,
    gpus: int,
    processors: int,
    free: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallelism, "usable_processors", lambda: processors)
    monkeypatch.setattr(parallelism, "free_memory", lambda: int(free * GIB))
    images = drawn_data().nbytes  # 37 MB
    chosen = choose_jobs(asked, cells, threads, gpus, 1.0, images)
    assert chosen.reason == expected
    assert chosen.number == int(expected.split()[0])


def test_several_runs_can_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallelism, "usable_processors", lambda: 16)
    monkeypatch.setattr(parallelism, "free_memory", lambda: 100 * GIB)
    assert choose_jobs(0, 20, 16, 2, 0.25, 0) == (8, "8 jobs: 2 GPUs, 0.25 of one for each run")
    assert choose_jobs(0, 20, 16, 1, 0.3, 0) == (3, "3 jobs: 1 GPU, 0.3 of one for each run")


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("1,-1,2", 1, ["1"]), ("", 0, [])],
)
def test_only_the_visible_gpus_are_used(
    variable: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_each_process_sees_one_gpu_and_all_have_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Job:
        def __init__(self, _parent: object, _imports: object, gpu: str) -> None:
            self.gpu = gpu
            seen.append(gpu)
            self.connection, self.theirs = Pipe()

        def begin(self, task: NetworkTask) -> tuple[Config, Progress]:
            self.cell = task.cell
            return task.cell, Progress()

    monkeypatch.setattr(jobs, "_Job", Job)
    monkeypatch.setattr(jobs, "_stop", lambda _: None)
    tasks = [NetworkTask(Config(seed=seed), 1) for seed in range(4)]
    events = jobs.in_parallel(tasks, None, 4, ["3", "5"])  # type: ignore[arg-type]
    for _ in tasks:
        next(events)
    assert seen == ["3", "5", "3", "5"]


def test_without_ray_one_line_says_how_to_install_it(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execution.engine.find_spec", lambda _: None)
    answer = pipeline("ablate", *SMALL, "--cluster", "auto")
    assert answer.status == 2
    assert "cluster=auto needs Ray" in answer.err
    assert "pip install -r requirements-ray.txt" in answer.err
    assert not runs_in(tmp_path)


def test_the_reason_stands_on_the_terminal_in_the_run_and_in_the_report(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "1 job: 1.0 GiB of memory is free, and each takes 0.7"
    monkeypatch.setattr(parallelism, "usable_processors", lambda: 16)
    monkeypatch.setattr(parallelism, "free_memory", lambda: GIB)
    monkeypatch.setattr("pipeline.runs.resolve.THREADS", 2)
    answer = pipeline("ablate", *SMALL, "--device", "cpu", "--variants", "base,bn", "--seeds", "1")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[2].startswith(expected)
    (study,) = runs_in(tmp_path, "study")
    assert unpack(study)["jobs_chosen"] == expected
    (report,) = tmp_path.rglob("report.md")
    assert f"{expected}; threads together: 2" in report.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's share of memory")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(SMALL, marks=pytest.mark.thorough),
        pytest.param(
            ["--dataset", "cifar100", "--data-dir", str(REAL_DATA), "--epochs", "1"],
            marks=[needs_real_data, pytest.mark.thorough],
        ),
    ],
    ids=["synthetic", "cifar100"],
)
def test_a_job_takes_no_more_memory_than_is_counted_for_it(data: list[str], tmp_path: Path) -> None:
    options = ["--variants", "base,bn", "--seeds", "1", "--jobs", "2", "--device", "cpu"]
    study = start(tmp_path, "python", "-m", "pipeline", "ablate", *data, *options)
    most = 0.0
    while study.poll() is None:
        shares = []
        for job in psutil.Process(study.pid).children():
            with suppress(psutil.Error):  # it has ended meanwhile
                shares.append(job.memory_full_info().pss)
        # When one job has ended, what it shared counts for the other, and less is taken by both.
        most = max(most, sum(shares) / 2)
        time.sleep(0.2)
    assert study.returncode == 0, study.communicate()[1]
    print(f"a job took {most / GIB:.2f} GiB")
    images = 184_000_000  # of CIFAR-100
    assert 0.3 * GIB < most < JOB_MEMORY + images  # less: they were not seen at work


def test_a_macs_gpu_trains_one_network_after_the_other_and_nothing_untried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usable, mps, zeros = {"memory": True}, torch.device("mps"), torch.zeros

    def on_mps(*shape: int, **options: Any) -> torch.Tensor:
        if options.pop("device", "cpu") == "mps" and not usable["memory"]:
            raise RuntimeError("MPS backend out of memory")  # as in a virtual machine
        return zeros(*shape, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", on_mps)
    assert choose_device("auto") == choose_device("mps") == mps
    assert choose_precision("auto", mps) == "fp32"
    with pytest.raises(InputError, match="bf16, which is not tried on mps"):
        choose_precision("bf16", mps)
    run = SimpleNamespace(data=SimpleNamespace(nbytes=0), device=mps, precision="fp32", threads=2)
    engine = local_engine(run, 4, 0, 1.0)  # type: ignore[arg-type]
    assert (engine.device, engine.precision) == ("mps", "fp32")
    assert engine.jobs == (1, "1 job: a GPU trains one network after the other")
    usable["memory"] = False
    assert choose_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no GPU of a Mac"):
        choose_device("mps")


def test_batches_for_a_device_without_float64_are_made_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, cpu, other = drawn_data(300), torch.device("cpu"), torch.device("meta")
    monkeypatch.setitem(batches.ELSEWHERE, "meta", cpu)
    made = batches.TrainingBatches(data.training, 128, 0, other)
    assert made.images.device == cpu
    for kind in (made, batches.ValidationBatches(data.validation, 500, other)):
        images, labels = next(iter(kind))
        assert (images.device, labels.device) == (other, other)
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert batches.ELSEWHERE.keys() == {"mps", "meta"}
