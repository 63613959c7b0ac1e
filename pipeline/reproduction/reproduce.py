"""Repeat a run from its record, and record what comes of it as a run."""

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import pandas as pd
import torch
from mlflow.entities import Metric, Run

from pipeline.errors import InputError, MachineError, plural, shortlist
from pipeline.reproduction.code import ablation_of, checkout_of
from pipeline.reproduction.comparison import ValueComparison, compare_values, same_states
from pipeline.reproduction.record import Measured, Values, read_measured
from pipeline.reproduction.repetition import repeat
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import is_readable
from pipeline.store import uploads
from pipeline.store.artifacts import as_csv, read_artifact
from pipeline.store.liveness import mark_dead_runs
from pipeline.store.lookup import get_run
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import kind_of

log = logging.getLogger(__name__)
TABLE = "reproduction.csv"
RESULTS = "results.csv"  # of a study


def records_of(reference: str, epochs: int | None) -> list[Measured]:
    """Read the record of a run, or of one run of each variant of a study.

    Raises InputError if `reference` is not a run's id, the beginning of one or a name, if one of
    the runs can't be repeated, or has fewer than `epochs`.
    """
    mark_dead_runs()
    run = get_run(reference, lambda run: is_readable(run) or kind_of(run) == "study")
    runs = map(get_run, _of_study(run)) if kind_of(run) == "study" else [run]
    records = [read_measured(one) for one in runs]
    for record in records:
        if epochs and epochs > record.epochs:
            raise InputError(
                f"epochs is {epochs}; run {record.run.run_id} has {record.epochs} to compare"
            )
    return records


def _of_study(study: Run) -> Sequence[str]:
    content = read_artifact(study.info.artifact_uri, RESULTS)
    if content is None:
        raise InputError(
            f"study {study.info.run_id} has no {RESULTS} in {study.info.artifact_uri}: it did not"
            " finish, or its files are gone; repeat its command, or name one of its runs"
        )
    table = pd.read_csv(io.BytesIO(content))
    return list(table.groupby("variant", sort=False)["run_id"].first())


def describe(record: Measured) -> Iterator[str]:
    """Say what a run was made with, and what is different here."""
    one = record.run.identity
    yield (
        f"{record.run.config.run_name} (run {record.run.run_id}):"
        f" {plural(record.epochs, 'epoch')} of {one.dataset} (digest {one.data_digest[:8]}) in"
        f" {one.precision} on {one.device}, threads: {one.threads}"
    )
    yield f"different here: {shortlist(record.differences) or 'nothing that was recorded'}"


class Reproduced(NamedTuple):
    """A repetition: the comparison, and the run that records it. words: what came of it."""

    comparison: ValueComparison
    run_id: str
    experiment_id: str
    words: str

    @property
    def is_identical(self) -> bool:
        """Whether nothing differs."""
        return self.comparison.is_identical


def reproduce(record: Measured, epochs: int | None, data_dir: str | None) -> Reproduced:
    """Train a run again, the first `epochs` or all, and compare.

    Raises InputError if it can't be repeated; nothing is recorded then.
    """
    count = epochs or record.epochs
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with checkout_of(record.run, folder) as code:
            log.info(f"repeated by the code of commit {record.run.commit[:10]} in {code}")
            ablation = ablation_of(record.run, folder)
            try:
                repeated, checkpoint = repeat(record, code, ablation, data_dir, count, folder)
            except (InputError, MachineError) as error:
                source = record.run.config.ablation
                if ablation == source:
                    raise
                raise type(error)(
                    f"{error}; this was the run's copy of its ablation, since {source} is gone or"
                    " has changed: if it needs files beside it, put it back there with them"
                ) from None
        same_weights = _same_weights(record, checkpoint)
    if not record.is_whole:  # some metrics are logged only at the end
        names = {name for name, _ in record.values}
        repeated = {key: found for key, found in repeated.items() if key[0] in names}
    comparison = compare_values(record.values, repeated, count, same_weights)
    run = _record(record, repeated, comparison, count)
    words = comparison.describe(record.differences)
    return Reproduced(comparison, run.info.run_id, str(run.info.experiment_id), words)


def _same_weights(record: Measured, checkpoint: bytes | None) -> bool | None:
    if checkpoint is None or not record.is_whole:
        return None
    before = read_artifact(record.run.artifact_uri, "checkpoint.pt")
    if before is None:
        log.info("not compared: the weights, since the run's checkpoint.pt is gone")
        return None
    try:
        states = [torch.load(io.BytesIO(one), weights_only=True) for one in (before, checkpoint)]
    except Exception:  # of any kind: the recorded file is no longer what torch wrote
        return False
    return same_states(*(state["state_dict"] for state in states))


def _record(record: Measured, values: Values, comparison: ValueComparison, epochs: int) -> Run:
    """Record the repetition as a run of the same experiment, and link the two."""
    run_id, verdict = record.run.run_id, "identical" if comparison.is_identical else "differs"
    settings = {"reproduced_run": run_id, "compared_epochs": epochs}
    tags = {"kind": "reproduce", "reproduced_run": run_id, "reproduction": verdict}
    name = f"reproduce-{record.run.config.run_name}"
    with track(name, settings, tags, experiment_id=record.run.experiment_id) as run:
        _log_values(run, values, epochs)
        uploads.log_files({TABLE: as_csv(comparison.table)})
    set_tag = in_store(mlflow.MlflowClient().set_tag)
    set_tag(run_id, "reproduction", verdict)
    set_tag(run_id, "reproduction_run", run.info.run_id)
    return run


@in_store
def _log_values(run: Run, values: Values, epochs: int) -> None:
    """Log what was measured, for the interface to compare with the first run."""
    metrics = [
        Metric(name, float.fromhex(value), run.info.start_time, epoch)
        for (name, epoch), found in values.items()
        for value in found
        if epoch <= epochs
    ]
    client = mlflow.MlflowClient()
    for start in range(0, len(metrics), 1000):  # MLflow's limit
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
