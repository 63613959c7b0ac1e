"""What a run says of how it was made, what it measured, and what is different here."""

from typing import NamedTuple, TypeAlias

import mlflow
from mlflow.entities import Run

from pipeline.ablation.inputs import version
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.runs import resume
from pipeline.runs.provenance import read_inputs, versions
from pipeline.runs.queries import check_ours
from pipeline.runs.run_result import config_of
from pipeline.store.artifacts import read_artifact
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import tags_of

COMMIT = "mlflow.source.git.commit"
EPOCH = "val_accuracy"  # logged once in each epoch
# Tags that say what decides the numbers; the repetition must have the same. With what to do.
DECISIVE = {
    "data_digest": "give the folder of the right data by --data-dir",
    "code_digest": "its ablation's code, or what that imports, is not what it was",
    "device": "repeat it on a machine that has it",
    "precision": "repeat it on a machine that has it",
    "threads": "unset what limits the threads here",
}
# Metrics that depend on what else the machine does.
TIMES = ("epoch_seconds", "images_per_second")

# By metric and epoch, with all bits (`float.hex`); several values if one was logged again.
Values: TypeAlias = "dict[tuple[str, int], set[str]]"


class Record(NamedTuple):
    """A run, and what it says.

    epochs: how many it completed. differences: what is not as it was then, such as `torch 2.14.1
    instead of 2.13.0`.
    """

    run: Run
    config: Config
    values: Values
    epochs: int
    differences: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """What the run's tags say."""
        return tags_of(self.run)

    @property
    def is_whole(self) -> bool:
        """Whether the run is finished."""
        return bool(self.run.info.status == "FINISHED")


def read_record(run: Run) -> Record:
    """Read what a training run says. Raises InputError if that is not enough to repeat it."""
    run_id, tags = run.info.run_id, tags_of(run)
    if tags.get("kind") != "train":
        raise InputError(f"run {run_id} is neither a training run nor a study")
    check_ours(run)
    resume.check_ended(run)
    values = read_values(mlflow.MlflowClient(), run)
    config = config_of(run)
    epochs = min(max((epoch for name, epoch in values if name == EPOCH), default=0), config.epochs)
    if not epochs:
        raise InputError(f"run {run_id} has no complete epoch to compare with")
    if run.info.status == "FINISHED":  # with fewer epochs, some were deleted
        epochs = config.epochs
    for name in DECISIVE.keys() - tags.keys() - {"code_digest"}:  # which the first versions lack
        raise InputError(f"run {run_id} does not say its {name}, so it can't be repeated")
    if COMMIT not in tags:
        raise InputError(
            f"run {run_id} does not name a commit; only runs of a git checkout can be repeated"
        )
    if tags.get("git_dirty") == "true":
        raise InputError(
            f"the code of run {run_id} had changes that are in no commit; only runs of committed"
            " code can be repeated"
        )
    # What the interface shows is a copy of the last values.
    for (name, epoch), found in values.items():
        if epoch == epochs:
            found.add(run.data.metrics[name].hex())
    return Record(run, config, values, epochs, _differences(run))


@in_store
def read_values(client: mlflow.MlflowClient, run: Run) -> Values:
    """Every value that a run has logged for each metric and epoch, except times."""
    values: Values = {}
    for name in run.data.metrics:
        if not name.startswith("system/") and name not in TIMES:
            for metric in client.get_metric_history(run.info.run_id, name):
                values.setdefault((name, metric.step), set()).add(metric.value.hex())
    return values


def _differences(run: Run) -> tuple[str, ...]:
    listed = (read_artifact(run, "environment.txt") or b"").decode().splitlines()
    then = dict(line.split("==", 1) for line in listed if "==" in line) | tags_of(run)
    found = [
        f"{name} {value} instead of {then[name]}" if name in then else f"{name} was not recorded"
        for name, value in versions().items()
        if then.get(name) != value
    ]
    if recorded := read_inputs(run, run.data.tags.get("variant", "")):
        found += [
            f"{name} {version(name)} instead of {before}"
            for name, before in recorded.packages.items()
            if name not in versions() and version(name) != before
        ]
    return tuple(found)
