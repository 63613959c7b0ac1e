"""What the figures of all benchmarks share: where they come from, and their spread."""

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]

Figures = dict[str, Any]


def origin() -> Figures:
    """The commit of this checkout, the machine, and the versions of what computes on it."""
    # It imports torch, which reads its environment once; who imports this may set it before.
    from pipeline.device import describe_machine

    return {
        "commit": _commit(),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "mlflow") if find_spec(name)},
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):  # a copy without its history
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, with the least and the greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def show(value: dict[str, float], form: str) -> str:
    """A spread to be read, each number formatted by `form`."""
    if value["min"] == value["max"]:
        return format(value["median"], form)
    middle, low, high = (format(value[key], form) for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})"
