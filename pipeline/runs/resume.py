"""Whether a stopped or failed run may be continued, and with which settings."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from mlflow.entities import Run

from pipeline.ablation.inputs import Inputs
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.runs import provenance
from pipeline.runs.queries import check_ours
from pipeline.runs.run_result import (
    NO_SCHEDULE,
    IncompleteRunError,
    config_of,
    read_result,
    shortened,
)
from pipeline.store import liveness
from pipeline.store.lookup import get_run
from pipeline.store.tags import tags_of

# They say where something is, not what it is; the tags data_digest and device do.
PLACES = ("ablation", "data_dir", "device")


def configuration(run: Run, given: Mapping[str, Any]) -> Config:
    """Return the configuration to continue a run with, if the settings `given` allow that.

    Raises InputError if the run is not a training run or is still running, and for settings that
    differ from the run's. More epochs are allowed, and another `data_dir` or `device`.
    """
    name = run.info.run_id
    if run.data.tags.get("kind") != "train":
        raise InputError(f"run {name} is not a training run; only those can be continued")
    check_ours(run)
    if liveness.PROCESS not in run.data.tags:
        raise InputError(f"run {name} was made by an earlier version, which kept no state")
    if not run.data.params:
        raise InputError(f"run {name} was stopped before it had begun; start it again")
    check_ended(run)
    before = config_of(run)
    changed = {
        setting: value
        for setting, value in given.items()
        if setting not in PLACES and value != getattr(before, setting)
    }
    if changed.get("epochs", 0) > before.epochs:
        if "test_loss" in run.data.metrics:
            raise InputError(f"run {name} has read its test split, which happens once, at the end")
        if tags_of(run).get("schedule", NO_SCHEDULE) != NO_SCHEDULE:
            raise InputError(
                f"run {name} has a learning-rate schedule over {before.epochs} epochs; it can't be"
                " continued beyond them"
            )
        del changed["epochs"]
    if changed:
        differences = ", ".join(f"{k} {getattr(before, k)}, not {v}" for k, v in changed.items())
        raise InputError(f"run {name} has {differences}; it continues only with the same settings")
    return replace(before, **given)


def is_complete(run: Run, config: Config) -> bool:
    """Whether the run is finished, its files are there, and `config` asks for no more epochs."""
    if run.info.status != "FINISHED" or config.epochs != config_of(run).epochs:
        return False
    try:
        return bool(read_result(run, whole=True))
    except IncompleteRunError as error:
        print(f"run {run.info.run_id} is finished, but trained again: {error}", file=sys.stderr)
        return False


def check_ended(run: Run) -> None:
    """Raise InputError if another process is still working on the run."""
    if run.info.status == "RUNNING" and liveness.is_alive(run):
        raise InputError(f"run {run.info.run_id} is still running, as {liveness.describe(run)}")


def check(
    run: Run, config: Config, data: ImageDataset, device: torch.device, inputs: Inputs
) -> None:
    """Raise InputError unless the run would end as it would have without the interruption."""
    check_ended(get_run(run.info.run_id))  # a study read it a while ago
    now = {
        **data.identity,
        "device": device.type,
        "code_digest": provenance.code_digest(config.ablation),
        "torch": torch.__version__,
    }
    recorded = tags_of(run)
    commit = recorded.get("mlflow.source.git.commit", "unknown")
    if images := provenance.images_of(run):
        recorded["images"] = images
    for name, value in now.items():
        before = recorded.get(name, value)  # earlier versions had fewer
        if before != value:
            where = f" (commit {commit})" if name == "code_digest" else ""
            raise InputError(
                f"run {run.info.run_id} began with {name} {shortened(before)}{where}, here it is"
                f" {shortened(value)}; it continues only with the same"
            )
    if changed := provenance.changed_inputs(run, config.variant, inputs):
        raise InputError(
            f"run {run.info.run_id} can't be continued: {changed}; it continues only with the same"
        )
