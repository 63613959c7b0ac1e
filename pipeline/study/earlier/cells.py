"""Earlier runs: which cell each is of, what has changed since, and whether it can go on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from mlflow.entities import Run

from pipeline.ablation.loading import load_ablation
from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config
from pipeline.data.dataset import NAMES_TAG
from pipeline.errors import plural
from pipeline.runs import provenance
from pipeline.runs.run_result import NO_SCHEDULE, ablation_name, config_of
from pipeline.store.artifacts import has_file
from pipeline.store.buffer import STATE_FILE
from pipeline.store.tags import tags_of


def cell_key(config: Config) -> Config:
    """What determines a run's numbers besides data, device, precision and code (see the tags).

    An ablation is known by its name: its file may have moved.
    """
    name = load_ablation(config.ablation).name
    return replace(config, ablation=name, data_dir=AUTO, device=AUTO, precision=AUTO)


def cell_of(run: Run) -> Config:
    """The same, of a run."""
    name = ablation_name(tags_of(run))
    return replace(config_of(run), ablation=name, data_dir=AUTO, device=AUTO, precision=AUTO)


def changed_since(run: Run, config: Config, names_digest: str) -> str:
    """What decides the result of a run's cell and has changed since, in one line, or empty."""
    tags = tags_of(run)
    if tags.get(NAMES_TAG, names_digest) != names_digest:  # earlier versions had none
        return "the names of its classes have changed since"
    if tags.get("code_digest") != provenance.code_digest(config.ablation):
        return "the code has changed since"
    if tags.get("torch") != torch.__version__:
        return f"torch {torch.__version__} instead of {tags.get('torch', 'an unknown version')}"
    inputs = inputs_of(config.ablation, config.variant)
    return provenance.changed_inputs(run, config.variant, inputs)


def choose_start(
    config: Config, shorter: Sequence[Run], changed: Callable[[Run, Config], str]
) -> tuple[Run | None, str]:
    """Return the run with the most epochs from whose state the cell `config` can go on.

    If there is none, also returns why. A new run that starts from such a state ends as if it had
    been trained without a break, and the old one stays what it was.

    shorter: finished runs of the cell, with fewer epochs, newest first. changed: says in one line
    what has changed since a run; empty if nothing has.
    """
    reasons = []
    for run in sorted(shorter, key=lambda run: -config_of(run).epochs):
        reason = _why_not(run) or changed(run, config)
        if not reason and not has_file(run, STATE_FILE):
            reason = "kept no state (keep_state=yes would)"
        if not reason:
            return run, ""
        epochs = config_of(run).epochs
        reasons.append(f"trained for {plural(epochs, 'epoch')}, and {reason}")
    return None, reasons[0]


def _why_not(run: Run) -> str:
    """Why a run can't have more epochs, whatever is as it was; empty if it can."""
    if "test_loss" in run.data.metrics:
        return "has read its test split, which happens once, at the end"
    if tags_of(run).get("schedule", NO_SCHEDULE) != NO_SCHEDULE:
        return "its learning-rate schedule ended with them"
    return ""
