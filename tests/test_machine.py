"""How many jobs a study has: what the processors and the memory allow, in a container too."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import REAL_DATA, SMALL, Answer, needs_real_data, runs_in, start

from pipeline import machine
from pipeline.machine import GIB, JOB_MEMORY, choose_jobs, free_memory, usable_processors

GB = 10**9
NO_LIMIT = 9_223_372_036_854_771_712  # what version 1 says


def make_tree(root: Path, files: dict[str, object]) -> Path:
    """Write made-up files of a kernel below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def v2(folder: str, limit: object, used: int, cached: int = 0) -> dict[str, object]:
    statistics = f"anon 5\ninactive_file {cached}\nactive_file 7"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": statistics,
    }


def v1(folder: str, limit: int, used: int, cached: int = 0) -> dict[str, object]:
    # Without `total_` it is the group alone, without those inside.
    statistics = f"inactive_file 1\ntotal_inactive_file {cached}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": statistics,
    }


CGROUP, TOP = "proc/self/cgroup", "sys/fs/cgroup"
V1_PATHS = "9:memory:/box/job\n3:cpu,cpuacct:/box/job\n1:name=systemd:/other\n0::/"

MEMORY: dict[str, tuple[dict[str, object], int]] = {
    "no control groups": ({}, 20 * GB),
    "v2": ({CGROUP: "0::/job", **v2(f"{TOP}/job", 4 * GB, 1 * GB)}, 3 * GB),
    "v2, cached files": ({CGROUP: "0::/job", **v2(f"{TOP}/job", 4 * GB, 3 * GB, 2 * GB)}, 3 * GB),
    "v2, no limit": ({CGROUP: "0::/job", **v2(f"{TOP}/job", "max", 1 * GB)}, 20 * GB),
    "v2, more than there is": ({CGROUP: "0::/job", **v2(f"{TOP}/job", 64 * GB, 1)}, 20 * GB),
    "v2, over the limit": ({CGROUP: "0::/job", **v2(f"{TOP}/job", 4 * GB, 5 * GB)}, 0),
    "v2, the outer limit": (
        {
            CGROUP: "0::/box/middle/job",
            **v2(f"{TOP}/box", 2 * GB, 1 * GB),
            **v2(f"{TOP}/box/middle/job", 8 * GB, 1 * GB),
        },
        1 * GB,
    ),
    "v2, seen as the root": ({CGROUP: "0::/", **v2(TOP, 4 * GB, 1 * GB)}, 3 * GB),
    "v2, no statistics": (
        {CGROUP: "0::/", f"{TOP}/memory.max": 4 * GB, f"{TOP}/memory.current": GB},
        3 * GB,
    ),
    "v2, no usage": ({CGROUP: "0::/", f"{TOP}/memory.max": 4 * GB}, 20 * GB),
    "v1": ({CGROUP: V1_PATHS, **v1(f"{TOP}/memory/box/job", 4 * GB, 1 * GB)}, 3 * GB),
    "v1, cached files": (
        {CGROUP: V1_PATHS, **v1(f"{TOP}/memory/box/job", 4 * GB, 3 * GB, 2 * GB)},
        3 * GB,
    ),
    "v1, no limit": ({CGROUP: V1_PATHS, **v1(f"{TOP}/memory/box/job", NO_LIMIT, GB)}, 20 * GB),
    "v1, the outer limit": (
        {
            CGROUP: V1_PATHS,
            **v1(f"{TOP}/memory/box", 2 * GB, 1 * GB),
            **v1(f"{TOP}/memory/box/job", NO_LIMIT, 1 * GB),
        },
        1 * GB,
    ),
    "v1, seen as the root": ({CGROUP: V1_PATHS, **v1(f"{TOP}/memory", 4 * GB, GB)}, 3 * GB),
    "v1, of another controller": (
        {CGROUP: V1_PATHS, **v1(f"{TOP}/memory/other", 4 * GB, GB)},
        20 * GB,
    ),
}


@pytest.mark.parametrize(("files", "expected"), MEMORY.values(), ids=MEMORY.keys())
def test_memory_is_free_as_far_as_the_container_allows(
    files: dict[str, object], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * GB))
    assert free_memory(make_tree(tmp_path, files)) == expected


def v1_quota(folder: str, quota: int) -> dict[str, object]:
    folder = f"{TOP}/cpu/{folder}"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": 100_000}


