"""One run of a program: created before it starts, joined by it, and ended with its true status."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import mlflow
from mlflow.entities import Run

from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import INPUTS_FILE, Inputs, digest_of
from pipeline.config import MAX_NAME
from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted, deferred
from pipeline.runs.programs.commands import command_of, folder_to_run_in, printable_command
from pipeline.runs.programs.environment import environment_of
from pipeline.runs.programs.inputs import program_inputs
from pipeline.runs.programs.outcomes import (
    early_stopping,
    outcome_values,
)
from pipeline.runs.programs.process import Ended, last_lines, reason_in, run_to_end
from pipeline.runs.programs.strays import (
    Strays,
    adopt,
    end_strays,
    find_strays,
    unlinked_note,
    why_missing,
)
from pipeline.store.artifacts import has_file
from pipeline.store.liveness import this_process
from pipeline.store.lookup import datasets_of, outputs_of
from pipeline.store.outages.failures import STORE_ERRORS, reason_of
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import EXIT_STATUS, MAX_CHARACTERS, forget_failure, say_failure

OUTPUT, OTHER_FOLDER = "output.txt", "program"  # of the run's artifacts
COMMAND = "pipeline.command"
MLFLOW_STATUS = "pipeline.mlflow_status"  # what MLflow had made of it
# As MLflow says that a program has chosen another experiment than its run's.
OTHER_EXPERIMENT = "active experiment ID does not match environment run ID"
LEAVE_EXPERIMENT = "it chooses an experiment, and the study has; leave out `mlflow.set_experiment`"
OTHER_STORE = "Run with id={} not found"
LEAVE_STORE = (
    "it looks for its run in another store than the study's; leave out `mlflow.set_tracking_uri`"
)


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """What came of a program's run.

    status: FINISHED, FAILED or KILLED, by how its process ended.
    values: of the outcomes, by metric; NaN or infinite if it has diverged.
    failure: why it does not count, in one line; empty if it does. notes: lines to be shown once.
    inputs: what its numbers depend on. datasets: digests of MLflow's data sets, by name.
    models: ids of those it has logged, the newest first. stopped_early: metrics that show it.
    adopted: the id of the run that has the outcomes instead.
    """

    run_id: str
    status: str
    values: Mapping[str, float]
    failure: str = ""
    notes: tuple[str, ...] = ()
    inputs: Inputs
    datasets: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    stopped_early: tuple[str, ...] = ()
    adopted: str = ""

    @property
    def diverged(self) -> list[str]:
        """The outcomes that are not finite."""
        return [name for name, value in self.values.items() if not math.isfinite(value)]


def run_program(
    ablation: Ablation,
    variant: str,
    seed: int,
    *,
    name: str,
    tags: Mapping[str, str],
    experiment_id: str,
    threads: int = 1,
) -> ProgramRun:
    """Run a variant's program once, as an MLflow run of that name and with those tags.

    A program that fails is no error: `ProgramRun.failure` says so. Raises InputError, before a run
    is created, if the program can't be found; MachineError if it can't be started; StoreError; and
    what interrupts it, after the program and its children have ended and the run is KILLED.
    """
    command_of(ablation, variant, seed, "")
    started = time.time()
    tags = {**tags, **this_process()}
    tags[COMMAND] = printable_command(ablation, variant, seed)[:MAX_CHARACTERS]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        output = Path(folder) / OUTPUT
        output.touch()
        run, end = None, partial(_end, name=name[:MAX_NAME], tags=tags, output=output)
        try:
            with deferred():  # what was created is known, and will be ended
                run = _create(experiment_id, name[:MAX_NAME], tags)
            command = command_of(ablation, variant, seed, run.info.run_id)
            environment = environment_of(run, threads)
            with output.open("wb") as file:
                ended = run_to_end(command, folder_to_run_in(ablation), environment, file)
            strays = find_strays(run)
            inputs = program_inputs(ablation, variant, started)
            result = _judge(ablation, run.info.run_id, ended, strays, inputs, output)
            own_tags = {EXIT_STATUS: str(ended.code), "inputs_digest": digest_of(inputs)}
            recorded = {variant: inputs.as_dict()}
            end(run.info.run_id, ended.status, result.failure, strays, own_tags, recorded)
        except BaseException as error:
            status = "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"
            # What has failed may be the store itself.
            with deferred(), suppress(*STORE_ERRORS, MachineError):
                if run:
                    end(run.info.run_id, status, reason_of(error), find_strays(run))
            raise
    return result


@in_store
def _create(experiment_id: str, name: str, tags: Mapping[str, str]) -> Run:
    return mlflow.MlflowClient().create_run(experiment_id, tags=dict(tags), run_name=name)


@in_store
def _current(run_id: str) -> Run:
    """A run as it is now; one that its program has deleted is restored."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run_id)
    return run


