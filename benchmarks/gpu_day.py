"""Measure on a GPU all that needs one, step by step, the most wanted first.

python -m benchmarks.gpu_day FOLDER [STEP …] [--small]

Each step is a few commands; what they print and the files they write go to FOLDER. A command that
fails does not stop the others. Only the last three steps need MLflow. --small tries out the
commands on a CPU and on the built-in data.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import ROOT, origin

ALL_VARIANTS = "base,bn,dropout,base_dropout"
JOBS = (1, 2, 4, 8)


def steps(folder: Path, small: bool) -> dict[str, list[tuple[str, list[str]]]]:
    """The commands of each step by name, without `python -m`."""
    device = ["--device", "cpu" if small else "cuda"]
    data = ["--dataset", "synthetic" if small else "cifar100"]
    size = ["--epochs", "1", "--train-images", "512"] if small else ["--epochs", "30"]

    def seeds(number: int) -> list[str]:
        return ["--seeds", str(1 if small else number)]

    def many(name: str, *options: str) -> tuple[str, list[str]]:
        output = ["--output", str(folder / f"{name}.json")]
        return name, ["benchmarks.many_runs", *seeds(10), *size, *device, *data, *output, *options]

    def study(name: str, *options: str) -> tuple[str, list[str]]:
        return name, ["pipeline", "ablate", *size, *device, *data, *options]

    speed = ["--quick"] if small else ["--rounds", "3"]
    speed += [*device, *data, "--output", str(folder)]
    return {
        "tests": [("tests", ["pytest", "--noconftest", "tests/training/test_gpu.py"])],
        "speed": [("speed", ["benchmarks.speed", *speed])],
        "many": [many(f"many_{jobs}", "--jobs", str(jobs)) for jobs in JOBS],
        "precision": [many("many_fp32", "--precision", "fp32")],
        "ablate": [
            study(f"ablate_{share}", "--gpu-share", share, *seeds(10))
            for share in ("1", "0.5", "0.25")
        ],
        "study": [study("study", "--variants", ALL_VARIANTS, "--gpu-share", "0.25", *seeds(20))],
        "rates": [
            study("rates", "--lr", "0.0003,0.001,0.003,0.01", "--gpu-share", "0.25", *seeds(5))
        ],
    }


def main() -> None:
    """Run the commands of the steps named, or of all."""
    parser = argparse.ArgumentParser(description="Measure on a GPU all that needs one.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("step", nargs="*")
    parser.add_argument("--small", action="store_true", help="on a CPU, within minutes")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "origin.json").write_text(json.dumps(origin(), indent=2) + "\n")
    known = steps(folder, options.small)
    if unknown := set(options.step) - known.keys():
        parser.error(f"there is no step {', '.join(unknown)}; there are {', '.join(known)}")
    failed = []
    for step in options.step or known:
        for name, command in known[step]:
            started = time.perf_counter()
            status = _run(folder, name, command)
            seconds = time.perf_counter() - started
            print(f"{name}: {seconds:.1f} s, status {status}", flush=True)
            if status:
                failed.append(name)
        if step == "many":
            found = {_accuracies(path) for path in folder.glob("many_[0-9].json")}
            print(f"the runs of many at once learned {len(found)} different results", flush=True)
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)


def _accuracies(path: Path) -> str:
    return str(json.loads(path.read_text())["val_accuracy"])


def _run(folder: Path, name: str, command: list[str]) -> int:
    """Run a command; keep what it prints and, of a study, the store and the report."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.getenv('PYTHONPATH', '')}"}
    with TemporaryDirectory() as store, (folder / f"{name}.txt").open("w") as output:
        where = ROOT if command[0] == "pytest" else store
        status = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=where,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ).returncode
        # Not the models and checkpoints, which are large.
        for database in Path(store).glob("mlflow.db"):
            shutil.copy(database, folder / f"{name}.db")
        for report in Path(store).glob("mlruns/*/*/artifacts/report.md"):
            shutil.copytree(report.parent, folder / name, dirs_exist_ok=True)
    return status


if __name__ == "__main__":
    main()
