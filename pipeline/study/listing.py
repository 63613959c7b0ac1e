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
from pipeline.runs.queries import experiment_id, read_record
from pipeline.runs.record import ProgramRecord, RunRecord, StudyRecord, UnreadableRunError
from pipeline.store.liveness import is_alive
from pipeline.store.lookup import search
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND, kind_of, unpack

# The metric that is shown of each kind of run; a study's is computed from its runs'.
ACCURACY = {
    "train": "val_accuracy",
    "program": "",
    "evaluate": "accuracy",
    "reproduce": "val_accuracy",
    "study": "",
    "comparison": "",
}
STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}

Record = RunRecord | ProgramRecord | StudyRecord
Recipe = tuple[str, str]  # the experiment, and what is trained there


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


@in_store
def list_runs(experiment: str | None, best: bool = False) -> list[Listed]:
    """List what this project has recorded in an experiment, or in all, the newest first.

    Or the best first, by accuracy. Takes one search, and changes nothing. A run that can't be
    understood is listed with the reason.

    Raises InputError if there is no such experiment.
    """
    found = search(f"tags.{KIND} != ''", experiment_id(experiment) if experiment else None)
    runs = [run for run in found if kind_of(run) in ACCURACY]
    names = {one.experiment_id: one.name for one in mlflow.search_experiments()}
    records = {run.info.run_id: _read(run) for run in runs}
    trained = _by_recipe(records.values())
    programs = [one for one in records.values() if isinstance(one, ProgramRecord)]
    listed = [
        _listed(run, records[run.info.run_id], names[run.info.experiment_id], trained, programs)
        for run in runs
    ]
    if best:
        listed.sort(key=lambda one: -1.0 if one.accuracy is None else one.accuracy, reverse=True)
    return listed


def _read(run: Run) -> Record | str | None:
    """A run's record, or why it can't be understood; None if its kind has none."""
    try:
        match kind_of(run):
            case "train":
                return read_record(RunRecord, run)
            case "program":
                return read_record(ProgramRecord, run)
            case "study":
                return read_record(StudyRecord, run)
    except UnreadableRunError as error:
        return str(error)
    return None


def _listed(
    run: Run,
    record: Record | str | None,
    experiment: str,
    trained: Mapping[Recipe, Sequence[RunRecord]],
    programs: Sequence[ProgramRecord],
) -> Listed:
    said, name = unpack(run), str(run.info.run_name)
    reason, accuracy = said.get("failure", ""), run.data.metrics.get(ACCURACY[kind_of(run)])
    state = STATES.get(run.info.status, "running")
    if state == "running" and not is_alive(run):
        state = "stopped"  # by what could not say so
    if isinstance(record, str):
        reason = f"can't be understood: {record}"
    elif isinstance(record, RunRecord):
        variant, seed = record.identity.variant, record.identity.seed
        if not name.startswith(f"{variant}-seed{seed}"):
            name = f"{name} ({variant}, seed {seed})"
    elif isinstance(record, StudyRecord):
        done = _runs_of(record, trained)
        means = defaultdict(list)
        for (variant, _, lr), value in done.items():
            means[variant, lr].append(value)
        accuracy = max(map(fmean, means.values()), default=None)
        plan = record.plan
        name = f"{name} ({','.join(plan.variants)})"
        count = len(plan.variants) * len(plan.seeds) * max(1, len(plan.rates))
        number = len(done) if plan.rates else _programs_of(record, programs)
        # With a margin, the plan says how many runs there may be at most.
        is_part = not plan.margin and number < count
        of_all = f"{number} of {plural(count, 'run')}" if is_part else plural(number, "run")
        state += f", {of_all}"
    shown = f"{state}: {reason}" if reason else state
    return Listed(run, name, said.get("dataset", ""), accuracy, shown, experiment)


def _by_recipe(records: Iterable[Record | str | None]) -> dict[Recipe, list[RunRecord]]:
    """The finished runs by experiment and recipe, the newest first."""
    trained = defaultdict(list)
    for record in records:
        if isinstance(record, RunRecord) and record.status == "FINISHED":
            trained[record.experiment_id, _key(record.identity.recipe)].append(record)
    return trained


def _key(recipe: Mapping[str, object]) -> str:
    return json.dumps(recipe, sort_keys=True)


def _programs_of(study: StudyRecord, programs: Iterable[ProgramRecord]) -> int:
    """How many cells of a study of a program are done: by its own runs, or by earlier ones."""
    ended, plan = study.ended or math.inf, study.plan
    done = {
        (one.variant, one.seed)
        for one in programs
        if one.status == "FINISHED"
        and not one.failure
        and (one.experiment_id, one.ablation) == (study.experiment_id, study.ablation)
        and (one.parent == study.run_id or (study.reuse != "none" and (one.ended or 0) <= ended))
    }
    return len({cell for cell in done if cell[0] in plan.variants and cell[1] in plan.seeds})


def _runs_of(
    study: StudyRecord, trained: Mapping[Recipe, Sequence[RunRecord]]
) -> dict[tuple[str, int, float], float]:
    """The accuracies of a study's finished runs: its own, or those that it has reused."""
    ended, plan = study.ended or math.inf, study.plan

    def is_reused(one: RunRecord) -> bool:
        same = study.reuse == "any" or one.identity.code_digest == study.code_digest
        return study.reuse != "none" and same and (one.ended or 0) <= ended

    same = [
        one
        for one in trained.get((study.experiment_id, _key(study.recipe)), ())
        if one.identity.variant in plan.variants
        and one.identity.seed in plan.seeds
        and one.identity.lr in plan.rates
    ]
    own = [one for one in same if one.parent == study.run_id]
    # Of a cell's runs the last one counts: its own, else the newest.
    ordered = [*filter(is_reused, reversed(same)), *reversed(own)]
    return {
        (one.identity.variant, one.identity.seed, one.identity.lr): accuracy
        for one in ordered
        if (accuracy := one.metrics.get(ACCURACY["train"])) is not None
    }
