"""The resources that this process may use: processors, threads, memory.

In a container, processors and memory may both be less than the machine's. torch is imported where
it is needed: `openmp` looks at the processors first.
"""

import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

GIB = 2**30
ROOT = Path("/")
LOOK_SECONDS = 0.1


def usable_threads() -> int:
    """Count the threads to compute with: PyTorch's number, which ignores quotas, capped."""
    import torch

    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, usable_processors())


def usable_processors(root: Path = ROOT) -> int:
    """Count the processors that this process may use, by its affinity and CPU quota.

    `root` is the folder that holds `proc` and `sys`. The count is rounded down, to at least 1.
    """
    quotas = [quota for _, quota in _quotas(root)]
    return max(1, int(min([len(_affinity()), *quotas])))


def idle_processors(root: Path = ROOT) -> float:
    """Measure, for a tenth of a second, how many of the usable processors are idle.

    What others do counts, also those in the same container if it has a quota.
    """
    groups = list(_quotas(root))
    before = [_processor_seconds(group) for group, _ in groups]
    started = time.monotonic()
    busy = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    seconds = time.monotonic() - started
    # A container's /proc may number its processors anew.
    idle: list[float] = [
        sum(1 - busy[processor] / 100 for processor in _affinity() if processor < len(busy))
    ]
    for (group, quota), used in zip(groups, before, strict=True):
        idle.append(quota - (_processor_seconds(group) - used) / seconds)
    return max(0.0, min(idle))


def visible_gpus() -> list[str]:
    """List the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return given.split(",")[:count]  # CUDA ignores what follows an invalid one


def free_memory(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process may still use, within a container's limit.

    `root` is the folder that holds `proc` and `sys`. Cached files that have not been used lately
    count as free.
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
                free.append(left + _statistic(group / "memory.stat", cached))
    return max(0, min(free))


def _affinity() -> Sequence[int]:
    try:
        return psutil.Process().cpu_affinity() or []
    except AttributeError:  # macOS has none
        return range(os.cpu_count() or 1)


def _quotas(root: Path) -> Iterator[tuple[Path, float]]:
    """Find the control groups that limit this process, and to how many processors."""
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError):  # ValueError: the quota is `max`
            quota, period = (group / "cpu.max").read_text().split()
            yield group, int(quota) / int(period)
        with suppress(OSError):
            microseconds = _number(group / "cpu.cfs_quota_us")
            if microseconds > 0:  # -1: no quota
                yield group, microseconds / _number(group / "cpu.cfs_period_us")


def _processor_seconds(group: Path) -> float:
    """What a control group has used of the processors so far."""
    with suppress(OSError):
        return _number(group / "cpuacct.usage") / 1e9
    return _statistic(group / "cpu.stat", "usage_usec") / 1e6


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Find the folders of this process's control group and its ancestors, versions 1 and 2.

    A limit on any of them applies. A container may see itself as the root, while /proc has the
    host's path: missing folders set no limit.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            inner = Path(path.lstrip("/"))
            yield from (mount / group for group in (inner, *inner.parents))


def _statistic(statistics: Path, name: str) -> int:
    with suppress(OSError):
        for line in statistics.read_text().splitlines():
            key, value = line.split()
            if key == name:
                return int(value)
    return 0


def _number(path: Path) -> int:
    return int(path.read_text())


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that has a port, but does not listen yet.

    Raises OSError if the port can't be used; its kind `socket.gaierror`, if there is no such host.
    """
    # With the protocol by number: asyncio turns Nagle's algorithm off for no other socket, and each
    # answer then waits 40 ms for the client's acknowledgement.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )[0]
    bound = socket.socket(family, kind, protocol)
    if os.name == "posix":  # a port is free at once after its last server has ended
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound


def processor() -> str:
    """The processor's name, as the system knows it."""
    with suppress(OSError, StopIteration), Path("/proc/cpuinfo").open() as lines:
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def describe_machine() -> str:
    """Describe the machine: processor, cores, memory, accelerator if torch is loaded, system."""
    memory = psutil.virtual_memory().total / GIB
    parts = [processor(), f"{os.cpu_count()} cores", f"{memory:.0f} GiB of memory"]
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"{platform.system()} on {platform.machine()}"])
