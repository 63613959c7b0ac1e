"""What a run says of how it was made, what it measured, and what is different here."""

from typing import NamedTuple, TypeAlias

import mlflow
from mlflow.entities import Run

from pipeline.ablation.inputs import version
from pipeline.errors import InputError
from pipeline.machine import describe_machine
from pipeline.runs import resume
from pipeline.runs.provenance import read_inputs
from pipeline.runs.queries import check_ours
from pipeline.runs.record import RunRecord
from pipeline.runs.software import versions
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import kind_of
from pipeline.training.history import TIMES

LOGGED_ONCE = "val_accuracy"  # in each epoch
# What to do if a repetition has another value of an `Identity` than the run.
ADVICE = {
    "data_digest": "give the folder of the right data by --data-dir",
    "code_digest": "its ablation's code, or what that imports, is not what it was",
    "device": "repeat it on a machine that has it",
    "precision": "repeat it on a machine that has it",
    "threads": "unset what limits the threads here",
}
# By metric and epoch, with all bits (`float.hex`); several values if one was logged again.
Values: TypeAlias = "dict[tuple[str, int], set[str]]"


class Measured(NamedTuple):
    """A run, and what it has measured.

    epochs: how many it completed. differences: what is not as it was then, such as `torch 2.14.1
    instead of 2.13.0`.
    """

    run: RunRecord
    values: Values
    epochs: int
    differences: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the run is finished."""
        return self.run.status == "FINISHED"


def read_measured(run: Run) -> Measured:
    """Read what a training run says. Raises InputError if that is not enough to repeat it."""
    run_id = run.info.run_id
    if kind_of(run) != "train":
        raise InputError(f"run {run_id} is neither a training run nor a study")
    record = check_ours(run)
    resume.check_ended(run)
    values = read_values(mlflow.MlflowClient(), run)
    most = max((epoch for name, epoch in values if name == LOGGED_ONCE), default=0)
    epochs = min(most, record.identity.epochs)
    if not epochs:
        raise InputError(f"run {run_id} has no complete epoch to compare with")
    if record.status == "FINISHED":  # with fewer epochs, some were deleted
        epochs = record.identity.epochs
    if not record.commit:
        raise InputError(
            f"run {run_id} does not name a commit; only runs of a git checkout can be repeated"
        )
    if record.git_dirty == "true":
        raise InputError(
            f"the code of run {run_id} had changes that are in no commit; only runs of committed"
            " code can be repeated"
        )
    # What the interface shows is a copy of the last values.
    for (name, epoch), found in values.items():
        if epoch == epochs:
            found.add(record.metrics[name].hex())
    return Measured(record, values, epochs, _differences(record))


@in_store
def read_values(client: mlflow.MlflowClient, run: Run) -> Values:
    """Every value that a run has logged for each metric and epoch, except times."""
    values: Values = {}
    for name in run.data.metrics:
        if not name.startswith("system/") and name not in TIMES:
            for metric in client.get_metric_history(run.info.run_id, name):
                values.setdefault((name, metric.step), set()).add(metric.value.hex())
    return values


def _differences(record: RunRecord) -> tuple[str, ...]:
    now = {**versions(), "machine": describe_machine()}
    then = {"torch": record.identity.torch, "numpy": record.numpy, "machine": record.machine}
    found = [
        f"{name} {value} instead of {then[name]}"
        for name, value in now.items()
        if then[name] != value
    ]
    found += [
        f"{name} {version(name)} instead of {before}"
        for name, before in read_inputs(record, record.identity.variant).packages.items()
        if name not in now and version(name) != before
    ]
    return tuple(found)
