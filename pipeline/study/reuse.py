"""Which cells of a study need not be trained again, and which can be continued."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from mlflow.entities import Run

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.report.publish import REPORTED
from pipeline.runs import provenance, resume
from pipeline.runs.queries import (
    PARENT_TAG,
    find_runs,
    given_run,
    parent_of,
    set_parent,
    studies_named,
)
from pipeline.runs.run_result import RunResult, config_of, differences, read_result

Conditions = Mapping[str, str]  # what runs must match, by tag


def reusable_cells(
    parent: Run, cells: Sequence[Config], conditions: Conditions, reuse: str
) -> tuple[dict[Config, RunResult], dict[Config, Run]]:
    """Find the cells that are already finished, and those that can be continued.

    Finished with the same code (`reuse="same"`) or any; continued always with the same.
    """
    if reuse == "none":
        return {}, {}
    same_code = {
        **conditions,
        "code_digest": provenance.code_digest(),
        "torch": torch.__version__,
    }
    finished = _finished_cells(parent, same_code if reuse == "same" else conditions, cells)
    return finished, _begun_cells(parent, same_code, cells)


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
        if REPORTED in run.data.tags and _cell(config_of(run)) in wanted
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
    before, now = (
        {"name": tags["study"], "margin": 0.0}
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
        before = json.loads(run.data.tags["recipe"])
        if before != recipe:
            raise InputError(
                f"a study named {name!r} exists with {differences(before, recipe)}; give this one"
                " another name"
            )


def _finished_cells(
    parent: Run, conditions: Conditions, cells: Sequence[Config]
) -> dict[Config, RunResult]:
    """Find the newest finished run, with its model, of each cell in the experiment.

    Runs of a study that this one continues become this study's children.
    """
    found: dict[Config, RunResult] = {}
    wanted = {_cell(config): config for config in cells}
    for run in find_runs(parent.info.experiment_id, conditions):
        config = wanted.get(_cell(config_of(run)))
        result = read_result(run) if config and config not in found else None
        if config and result and result.model_uri:
            found[config] = result._replace(reused=True)
            if _is_continued(run, parent):
                set_parent(run, parent)
    return found


def _begun_cells(parent: Run, conditions: Conditions, cells: Sequence[Config]) -> dict[Config, Run]:
    """Find the cells begun, but not finished, by a study that this one continues."""
    found: dict[Config, Run] = {}
    wanted = {_cell(config): config for config in cells}
    for run in find_runs(parent.info.experiment_id, conditions, "FAILED", "KILLED"):
        config = wanted.get(_cell(config_of(run)))
        known = run.data.params  # else it was stopped before it began
        if known and config and config not in found and _is_continued(run, parent):
            found[config] = run
            set_parent(run, parent)
    return found


def _cell(config: Config) -> Config:
    """What determines a run's numbers besides data, device and precision (see the tags)."""
    return replace(config, data_dir="auto", device="auto", precision="auto")


def _is_continued(run: Run, now: Run) -> bool:
    """Whether the study of `run` is `now`, or is continued by it.

    It is continued if deleted, or if it was stopped or failed and `now` has all its cells.
    """
    maker = parent_of(run)
    if maker is None:
        return PARENT_TAG in run.data.tags
    if maker.info.run_id == now.info.run_id:
        return True
    old, new = (json.loads(study.data.tags.get("grid", "{}")) for study in (maker, now))
    axes = ("variants", "seeds", "rates")
    contained = bool(old) and all(set(old[axis]) <= set(new[axis]) for axis in axes)
    return maker.info.status in ("FAILED", "KILLED") and contained
