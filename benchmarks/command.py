"""Run a pipeline command; measure the time to its first batch and the time spent logging.

python -m benchmarks.command OUTPUT.json STARTED train --epochs 3 …

STARTED is when the command was issued, in seconds since 1970.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline import openmp
from pipeline.__main__ import main as run_command
from pipeline.imports import importing

seconds: dict[str, float] = {"first_batch": 0.0, "logging": 0.0}


def timed(owner: Any, name: str) -> None:
    """Make a function add its run time to `logging`."""
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds["logging"] += time.perf_counter() - begun

    setattr(owner, name, wrapped)


def main() -> None:
    """Run the command; write the figures."""
    path, started = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    openmp.spin_shortly()
    with importing():  # as the command does
        import torch

        from pipeline.runs import checkpoint
        from pipeline.store import uploads
        from pipeline.training.loop import Training

    step = torch.optim.Adam.step

    def first_step(self: torch.optim.Adam, *args: Any) -> Any:
        seconds["first_batch"] = time.time() - started
        torch.optim.Adam.step = step  # type: ignore[method-assign]
        return step(self, *args)

    def training(*args: Any) -> Any:  # after the trial, which takes a step too
        torch.optim.Adam.step = first_step  # type: ignore[method-assign,assignment]
        return Training(*args)

    # A run logs metrics and saves its state between epochs.
    timed(uploads, "log_metrics")
    timed(uploads, "save_state")
    timed(checkpoint, "pack")
    try:
        with patch("pipeline.runs.training_run.Training", training):
            run_command()
    finally:
        path.write_text(json.dumps(seconds))


main()
