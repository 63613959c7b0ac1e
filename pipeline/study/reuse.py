"""Which cells of a study need not be trained again, and which can be continued."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from mlflow.entities import Run

from pipeline.ablation.loading import load_ablation
from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config
from pipeline.data.dataset import NAMES_TAG
from pipeline.errors import InputError
from pipeline.report.publish import REPORTED
from pipeline.runs import provenance, resume
from pipeline.runs.queries import (
    PARENT_TAG,
    find_runs,
    given_run,
    set_parent,
    studies_named,
)
from pipeline.runs.run_result import (
    IncompleteRunError,
    RunResult,
    ablation_name,
    config_of,
    differences,
    has_settings,
    read_result,
)
from pipeline.store.initialization import unwritable_folder
from pipeline.store.lookup import find_run
from pipeline.study.grid import Grid

AXES = ("variants", "seeds", "rates")
Conditions = Mapping[str, str]  # what runs must match, by tag


class Found(NamedTuple):
    """A run of a cell that needs no training, or not from the start, and the result if it ended."""

    run: Run
    result: RunResult | None
    continued: bool  # it belongs to the study, or to one that the study continues


def find_cells(
    experiment: str,
    grid: Grid,
    cells: Sequence[Config],
    conditions: Conditions,
    reuse: str,
    study_id: str = "",
) -> tuple[dict[Config, Found], dict[Config, str]]:
    """Find the cells that are finished in the experiment, or were stopped by such a study.

    Finished with the same code and inputs (`reuse="same"`) or any; continued always with the same.
    Also returns, for other cells that have been trained, what has changed since. Changes nothing.
    `study_id` is that of the study's run, if it has begun.
    """
    if reuse == "none":
        return {}, {}
    wanted, found = {_cell(config): config for config in cells}, dict[Config, Found]()
    searched = {name: value for name, value in conditions.items() if name != NAMES_TAG}
    outdated = dict[Config, str]()
    study_of = cache(find_run)  # a request for each study, not for each of its runs

    def is_continued(run: Run) -> bool:
        parent_id = run.data.tags.get(PARENT_TAG)
        return parent_id is not None and _is_continued(study_of(parent_id), grid, study_id)

    known_changes: dict[tuple[str | None, ...], str] = {}  # runs of one study recorded the same

    def is_outdated(run: Run, config: Config) -> bool:
        names = ("code_digest", "torch", provenance.INPUTS_TAG, NAMES_TAG)
        key = (config.variant, *map(run.data.tags.get, names))
        if key not in known_changes:
            known_changes[key] = _changed(run, config, conditions[NAMES_TAG])
        if changed := known_changes[key]:
            outdated.setdefault(config, changed)
        return bool(changed)

    ablation = load_ablation(cells[0].ablation)
    incomplete: dict[Config, str] = {}
    for run in find_runs(experiment, searched):
        config = wanted.get(_cell_of(run))
        if config is None or config in found:
            continue
        if not has_settings(run.data.tags, ablation.values(config.variant)):
            continue
        if reuse == "same" and is_outdated(run, config):
            continue
        try:
            # The study's own configuration: the run's says where the ablation's file was then.
            result = read_result(run, whole=True)._replace(config=config, reused=True)
            found[config] = Found(run, result, is_continued(run))
        except IncompleteRunError as error:
            incomplete.setdefault(config, f"{config.run_name} (run {run.info.run_id[:8]}): {error}")
    _say_incomplete([why for config, why in incomplete.items() if config not in found])
    for run in find_runs(experiment, searched, "FAILED", "KILLED"):
        config = wanted.get(_cell_of(run))
        known = run.data.params  # else it was stopped before it began
        if not (known and config and config not in found and is_continued(run)):
            continue
        if folder := unwritable_folder(run):  # as that of another user
            outdated.setdefault(config, f"{folder} can't be written")
        elif not is_outdated(run, config):
            found[config] = Found(run, None, continued=True)
    return found, {config: why for config, why in outdated.items() if config not in found}


def reusable_cells(
    parent: Run, grid: Grid, cells: Sequence[Config], conditions: Conditions, reuse: str
) -> tuple[dict[Config, RunResult], dict[Config, Run], dict[Config, str]]:
    """Return the cells that are already finished, those to continue, and why others are not.

    Runs of a study that this one continues become this study's children.
    """
    ids = parent.info.experiment_id, parent.info.run_id
    found, outdated = find_cells(ids[0], grid, cells, conditions, reuse, ids[1])
    for one in found.values():
        if one.continued and one.run.data.tags[PARENT_TAG] != ids[1]:
            set_parent(one.run, parent)
    finished = {cell: one.result for cell, one in found.items() if one.result}
    begun = {cell: one.run for cell, one in found.items() if not one.result}
    return finished, begun, outdated


def _say_incomplete(reasons: Sequence[str]) -> None:
    """Say which finished runs are trained again, and why."""
    if reasons:
        more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        print(f"finished, but trained again: {reasons[0]}{more}", file=sys.stderr)


def earlier_plans(cells: Sequence[Config], data_digest: str) -> set[str]:
    """The plans with which runs of these cells were reported, whether or not they are reused.

    The same cell trained again gives the same numbers, or nearly: the look at it counts, in
    whatever experiment it was.
    """
    wanted = {_cell(config) for config in cells}
    runs = find_runs(None, {"data_digest": data_digest})
    return {
        run.data.tags[REPORTED]
        for run in runs
        if REPORTED in run.data.tags and _cell_of(run) in wanted
    }


def given_study() -> Run | None:
    """Return the study that `mlflow run --run-id` names. Raises InputError for any other run."""
    run = given_run()
    if run and run.data.tags["kind"] != "study":
        raise InputError(f"run {run.info.run_id} is not a study; leave --run-id out to start one")
    if run:
        resume.check_ended(run)
    return run


def check_same_study(given: Run, identity: Mapping[str, str]) -> None:
    """Raise InputError if the study named by `mlflow run --run-id` is another one.

    identity: name, recipe and grid, as in the tags of a study.
    """
    default = {"margin": 0.0, "ablation": ablation_name({})}  # of earlier versions
    before, now = (
        {**default, "name": tags["study"]}
        | {**json.loads(tags["recipe"]), **json.loads(tags["grid"])}
        for tags in (given.data.tags, identity)
    )
    if before != now:
        raise InputError(
            f"study {given.info.run_id} has {differences(before, now)}; it continues only with the"
            " same"
        )


def check_same_recipe(name: str, recipe: Mapping[str, object]) -> None:
    """Raise InputError if study `name` has another recipe; `auto` is not a name."""
    for run in [] if name == "auto" else studies_named(name):
        before = {"ablation": ablation_name({}), **json.loads(run.data.tags["recipe"])}
        if before != recipe:
            raise InputError(
                f"a study named {name!r} exists with {differences(before, recipe)}; give this one"
                " another name"
            )


def _changed(run: Run, config: Config, names_digest: str) -> str:
    """What decides the result of a run's cell and has changed since, in one line."""
    tags = run.data.tags
    if tags.get(NAMES_TAG, names_digest) != names_digest:  # earlier versions had none
        return "the names of its classes have changed since"
    if tags.get("code_digest") != provenance.code_digest(config.ablation):
        return "the code has changed since"
    if tags.get("torch") != torch.__version__:
        return f"torch {torch.__version__} instead of {tags.get('torch', 'an unknown version')}"
    inputs = inputs_of(config.ablation, config.variant)
    return provenance.changed_inputs(run, config.variant, inputs)


def _cell(config: Config) -> Config:
    """What determines a run's numbers besides data, device, precision and code (see the tags).

    An ablation is known by its name: its file may have moved.
    """
    name = load_ablation(config.ablation).name
    return replace(config, ablation=name, data_dir=AUTO, device=AUTO, precision=AUTO)


def _cell_of(run: Run) -> Config:
    name = ablation_name(run.data.tags)
    return replace(config_of(run), ablation=name, data_dir=AUTO, device=AUTO, precision=AUTO)


def _is_continued(maker: Run | None, grid: Grid, study_id: str) -> bool:
    """Whether the study that made a run is this one, or is continued by it.

    It is continued if deleted, or if it was stopped or failed and `grid` has all its cells.
    """
    if maker is None:
        return True
    if maker.info.run_id == study_id:
        return True
    old, new = json.loads(maker.data.tags.get("grid", "{}")), grid._asdict()
    contained = bool(old) and all(set(old[axis]) <= set(new[axis]) for axis in AXES)
    return maker.info.status in ("FAILED", "KILLED") and contained
