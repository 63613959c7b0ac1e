"""Continue a run that was stopped, or that failed, where it was."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from mlflow.entities import Run

from pipeline import checkpoint, finished, liveness, outbox
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.training import TrainingState

# They say where something is, not what it is; data_digest and the tag device say that.
PLACES = ("data_dir", "device")


def configuration(run: Run, given: Mapping[str, Any]) -> Config:
    """Return the configuration with which a run goes on, if it may go on with what is given.

    Raises InputError for a run that is no training, or is still running, and for settings that
    differ from the run's. More epochs may be asked for; data and device may be elsewhere.
    """
    name = run.info.run_id
    if run.data.tags.get("kind") != "train":
        raise InputError(f"run {name} is no training run; only those can be continued")
    if liveness.PROCESS not in run.data.tags:
        raise InputError(f"run {name} is of an earlier version, which kept no state to continue")
    if not run.data.params:
        raise InputError(f"run {name} was stopped before it had begun; start it anew")
    check_ended(run)
    before = finished.config_of(run)
    changed = {
        setting: value
        for setting, value in given.items()
        if setting not in PLACES and value != getattr(before, setting)
    }
    if changed.get("epochs", 0) > before.epochs:
        if "test_loss" in run.data.metrics:
            raise InputError(f"run {name} has read its test split, which is done once, at the end")
        del changed["epochs"]
    if changed:
        differences = ", ".join(f"{k} {getattr(before, k)}, not {v}" for k, v in changed.items())
        raise InputError(f"run {name} has {differences}; it goes on only with the same settings")
    return replace(before, **given)


def check_ended(run: Run) -> None:
    """Raise InputError if another process is at work on the run."""
    if run.info.status == "RUNNING" and liveness.is_alive(run):
        raise InputError(f"run {run.info.run_id} is still running, as {liveness.describe(run)}")


def check(run: Run, data: ImageDataset, device: torch.device, code_digest: str) -> None:
    """Raise InputError unless the run would go on to the result that it would have had."""
    check_ended(finished.get_run(run.info.run_id))  # a study has known it for a while
    now = {
        "data_digest": data.digest,
        "device": device.type,
        "code_digest": code_digest,
        "torch": torch.__version__,
    }
    commit = run.data.tags.get("mlflow.source.git.commit", "unknown")
    for name, value in now.items():
        before = run.data.tags[name]
        if before != value:
            where = f" (commit {commit})" if name == "code_digest" else ""
            raise InputError(
                f"run {run.info.run_id} began with {name} {before[:16]}{where}, here it is"
                f" {value[:16]}; it goes on only with the same"
            )


def state_of(run: Run, fingerprint: str) -> TrainingState | None:
    """Return the newest state of a run: the store's, or the one that is kept here for it."""
    contents = [outbox.load_state(run.info.run_id)]
    kept = checkpoint.kept_file(run.info.run_id)
    if kept.exists():
        contents.append(kept.read_bytes())
    states = [checkpoint.unpack(content, fingerprint) for content in contents if content]
    whole = [state for state in states if state]
    if len(whole) < len(states):
        print(f"the state of run {run.info.run_id} is damaged and not used", file=sys.stderr)
    return max(whole, key=lambda state: len(state.history), default=None)
