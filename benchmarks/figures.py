"""Code shared by all benchmarks: the origin, spread and targets of their figures."""

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from importlib.metadata import version
from importlib.util import find_spec
from operator import getitem
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

GPU_EPOCH_SECONDS = 0.10  # at most, for training on CIFAR-100's 50,000 images
DRIVER = ("--query-gpu=driver_version", "--format=csv,noheader", "--id=0")

Figures = dict[str, Any]


class Target(NamedTuple):
    """The target for a figure; `path` holds the keys to it, a number or a spread."""

    what: str
    bound: str  # "at least" or "at most"
    value: float
    path: tuple[str, ...]


def origin() -> Figures:
    """Return the commit of this checkout, the machine, and the software versions."""
    # torch names the GPU. It reads its environment once; callers may need to set it first.
    import torch  # noqa: F401

    from pipeline.machine import describe_machine

    return {
        # A copy without history has no commit.
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown",
        "machine": describe_machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "mlflow") if find_spec(name)}
        | ({"driver": driver} if (driver := _said("nvidia-smi", *DRIVER)) else {}),
    }


def _said(*command: str) -> str:
    """What a command prints, or nothing if there is none or it fails."""
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def show(value: dict[str, float], form: str) -> str:
    """Format a spread for display, each number by `form`."""
    if value["min"] == value["max"]:
        return format(value["median"], form)
    middle, low, high = (format(value[key], form) for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})"


def judge(targets: Sequence[Target], figures: Figures) -> list[Figures]:
    """Check whether the median meets each target. What was not measured is left out."""
    rows = []
    for what, bound, value, path in targets:
        with suppress(KeyError):
            measured: Any = reduce(getitem, path, figures)
            if not isinstance(measured, dict):
                measured = spread([measured])
            number = measured["median"]
            met = number >= value if bound == "at least" else number <= value
            rows.append({"what": what, bound: value, "measured": measured, "met": met})
    return rows


def target_lines(rows: Sequence[Figures]) -> list[str]:
    """Format the result of `judge`."""
    lines = [f"{'target':44} {'':14} {'measured':>30}"]
    for row in rows:
        bound = " ".join(f"{key} {row[key]:,}" for key in ("at least", "at most") if key in row)
        met = "met" if row["met"] else "missed"
        lines.append(f"{row['what']:44} {bound:14} {show(row['measured'], ',.4g'):>30}  {met}")
    return lines
