"""Which cells of a study need not be trained again, and which can be continued."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from mlflow.entities import Run

from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import NAMES_TAG
from pipeline.errors import InputError
from pipeline.report.publish import REPORTED
from pipeline.runs import provenance, resume
from pipeline.runs.queries import find_runs, given_run, set_parent, studies_named
from pipeline.runs.run_result import (
    IncompleteRunError,
    RunResult,
    config_of,
    differences,
    has_settings,
    read_result,
)
from pipeline.store.initialization import unwritable_folder
from pipeline.store.interface import link
from pipeline.store.lookup import find_run
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import PARENT_TAG, say_continued, tags_of
from pipeline.study.earlier.cells import cell_key, cell_of, changed_since, choose_start
from pipeline.study.earlier.studies import AXES, grid_of, recipe_of
from pipeline.study.grid import Grid

Conditions = Mapping[str, str]  # what runs must match, by tag


class Found(NamedTuple):
    """A run of a cell that needs no training, or not from the start, and the result if it ended.

    continued: it belongs to the study, or to one that the study continues. Without a result, and
    not continued, it has fewer epochs, and a new run goes on from its state.
    """

    run: Run
    result: RunResult | None
    continued: bool

    @property
    def is_start(self) -> bool:
        """Whether a new run goes on from it."""
        return not (self.result or self.continued)


def epochs_before(found: Found | None) -> int:
    """How many epochs a cell's new run takes over from the run that it goes on from."""
    return config_of(found.run).epochs if found and found.is_start else 0


def find_cells(
    experiment: str,
    grid: Grid,
    cells: Sequence[Config],
    conditions: Conditions,
    reuse: str,
    study_id: str = "",
) -> tuple[dict[Config, Found], dict[Config, str]]:
    """Find the cells that are finished in the experiment, or that go on from a run there.

    Finished with the same code and inputs (`reuse="same"`) or any; others always with the same:
    runs that such a study has left, and finished ones of fewer epochs (`choose_start`).
    Also returns, for other cells that have been trained, what has changed since. Changes nothing.
    `study_id` is that of the study's run, if it has begun.
    """
    if reuse == "none":
        return {}, {}
    wanted, found = {cell_key(config): config for config in cells}, dict[Config, Found]()
    searched = {n: text for n, text in conditions.items() if n not in ("images", NAMES_TAG)}
    outdated = dict[Config, str]()
    study_of = cache(find_run)  # a request for each study, not for each of its runs

    def search(*statuses: str) -> list[Run]:
        runs = find_runs(experiment, searched, *statuses)
        return [one for one in runs if provenance.images_of(one) in (None, conditions["images"])]

    def is_continued(run: Run) -> bool:
        parent_id = run.data.tags.get(PARENT_TAG)
        return parent_id is not None and _is_continued(study_of(parent_id), grid, study_id)

    known_changes: dict[tuple[str | None, ...], str] = {}  # runs of one study recorded the same

    def changes(run: Run, config: Config) -> str:
        names = ("code_digest", "torch", provenance.INPUTS_TAG, NAMES_TAG)
        key = (config.variant, *map(tags_of(run).get, names))
        if key not in known_changes:
            known_changes[key] = changed_since(run, config, conditions[NAMES_TAG])
        return known_changes[key]

    def is_outdated(run: Run, config: Config) -> bool:
        if changed := changes(run, config):
            outdated.setdefault(config, changed)
        return bool(changed)

    ablation = load_ablation(cells[0].ablation)
    incomplete: dict[Config, str] = {}
    shorter = defaultdict[Config, list[Run]](list)
    for run in search():
        cell = cell_of(run)
        config = wanted.get(replace(cell, epochs=max(cell.epochs, cells[0].epochs)))
        if config is None or config in found:
            continue
        if not has_settings(run.data.tags, ablation.values(config.variant)):
            continue
        if cell.epochs < config.epochs:
            shorter[config].append(run)
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
    for run in search("FAILED", "KILLED"):
        config = wanted.get(cell_of(run))
        known = run.data.params  # else it was stopped before it began
        if not (known and config and config not in found and is_continued(run)):
            continue
        if folder := unwritable_folder(run):  # as that of another user
            outdated.setdefault(config, f"{folder} can't be written")
        elif not is_outdated(run, config):
            found[config] = Found(run, None, continued=True)
    for config in [one for one in shorter if one not in found]:
        start, reason = choose_start(config, shorter[config], changes)
        if start:
            found[config] = Found(start, None, continued=False)
        else:
            outdated.setdefault(config, reason)
    return found, {config: why for config, why in outdated.items() if config not in found}


def reusable_cells(
    parent: Run, grid: Grid, cells: Sequence[Config], conditions: Conditions, reuse: str
) -> tuple[dict[Config, RunResult], dict[Config, Found], dict[Config, str]]:
    """Return the cells that are already finished, those to go on with, and why others are not.

    Runs of a study that this one continues become this study's children.
    """
    ids = parent.info.experiment_id, parent.info.run_id
    found, outdated = find_cells(ids[0], grid, cells, conditions, reuse, ids[1])
    finished = {cell: one.result for cell, one in found.items() if one.result}
    before = set()  # the studies that this one continues
    for cell, one in found.items():
        if one.continued and one.run.data.tags[PARENT_TAG] != ids[1]:
            before.add(one.run.data.tags[PARENT_TAG])
            set_parent(one.run, parent)
            if result := finished.get(cell):
                finished[cell] = result._replace(tags={**result.tags, PARENT_TAG: ids[1]})
    for stopped in filter(None, map(find_run, before)):
        in_store(say_continued)(stopped, f"[{parent.info.run_name}]({link(*ids)})")
    begun = {cell: one for cell, one in found.items() if not one.result}
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
    wanted = {cell_key(config) for config in cells}
    runs = find_runs(None, {"data_digest": data_digest})
    return {
        run.data.tags[REPORTED]
        for run in runs
        if REPORTED in run.data.tags and cell_of(run) in wanted
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
    name = tags_of(given).get("study")
    before = {"name": name, "margin": 0.0, **recipe_of(given), **grid_of(given)}
    now = {"name": identity["study"], **json.loads(identity["recipe"])}
    now |= json.loads(identity["grid"])
    if before != now:
        raise InputError(
            f"study {given.info.run_id} has {differences(before, now)}; it continues only with the"
            " same"
        )


def check_same_recipe(name: str, recipe: Mapping[str, object]) -> None:
    """Raise InputError if study `name` has another recipe; `auto` is not a name."""
    for run in [] if name == "auto" else studies_named(name):
        before = recipe_of(run)
        if before and before != recipe:
            raise InputError(
                f"a study named {name!r} exists with {differences(before, recipe)}; give this one"
                " another name"
            )


def _is_continued(maker: Run | None, grid: Grid, study_id: str) -> bool:
    """Whether the study that made a run is this one, or is continued by it.

    It is continued if deleted, or if it was stopped or failed and `grid` has all its cells.
    """
    if maker is None:
        return True
    if maker.info.run_id == study_id:
        return True
    old, new = grid_of(maker), grid._asdict()
    contained = bool(old) and all(set(old[axis]) <= set(new[axis]) for axis in AXES)
    return maker.info.status in ("FAILED", "KILLED") and contained
