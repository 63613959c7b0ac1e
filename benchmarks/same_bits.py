"""Show that this code trains the same networks as earlier commits, bit for bit.

python -m benchmarks.same_bits [COMMIT …]

Trains each variant of the tutorial, in each precision that the processor multiplies, with this code
and with that of each commit (by default ecec4b8), on the built-in data and, if it is found, on
CIFAR-100. Compares every metric except times, and every tensor of checkpoint.pt. Prints a line per
run; exit status 1 if anything differs. CIFAR-100 is looked for in $PIPELINE_DATA_DIR, or else in
the folder shared/data beside this project's.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
import torch
from mlflow.entities import ViewType

from benchmarks.figures import ROOT

BEFORE = "ecec4b8"  # the last one before configurations were resolved into values
VARIANTS = ("base", "bn", "dropout")
TIMES = ("epoch_seconds", "images_per_second")
SYSTEM = "system/"  # what MLflow measures of the machine
# The built-in data have every class equally often from the start, so any code takes the same images
# of them. Of CIFAR-100, ecec4b8 took the first ones, and later code takes its share of each class.
SYNTHETIC = ("--dataset", "synthetic", "--train-images", "2000", "--epochs", "2")
CIFAR100 = ("--dataset", "cifar100", "--epochs", "1")
SEED = ("--seed", "3")
MAX_SHOWN = 3  # differences per run
DATA_DIR = Path(os.environ.get("PIPELINE_DATA_DIR", ROOT.parent / "shared" / "data"))

# By name: a metric's number in hexadecimal, or a tensor's type, shape and bytes.
Values = dict[str, Any]


class Code(NamedTuple):
    """A version of the code, and the folder for what its runs leave."""

    name: str
    source: Path
    folder: Path

    def train(self, *options: str) -> Values:
        """Train by the code's own command; return what the run recorded."""
        store = f"sqlite:///{self.folder}/mlflow.db"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pipeline", "train", *options],
            cwd=self.folder,
            env=clean
            | {"PYTHONPATH": str(self.source), "MLFLOW_TRACKING_URI": store}
            | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.folder)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"error: {self.name} can't train {' '.join(options)}:\n{done.stderr}")
        return _newest_run(mlflow.MlflowClient(store, store))


def main() -> None:
    """Train with each code, compare."""
    parser = argparse.ArgumentParser(description="Compare this code's training with earlier ones.")
    parser.add_argument("commits", nargs="*", default=[BEFORE], metavar="COMMIT")
    commits = parser.parse_args().commits
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    features = torch.cpu.get_capabilities()
    precisions = ["fp32"]
    if features.get("avx512_bf16") or features.get("amx_bf16"):
        precisions += ["bf16"]
    else:
        print("not compared: bf16, which this processor does not multiply")
    data_sets = {"synthetic": SYNTHETIC}
    if (DATA_DIR / "cifar-100-python").exists():
        data_sets["cifar100"] = (*CIFAR100, "--data-dir", str(DATA_DIR))
    else:
        print(f"not compared: CIFAR-100, which is not in {DATA_DIR}")
    same = True
    with codes(commits) as (here, *earlier), ThreadPoolExecutor(os.cpu_count()) as pool:
        for data, precision, variant in product(data_sets, precisions, VARIANTS):
            trained = (*data_sets[data], *SEED, "--variant", variant, "--precision", precision)
            runs = [pool.submit(code.train, *trained) for code in (here, *earlier)]
            now, *before = [run.result() for run in runs]
            for code, values in zip(earlier, before, strict=True):
                differences = sorted(compare(values, now))
                verdict = _shown(differences) if differences else f"the same {_counted(now)}"
                print(f"{code.name}, {data}, {precision}, {variant}: {verdict}", flush=True)
                same = same and not differences
    sys.exit(0 if same else 1)


@contextmanager
def codes(commits: list[str]) -> Iterator[list[Code]]:
    """Return this checkout's code and that of each commit; delete them with their runs."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        found = [Code("this code", ROOT, folder / "here")]
        try:
            for commit in commits:
                source = folder / f"source-{commit.replace('/', '-')}"
                git("worktree", "add", "--quiet", "--detach", str(source), commit)
                found.append(Code(commit, source, folder / f"runs-{source.name}"))
            for code in found:
                code.folder.mkdir()
            yield found
        finally:
            for code in found[1:]:
                git("worktree", "remove", "--force", str(code.source))


def git(*arguments: str) -> None:
    """Run git in this project; end with its message if it fails."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: git {arguments[0]}: {done.stderr.strip()}")


def compare(before: Values, now: Values) -> Iterator[str]:
    """Name each value that differs, or that only one of the two has."""
    for name in before.keys() | now.keys():
        if name not in now or name not in before:
            yield f"{name} is only in the {'earlier' if name in before else 'later'}"
        elif before[name] != now[name]:
            yield name


def _shown(differences: list[str]) -> str:
    rest = len(differences) - MAX_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"differs: {', '.join(differences[:MAX_SHOWN])}{more}"


def _counted(values: Values) -> str:
    metrics = sum(isinstance(value, str) for value in values.values())
    return f"{metrics} values of metrics and {len(values) - metrics} tensors"


def _newest_run(client: mlflow.MlflowClient) -> Values:
    """Every metric of the newest run by epoch, except times, and every tensor it learned."""
    newest = ["attributes.start_time DESC"]
    (run,) = client.search_runs(["0"], "", ViewType.ACTIVE_ONLY, 1, newest)
    values: Values = {}
    for metric in run.data.metrics:
        if metric not in TIMES and not metric.startswith(SYSTEM):
            for one in client.get_metric_history(run.info.run_id, metric):
                values[f"{metric} of epoch {one.step}"] = one.value.hex()
    with TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, "checkpoint.pt", folder)
        state = torch.load(path, weights_only=True)["state_dict"]
    for name, tensor in state.items():
        values[name] = (tensor.dtype, tensor.shape, tensor.numpy().tobytes())
    return values


if __name__ == "__main__":
    main()
