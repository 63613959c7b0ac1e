"""How long `compare` takes on many runs that somebody else has made, and how much memory.

python -m benchmarks.comparing [--runs 1200] [--steps 100] [--times 5]

The runs are made first, on SQLite, which takes minutes: four variants, two metrics. Then the whole
command is measured, from its start to its end, several times.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Metric, Param

from benchmarks.contestant import KIB
from benchmarks.figures import origin, show, spread

VARIANTS = 4
COMMAND = "compare --experiment many --outcome acc --by params.model --pair params.seed"


def main() -> None:
    """Make the runs, compare them, and print the figures."""
    parser = argparse.ArgumentParser(description="Time compare on many runs.")
    parser.add_argument("--runs", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(store)
        _make(options.runs, options.steps, Path(folder, "runs").as_uri())
        command = [sys.executable, "-m", "pipeline", *COMMAND.split()]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
        seconds = []
        for _ in range(options.times):
            begun = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB / 1e6
    print(f"{origin()['machine']}, commit {origin()['commit']}")
    print(f"{options.runs:,} runs of {options.steps} steps, {options.times} times")
    print(f"seconds: {show(spread(seconds), '.1f')}")
    print(f"MB at most: {peak:,.0f}")


def _make(runs: int, steps: int, artifacts: str) -> None:
    client, random = mlflow.MlflowClient(), np.random.default_rng(0)
    experiment = client.create_experiment("many", artifacts)
    for number in range(runs):
        seed, variant = divmod(number, VARIANTS)
        luck = np.random.default_rng(seed).normal(0, 0.01)
        run = client.create_run(experiment, run_name=f"v{variant}-seed{seed}").info.run_id
        accuracies = 0.5 + variant / 100 + luck + random.normal(0, 0.01, steps)
        points = [
            Metric(name, float(value), step, step)
            for name, values in (("acc", accuracies), ("loss", 1 - accuracies))
            for step, value in enumerate(values)
        ]
        client.log_batch(run, points, [Param("model", f"v{variant}"), Param("seed", str(seed))])
        client.set_terminated(run)


if __name__ == "__main__":
    main()
