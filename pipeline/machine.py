"""What the machine has for this process, and how many jobs of a study fit into it.

In a container both the processors and the memory may be fewer than the machine's.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

GIB = 2**30
# Bytes that a job takes: 0.79 to 0.88 GiB were measured with CIFAR-100 (proportional set size, the
# most at any time). A test holds the jobs to it.
JOB_MEMORY = int(0.9 * GIB)
ROOT = Path("/")


class Jobs(NamedTuple):
    """How many jobs a study has, and why: `2 jobs: one for each of 2 processors`."""

    number: int
    reason: str


def choose_jobs(asked: int, cells: int, threads: int, on_gpu: bool) -> Jobs:
    """Choose the number of jobs for a study of `cells` runs; `asked` is 0 for `auto`.

    `threads` is the number that PyTorch would use for one run. Memory is counted as it is now.
    """
    limits = [(asked, "as asked for")]
    if not asked and on_gpu:
        limits = [(1, "a GPU trains one network after the other")]
    elif not asked:
        processors, free = usable_processors(), free_memory()
        needed = f"{free / GIB:.1f} GiB of memory is free, and each takes {JOB_MEMORY / GIB:.1f}"
        limits = [
            (processors, _for_each(processors, "processor")),
            (threads, _for_each(threads, "thread")),
            (max(1, free // JOB_MEMORY), needed),
        ]
    limits.append((cells, _for_each(cells, "run")))
    number, reason = min(limits, key=lambda limit: limit[0])
    return Jobs(number, f"{number} job{'s' if number > 1 else ''}: {reason}")


def _for_each(number: int, what: str) -> str:
    return f"one for each of {number} {what}s" if number > 1 else f"there is 1 {what}"


def usable_threads() -> int:
    """Count the threads for a computation: PyTorch's number, which knows nothing of a quota."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, usable_processors())


def usable_processors(root: Path = ROOT) -> int:
    """Count the processors that this process may use: by its affinity, and its CPU quota.

    `root` is the folder that holds `proc` and `sys`. Half a processor counts as none, but there is
    always one.
    """
    try:
        processors = len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS has none
        processors = os.cpu_count() or 1
    quotas = [float(processors)]
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError):  # ValueError: the quota is `max`
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError):
            microseconds = _number(group / "cpu.cfs_quota_us")
            if microseconds > 0:  # -1: no quota
                quotas.append(microseconds / _number(group / "cpu.cfs_period_us"))
    return max(1, int(min(quotas)))


def free_memory(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process may still take, in a container by its limit.

    `root` is the folder that holds `proc` and `sys`. Files that the system has cached, but that
    nobody has used lately, count as free.
    """
    free = [int(psutil.virtual_memory().available)]
    for group in _groups(root, "memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # ValueError: the limit is `max`
                left = _number(group / limit) - _number(group / used)
                free.append(left + _cached(group / "memory.stat", cached))
    return max(0, min(free))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Find the folders of this process's control group and of those around it, version 1 and 2.

    A limit of any of them holds. A container may see itself as the root, while /proc has the path
    that the host knows: folders that are missing hold no limit.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            inner = Path(path.lstrip("/"))
            yield from (mount / group for group in (inner, *inner.parents))


def _cached(statistics: Path, name: str) -> int:
    with suppress(OSError):
        for line in statistics.read_text().splitlines():
            key, value = line.split()
            if key == name:
                return int(value)
    return 0


def _number(path: Path) -> int:
    return int(path.read_text())


def describe_machine() -> str:
    """The machine in words: processor, cores, memory, accelerator, system."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration), Path("/proc/cpuinfo").open() as lines:
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    memory = psutil.virtual_memory().total / GIB
    parts = [name, f"{os.cpu_count()} cores", f"{memory:.0f} GiB of memory"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"{platform.system()} on {platform.machine()}"])