def _judge(
    ablation: Ablation, run_id: str, ended: Ended, strays: Strays, inputs: Inputs, output: Path
) -> ProgramRun:
    """Say what came of a program that has ended."""
    run, notes, counted = _current(run_id), list[str](), None
    values: dict[str, float] = {}
    failure = "" if ended.code == 0 else _why(ended, last_lines(output), run_id)
    if not failure:
        try:
            values, counted, failure = _read(ablation, run, strays, inputs)
        except InputError as error:
            failure = str(error)
    models = _models(run)
    if not failure:
        notes.append(unlinked_note(strays, counted, callable(ablation.program)))
        if len(models) > 1:
            notes.append(f"{len(models)} models are in one run; of two fits, the metrics mix")
        if run.info.lifecycle_stage == "deleted":
            notes.append("the program has deleted its run, which was restored")
    return ProgramRun(
        run_id=run_id,
        status=ended.status,
        values=values,
        failure=failure,
        notes=tuple(filter(None, notes)),
        inputs=inputs,
        datasets=datasets_of(run),
        models=models or (_models(counted) if counted else ()),
        stopped_early=early_stopping(counted or run),
        adopted=counted.info.run_id if counted else "",
    )


def _read(
    ablation: Ablation, run: Run, strays: Strays, inputs: Inputs
) -> tuple[dict[str, float], Run | None, str]:
    """The outcomes, the run that was adopted for them, and why some are missing."""
    values = outcome_values(run, ablation.outcomes)
    missing = [one for one in ablation.outcomes if one.metric not in values]
    counted = adopt(run, strays, missing) if missing and ablation.adopt else None
    if counted:
        values |= outcome_values(counted, missing)
        missing = [one for one in missing if one.metric not in values]
    if not missing:
        return values, counted, ""
    is_function = callable(ablation.program)
    return values, counted, why_missing(run, missing, strays, inputs.packages, is_function)


def _models(run: Run) -> tuple[str, ...]:
    return tuple(one.model_id for one in outputs_of(run))


def _why(ended: Ended, lines: Sequence[str], run_id: str) -> str:
    """Why a program has failed, in one line."""
    if any(OTHER_STORE.format(run_id) in line for line in lines):
        return f"{ended.words}: {LEAVE_STORE}"
    if any(OTHER_EXPERIMENT in line for line in lines):
        return f"{ended.words}: {LEAVE_EXPERIMENT}"
    reason = reason_in(lines)
    return f"{ended.words}: {reason}" if reason else f"{ended.words}, and printed nothing"


@in_store
def _end(
    run_id: str,
    status: str,
    failure: str,
    strays: Strays,
    own_tags: Mapping[str, str] = MappingProxyType({}),
    inputs: Mapping[str, object] = MappingProxyType({}),
    *,
    name: str,
    tags: Mapping[str, str],
    output: Path,
) -> None:
    """End a run as the study's, whatever its program has made of it."""
    client, run = mlflow.MlflowClient(), _current(run_id)
    if run.info.run_name != name:
        client.update_run(run_id, name=name)
    for key, value in {**tags, MLFLOW_STATUS: run.info.status, **own_tags}.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run_id, key, value)
    is_taken = has_file(run.info.artifact_uri, OUTPUT)  # by what the program has logged
    client.log_artifact(run_id, str(output), OTHER_FOLDER if is_taken else None)
    if inputs:
        client.log_dict(run_id, dict(inputs), INPUTS_FILE)
    if failure:
        say_failure(run_id, status, failure, to_continue=False, output=last_lines(output))
    else:
        forget_failure(run)  # that it was given up elsewhere, after a silence
    end_strays(strays, status)
    client.set_terminated(run_id, status)
