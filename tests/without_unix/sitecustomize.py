"""Takes from an interpreter what Windows lacks, once the libraries that know how are imported."""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

# Before the libraries: they look whether there is a mask when they are imported.
for name in ("SIGHUP", "pthread_sigmask", "pthread_kill", "sigwait", "SIGUSR1"):
    delattr(signal, name)

import multiprocessing.popen_spawn_posix  # noqa: E402, F401
import subprocess  # noqa: E402, F401

import filelock  # noqa: E402, F401
import mlflow  # noqa: E402, F401
import psutil  # noqa: E402, F401
import torch  # noqa: E402, F401

for name in ("sysconf", "fork", "setsid", "getuid", "killpg"):
    delattr(os, name)
del signal.SIGKILL
for name in ("fcntl", "resource", "pwd", "termios"):
    sys.modules[name] = None  # type: ignore[assignment]


def kill(pid: int, number: int) -> None:
    """End a process, as `os.kill` does on Windows, whatever the signal."""
    raise AssertionError(f"os.kill({pid}, {number}) would end the process on Windows")


os.kill = kill


def in_use() -> set[str]:
    """The files that this process has open, or mapped into its memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[-1] for line in lines}
    return mapped | {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


def refuses(change: Callable[..., None]) -> Callable[..., None]:
    """Refuse to replace or delete a file that is open, as Windows does."""

    @wraps(change)
    def changed(*paths: str, **options: Any) -> None:
        if opened := {os.path.realpath(path) for path in paths} & in_use():
            raise PermissionError(13, "The file is open in a process", *opened)
        change(*paths, **options)

    return changed


for name in ("replace", "rename", "remove", "unlink"):
    setattr(os, name, refuses(getattr(os, name)))
