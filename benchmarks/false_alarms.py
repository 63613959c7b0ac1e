"""How often `compare` on anybody's runs settles an effect that is none, through the whole command.

python -m benchmarks.false_alarms [--studies 300]

Each study is an experiment in a store of its own: two variants whose runs log the same kind of
noise, and which are looked at again and again while runs are added. A study raises a false alarm
if any of its looks settles an effect. Takes half an hour on two cores.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from scipy import stats

from pipeline import compare

LOOKS = (3, 5, 8, 13)  # pairs, or runs of each variant
PLANNED = 5
CHUNK, TASKS = 10, 3  # studies of a task, and tasks of a process
# How a study is looked at: what makes a pair, the standard deviation of the second variant's runs
# (that of the first is 1), and at how many pairs there was a plan.
WAYS = {
    "pairs": ("params.seed", 1.0, 0),
    "independent samples": ("none", 1.0, 0),
    "independent samples, 4 times the spread": ("none", 4.0, 0),
    "pairs, planned at 5, and looks after that": ("params.seed", 1.0, PLANNED),
}


def main() -> None:
    """Print how many studies raise a false alarm, for each way to look."""
    parser = argparse.ArgumentParser(description="Simulate false alarms of compare.")
    parser.add_argument("--studies", type=int, default=300)
    studies = parser.parse_args().studies
    # MLflow keeps what it has opened of each store, so a process is used for a few of them.
    # (ProcessPoolExecutor's max_tasks_per_child can wait for ever: python/cpython#115634.)
    with get_context("forkserver").Pool(maxtasksperchild=TASKS) as pool:
        for way in WAYS:
            alarms = sum(pool.map(partial(_has_alarm, way), range(studies), CHUNK))
            high = stats.binomtest(alarms, studies).proportion_ci(0.95, "wilson").high
            share = f"{alarms / studies:.1%} (95 % CI up to {high:.1%})"
            print(f"{way}: {alarms} of {studies} studies, {share}", flush=True)


def _has_alarm(way: str, number: int) -> bool:
    """Whether any look at a study without effect settles one."""
    pair, spread, planned = WAYS[way]
    random = np.random.default_rng([number, *map(ord, way)])
    looks = [look for look in LOOKS if look >= planned]
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        name = "study"
        experiment = mlflow.MlflowClient().create_experiment(name, Path(folder, "runs").as_uri())
        made = 0
        for look in looks:
            for seed in range(made, look):
                _log_pair(experiment, seed, random.normal, spread)
            made = look
            report = compare(
                experiment=name,
                outcome="score",
                by="params.model",
                pair=pair,
                planned=look if look == planned else None,
            )
            found = report.analysis.shown.findings
            if any(one.comparison.settled for one in found["score"]):
                return True
    return False


def _log_pair(
    experiment: str, seed: int, draw: Callable[[float, float], float], spread: float
) -> None:
    """Log a run of each variant; what a seed does to both alike cancels out."""
    client, shared = mlflow.MlflowClient(), draw(0, 1)
    for model, sd in (("a", 1.0), ("b", spread)):
        run = client.create_run(experiment).info.run_id
        score = Metric("score", shared + draw(0, sd), 0, 0)
        client.log_batch(run, [score], [Param("model", model), Param("seed", str(seed))])
        client.set_terminated(run)


if __name__ == "__main__":
    main()
