"""What the machine has for this process, in a container too."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from pipeline import machine
from pipeline.machine import free_memory, usable_processors

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


def test_a_quota_limits_the_threads_too_unless_their_number_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(machine, "usable_processors", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.usable_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert machine.usable_threads() == 16


IDLE: dict[str, tuple[dict[str, object], dict[str, object], float]] = {
    "no quota": ({}, {}, 5.5),
    "v2": (
        {
            CGROUP: "0::/job",
            f"{TOP}/job/cpu.max": "200000 100000",
            f"{TOP}/job/cpu.stat": "usage_usec 5000000\nuser_usec 1",
        },
        {f"{TOP}/job/cpu.stat": "usage_usec 5075000\nuser_usec 1"},
        1.25,
    ),
    "v1": (
        {
            CGROUP: V1_PATHS,
            **v1_quota("box/job", 200_000),
            f"{TOP}/cpu/box/job/cpuacct.usage": 5 * 10**9,
        },
        {f"{TOP}/cpu/box/job/cpuacct.usage": 5 * 10**9 + 75 * 10**6},
        1.25,
    ),
    "a quota above what is idle": (
        {CGROUP: "0::/job", f"{TOP}/job/cpu.max": "700000 100000"},
        {},
        5.5,
    ),
}


@pytest.mark.parametrize(("files", "later", "expected"), IDLE.values(), ids=IDLE.keys())
def test_idle_processors_are_what_others_and_a_quota_leave(
    files: dict[str, object],
    later: dict[str, object],
    expected: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make_tree(tmp_path, files)

    def cpu_percent(_seconds: float, percpu: bool) -> list[float]:
        make_tree(root, later)
        return [100.0, 100.0, 50.0, *[0.0] * 5, *[100.0] * 8]  # the last 8 are not ours

    clock = iter([7.0, 7.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(psutil, "cpu_percent", cpu_percent)
    monkeypatch.setattr(psutil, "Process", EightProcessors)
    assert machine.idle_processors(root) == pytest.approx(expected)


def test_only_processors_that_the_system_lists_are_counted_as_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cpu_percent(_seconds: float, percpu: bool) -> list[float]:
        return [100.0, 50.0, 0.0, 0.0]  # a container that lists 4 of the 8, numbered anew

    monkeypatch.setattr(psutil, "cpu_percent", cpu_percent)
    monkeypatch.setattr(psutil, "Process", EightProcessors)
    assert machine.idle_processors(tmp_path) == 2.5
