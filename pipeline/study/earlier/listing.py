"""What there is: the runs and studies of a store, the newest or the best first."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from pipeline.study.earlier.studies import AXES, grid_of, recipe_of

# The metric that is shown of each kind of run; a study's is computed from its runs'.
ACCURACY = {
    "train": "val_accuracy",
    "evaluate": "accuracy",
    "reproduce": "val_accuracy",
    "study": "",
    "comparison": "",
}
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
    ended: int  # in milliseconds


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
    elif kind == "study" and (grid := grid_of(run)):
        done = _runs_of(run, grid, trained)
        means = defaultdict(list)
        for (variant, _, lr), value in done.items():
            means[variant, lr].append(value)
        accuracy = max(map(fmean, means.values()), default=None)
        name = f"{name} ({','.join(map(str, grid['variants']))})"
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
    """The finished runs by experiment and recipe, the newest first."""
    trained = defaultdict(list)
    for run in finished:
        if (accuracy := run.data.metrics.get(ACCURACY["train"])) is not None:
            config, tags = config_of(run), tags_of(run)
            cell = config.variant, config.seed, config.lr
            made_by = tags.get("code_digest"), tags.get(PARENT_TAG)
            one = Trained(cell, accuracy, *made_by, run.info.end_time or 0)
            trained[_key(run, recipe(config, tags))].append(one)
    return trained


def _key(run: Run, its_recipe: Mapping[str, object]) -> str:
    return str(run.info.experiment_id) + json.dumps(its_recipe, sort_keys=True)


def _runs_of(
    study: Run, grid: Mapping[str, Sequence[object]], trained: Mapping[str, Sequence[Trained]]
) -> dict[tuple[str, int, float], float]:
    """The accuracies of a study's finished runs: its own, or those that it has reused."""
    run_id, code = study.info.run_id, tags_of(study).get("code_digest")
    reuse = study.data.params.get("reuse")
    ended = study.info.end_time or math.inf

    def is_reused(one: Trained) -> bool:
        return reuse != "none" and (reuse == "any" or one.code == code) and one.ended <= ended

    same = [
        one
        for one in trained.get(_key(study, recipe_of(study)), ())
        if all(value in grid[axis] for value, axis in zip(one.cell, AXES, strict=True))
    ]
    own = [one for one in same if one.study == run_id]
    # Of a cell's runs the last one counts: its own, else the newest.
    ordered = [*filter(is_reused, reversed(same)), *reversed(own)]
    return {one.cell: one.accuracy for one in ordered}
