"""Whether a stopped or failed run may be continued, and with which settings."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow.entities import Run

from pipeline.ablation.inputs import Inputs
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.runs.identity import BITS, Identity, shortened
from pipeline.runs.provenance import changed_inputs
from pipeline.runs.queries import check_ours
from pipeline.runs.record import NO_SCHEDULE, RunRecord
from pipeline.runs.results import IncompleteRunError, read_results
from pipeline.store import liveness
from pipeline.store.lookup import get_run
from pipeline.store.tags import kind_of

log = logging.getLogger(__name__)
# They say where something is, not what it is, which the identity does.
PLACES = ("ablation", "data_dir", "device")


def to_continue(run: Run) -> RunRecord:
    """Read a run that may be continued.

    Raises InputError if it is not a training run or is still running.
    """
    if kind_of(run) != "train":
        raise InputError(
            f"run {run.info.run_id} is not a training run; only those can be continued"
        )
    check_ended(run)
    return check_ours(run)


def configuration(record: RunRecord, given: Mapping[str, Any]) -> Config:
    """Return the configuration to continue a run with, if the settings `given` allow that.

    Raises InputError for settings that differ from the run's. More epochs are allowed, and another
    `data_dir` or `device`.
    """
    name, before = record.run_id, record.config
    changed = {
        setting: value
        for setting, value in given.items()
        if setting not in PLACES and value != getattr(before, setting)
    }
    if changed.get("epochs", 0) > before.epochs:
        if reason := why_no_more_epochs(record):
            raise InputError(f"run {name} {reason}; it can't be continued beyond that")
        del changed["epochs"]
    if changed:
        differences = ", ".join(f"{k} {getattr(before, k)}, not {v}" for k, v in changed.items())
        raise InputError(f"run {name} has {differences}; it continues only with the same settings")
    return replace(before, **given)


def why_no_more_epochs(record: RunRecord) -> str:
    """Why a run can't have more epochs, whatever is as it was; empty if it can."""
    if record.has_read_test_split:
        return "has read its test split, which happens once, at the end"
    if record.schedule != NO_SCHEDULE:
        return f"has a learning-rate schedule over {record.identity.epochs} epochs"
    return ""


def is_complete(record: RunRecord, config: Config) -> bool:
    """Whether the run is finished, its files are there, and `config` asks for no more epochs."""
    if record.status != "FINISHED" or config.epochs != record.identity.epochs:
        return False
    try:
        return bool(read_results(record, whole=True))
    except IncompleteRunError as error:
        log.warning(f"run {record.run_id} is finished, but trained again: {error}")
        return False


def check_ended(run: Run) -> None:
    """Raise InputError if another process is still working on the run."""
    if run.info.status == "RUNNING" and liveness.is_alive(run):
        raise InputError(f"run {run.info.run_id} is still running, as {liveness.describe(run)}")


def check(record: RunRecord, now: Identity, inputs: Inputs) -> None:
    """Raise InputError unless the run would end as it would have without the interruption."""
    check_ended(get_run(record.run_id))  # a study read it a while ago
    here = now.only(BITS)
    for name, before in record.identity.only(BITS).items():
        if before != here[name]:
            at = f" (commit {record.commit or 'unknown'})" if name == "code_digest" else ""
            raise InputError(
                f"run {record.run_id} began with {name} {shortened(before)}{at}, here it is"
                f" {shortened(here[name])}; it continues only with the same"
            )
    if changed := changed_inputs(record, record.identity.variant, inputs):
        raise InputError(
            f"run {record.run_id} can't be continued: {changed}; it continues only with the same"
        )
