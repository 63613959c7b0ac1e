"""Measure how long commands take to begin, and the whole of `make ablation`, against a commit.

python -m benchmarks.start --before CHECKOUT [--rounds 5] [--output FILE]

Both builds in turn, each time with a fresh store in a folder of its own. `make ablation` is
measured without make, from an environment that is set up: from the command to the moment at which
the first run of the study begins, to its end, and the same command again, when all is finished.
`train` is measured until its first training step, by a run on 512 images.
"""

import argparse
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import ROOT, Figures, Target, judge, origin, show, spread, target_lines

ABLATE = ["--env-manager", "local", "--experiment-name", "synthetic"]
STUDY = ["-P", "dataset=synthetic", "-P", "epochs=5", "-P", "seeds=3"]
TRAIN = ["train", "--dataset", "synthetic", "--train-images", "512", "--epochs", "1"]
FIRST, WHOLE, AGAIN = "to the first run", "whole", "again"
BATCH = "train, to the first batch"
GOALS = {FIRST: 0.6, WHOLE: 0.8, AGAIN: 0.6, BATCH: 0.8}
TARGETS = [Target(what, "at most", goal, ("ratios", what)) for what, goal in GOALS.items()]
# Prints the time of the first training step of a run, and ends there. A trial takes steps, too.
FIRST_STEP = """
import os, sys, time
from pipeline.__main__ import main
import mlflow, torch
step = torch.optim.Adam.step
def first(self, *args, **options):
    if mlflow.active_run():
        print(time.time(), flush=True)
        os._exit(0)
    return step(self, *args, **options)
torch.optim.Adam.step = first
main()
"""


def main() -> None:
    """Measure; print a table; write the figures."""
    parser = argparse.ArgumentParser(description="Measure how soon commands begin.")
    parser.add_argument("--before", type=Path, required=True, help="a checkout of an older commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file; by default none")
    options = parser.parse_args()
    builds = {"before": options.before.resolve(), "now": ROOT}
    found: dict[str, list[Figures]] = {name: [] for name in builds}
    for _ in range(options.rounds):
        for name, checkout in builds.items():
            found[name].append(_measure(checkout))
            print(name, json.dumps(found[name][-1]), flush=True)
    figures: Figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.start {shlex.join(sys.argv[1:])}",
        **origin(),
        **{name: {w: spread([one[w] for one in found[name]]) for w in GOALS} for name in builds},
    }
    figures["ratios"] = {
        w: figures["now"][w]["median"] / figures["before"][w]["median"] for w in GOALS
    }
    figures["targets"] = judge(TARGETS, figures)
    for what in GOALS:
        times = ", ".join(f"{name} {show(figures[name][what], '.1f')} s" for name in builds)
        print(f"{what}: {times}; ratio {figures['ratios'][what]:.2f}")
    print("\n".join(target_lines(figures["targets"])))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def _measure(checkout: Path) -> Figures:
    """The seconds of each command of a checkout."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(checkout), "XDG_STATE_HOME": name}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

        def run(*command: str) -> tuple[float, float, str]:
            """When it began, how long it took, and what it printed."""
            started = time.time()
            done = subprocess.run(
                [sys.executable, *command],
                cwd=folder,
                env=environment,
                check=True,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            return started, time.time() - started, done.stdout

        ablate = ["-m", "mlflow", "run", str(checkout), "-e", "ablate", *ABLATE, *STUDY]
        started, whole, _ = run(*ablate)
        store = sqlite3.connect(folder / "mlflow.db")
        query = (
            "SELECT MIN(start_time) FROM runs JOIN tags USING (run_uuid)"
            " WHERE key = 'kind' AND value = 'train'"
        )
        (begun,) = store.execute(query).fetchone()
        store.close()
        again = run(*ablate)[1]
        before, _, printed = run("-c", FIRST_STEP, *TRAIN)
        first_step = float(printed.split()[-1])
        return {
            FIRST: begun / 1000 - started,
            WHOLE: whole,
            AGAIN: again,
            BATCH: first_step - before,
        }


if __name__ == "__main__":
    main()
