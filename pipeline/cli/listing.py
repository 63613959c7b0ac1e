"""What there is: the runs and studies of a store, the newest or the best first."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import NamedTuple

import mlflow
from mlflow.entities import Run

from pipeline.errors import plural
from pipeline.runs.queries import experiment_id, is_finished_training
from pipeline.runs.run_result import config_of, recipe
from pipeline.store.liveness import PROCESS, is_alive
from pipeline.store.lookup import search
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import PARENT_TAG, tags_of

# The metric that is shown of each kind of run; a study's is computed from its runs'.
ACCURACY = {
    "train": "val_accuracy",
    "evaluate": "accuracy",
    "reproduce": "val_accuracy",
    "study": "",
    "comparison": "",
}
AXES = ("variants", "seeds", "rates")
STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}


class Listed(NamedTuple):
    """A run, or a study.

    name: the run's; in parentheses what it does not say of its variants. accuracy: from 0 to 1; of
    a study, the mean of its best variant; None if there is none yet. state: how it ended and why,
    with how many runs of a study are done.
    """

    run: Run
    name: str
    dataset: str
    accuracy: float | None
    state: str
    experiment: str


class Trained(NamedTuple):
    """A finished training run, of which a study may be made."""

    cell: tuple[str, int, float]  # variant, seed and learning rate
    accuracy: float
    code: str | None
    study: str | None  # by id


@in_store
def list_runs(experiment: str | None, best: bool = False) -> list[Listed]:
    """List what this project has recorded in an experiment, or in all, the newest first.

    Or the best first, by accuracy. Takes one search, and changes nothing.

    Raises InputError if there is no such experiment.
    """
    found = search("tags.kind != ''", experiment_id(experiment) if experiment else None)
    runs = [run for run in found if run.data.tags["kind"] in ACCURACY]
    names = {one.experiment_id: one.name for one in mlflow.search_experiments()}
    trained = _by_recipe(filter(is_finished_training, runs))
    listed = [_listed(run, names[run.info.experiment_id], trained) for run in runs]
    if best:
        listed.sort(key=lambda one: -1.0 if one.accuracy is None else one.accuracy, reverse=True)
    return listed


def _listed(run: Run, experiment: str, trained: Mapping[str, Sequence[Trained]]) -> Listed:
    known = {**run.data.params, **tags_of(run)}
    kind, name, reason = known["kind"], str(run.info.run_name), known.get("failure", "")
    accuracy = run.data.metrics.get(ACCURACY[kind])
    state = STATES.get(run.info.status, "running")
    if state == "running" and PROCESS in known and not is_alive(run):
        state = "stopped"  # by what could not say so
    if kind == "train":
        variant, seed = known.get("variant", "?"), known.get("seed", "?")
        if not name.startswith(f"{variant}-seed{seed}"):
            name = f"{name} ({variant}, seed {seed})"
    elif kind == "study" and "grid" in known:
        grid = json.loads(known["grid"])
        done = _runs_of(run, grid, trained)
        means = defaultdict(list)
        for (variant, _, lr), value in done.items():
            means[variant, lr].append(value)
        accuracy = max(map(fmean, means.values()), default=None)
        name = f"{name} ({','.join(grid['variants'])})"
        count = math.prod(len(grid[axis]) for axis in AXES)
        # With a margin, the grid says how many runs there may be at most.
        is_part = not grid.get("margin") and len(done) < count
        of_all = f"{len(done)} of {plural(count, 'run')}" if is_part else plural(len(done), "run")
        state += f", {of_all}"
    return Listed(
        run,
        name,
        known.get("dataset", ""),
        accuracy,
        f"{state}: {reason}" if reason else state,
        experiment,
    )


def _by_recipe(finished: Iterable[Run]) -> dict[str, list[Trained]]:
    """The finished runs by experiment and recipe, as a study records it."""
    trained = defaultdict(list)
    for run in finished:
        tags = tags_of(run)
        # What lacks a tag is of an earlier version, or not of this project.
        with suppress(KeyError, ValueError, ArithmeticError):
            config = config_of(run)
            cell = config.variant, config.seed, config.lr
            key = run.info.experiment_id + json.dumps(recipe(config, tags))
            values = run.data.metrics[ACCURACY["train"]], tags.get("code_digest")
            trained[key].append(Trained(cell, *values, tags.get(PARENT_TAG)))
    return trained


def _runs_of(
    study: Run, grid: Mapping[str, Sequence[object]], trained: Mapping[str, Sequence[Trained]]
) -> dict[tuple[str, int, float], float]:
    """The accuracies of a study's finished runs, its own and those that it may reuse."""
    run_id, tags = study.info.run_id, tags_of(study)
    is_any = study.data.params.get("reuse") == "any"
    return {
        one.cell: one.accuracy
        for one in trained.get(study.info.experiment_id + tags.get("recipe", ""), ())
        if is_any or one.study == run_id or one.code == tags.get("code_digest")
        if all(value in grid[axis] for value, axis in zip(one.cell, AXES, strict=True))
    }