PROCESSORS: dict[str, tuple[dict[str, object], int]] = {
    "no control groups": ({}, 8),
    "v2": ({CGROUP: "0::/job", f"{TOP}/job/cpu.max": "200000 100000"}, 2),
    "v2, two and a half": ({CGROUP: "0::/job", f"{TOP}/job/cpu.max": "250000 100000"}, 2),
    "v2, half a one": ({CGROUP: "0::/job", f"{TOP}/job/cpu.max": "50000 100000"}, 1),
    "v2, no quota": ({CGROUP: "0::/job", f"{TOP}/job/cpu.max": "max 100000"}, 8),
    "v2, more than there are": ({CGROUP: "0::/job", f"{TOP}/job/cpu.max": "9900000 100000"}, 8),
    "v2, the outer quota": (
        {
            CGROUP: "0::/box/job",
            f"{TOP}/box/cpu.max": "300000 100000",
            f"{TOP}/box/job/cpu.max": "max 100000",
        },
        3,
    ),
    "v1": ({CGROUP: V1_PATHS, **v1_quota("box/job", 200_000)}, 2),
    "v1, no quota": ({CGROUP: V1_PATHS, **v1_quota("box/job", -1)}, 8),
    "v1, the outer quota": (
        {CGROUP: V1_PATHS, **v1_quota("box", 300_000), **v1_quota("box/job", -1)},
        3,
    ),
    "v1, seen as the root": ({CGROUP: V1_PATHS, **v1_quota("", 200_000)}, 2),
}


class EightProcessors:
    """A process that the system lets run on eight processors of sixteen."""

    def cpu_affinity(self) -> list[int]:
        return list(range(8))


@pytest.mark.parametrize(("files", "expected"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_processors_are_those_that_the_process_may_use(
    files: dict[str, object], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "Process", EightProcessors)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert usable_processors(make_tree(tmp_path, files)) == expected


def test_where_there_is_no_affinity_all_processors_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "Process", object)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert usable_processors(tmp_path) == 16


@pytest.mark.parametrize(
    ("asked", "cells", "threads", "on_gpu", "processors", "free", "expected"),
    [
        (0, 9, 2, False, 2, 20.0, "2 jobs: one for each of 2 processors"),
        (0, 9, 16, False, 1, 20.0, "1 job: there is 1 processor"),
        (0, 9, 2, False, 16, 20.0, "2 jobs: one for each of 2 threads"),
        (0, 3, 16, False, 16, 20.0, "3 jobs: one for each of 3 runs"),
        (0, 9, 8, False, 8, 3.1, "3 jobs: 3.1 GiB of memory is free, and each takes 0.9"),
        (0, 9, 8, False, 8, 0.2, "1 job: 0.2 GiB of memory is free, and each takes 0.9"),
        (0, 9, 8, True, 8, 20.0, "1 job: a GPU trains one network after the other"),
        (6, 9, 2, False, 2, 0.2, "6 jobs: as asked for"),
        (6, 9, 2, True, 2, 0.2, "6 jobs: as asked for"),
        (6, 3, 2, False, 2, 20.0, "3 jobs: one for each of 3 runs"),
    ],
)
def test_a_study_has_as_many_jobs_as_fit_and_says_why(
    asked: int,
    cells: int,
    threads: int,
    on_gpu: bool,
    processors: int,
    free: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "usable_processors", lambda: processors)
    monkeypatch.setattr(machine, "free_memory", lambda: int(free * GIB))
    chosen = choose_jobs(asked, cells, threads, on_gpu)
    assert chosen.reason == expected
    assert chosen.number == int(expected.split()[0])


def test_the_reason_stands_on_the_terminal_in_the_run_and_in_the_report(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "1 job: 1.0 GiB of memory is free, and each takes 0.9"
    monkeypatch.setattr(machine, "usable_processors", lambda: 16)
    monkeypatch.setattr(machine, "free_memory", lambda: GIB)
    monkeypatch.setattr("pipeline.study.THREADS", 2)
    answer = pipeline("ablate", *SMALL, "--device", "cpu", "--variants", "base,bn", "--seeds", "1")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[0] == expected
    (study,) = runs_in(tmp_path, "study")
    assert study.data.tags["jobs_chosen"] == expected
    (report,) = tmp_path.rglob("report.md")
    assert f"{expected}; together they have 2 threads" in report.read_text()


def test_a_quota_limits_the_threads_too_unless_their_number_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(machine, "usable_processors", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.usable_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert machine.usable_threads() == 16


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
    assert 0.3 * GIB < most < JOB_MEMORY  # less: they were not seen at work
