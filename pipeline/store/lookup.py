"""Find a run by what a user types: its id, the beginning of that, or its name."""

import re
import time
from collections.abc import Callable

import mlflow
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError, shortlist
from pipeline.store.address import shown_uri
from pipeline.store.outages.failures import is_outage
from pipeline.store.outages.waiting import in_store

SHORT_ID = 8  # characters that are shown of an id; any number that is unique can be typed
MAX_SHOWN = 3  # runs in a message
NEWEST = 100  # runs among which those are looked for
MAX_RUNS = 10_000  # maximum read from a store
AGES = (("d", 86_400), ("h", 3600), ("min", 60))

Filter = Callable[[Run], bool]


def is_any(_run: Run) -> bool:
    """Whether a run is wanted, if any is."""
    return True


@in_store
def find_run(run_id: str) -> Run | None:
    """Return a run, also a deleted one; None if there is none of that whole id."""
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if is_outage(error):
            raise
        return None


@in_store
def match_run(reference: str, is_wanted: Filter = is_any) -> Run | None:
    """Return the run whose id is or begins with `reference`, or whose name it is; None if none.

    If it is one of several, the one that is wanted; a whole id always names its run. Raises
    InputError, with what there is to choose from, if several are wanted.
    """
    run = find_run(reference)
    if run and run.info.lifecycle_stage != "deleted":
        return run
    conditions = [f"attributes.run_name = {name}" for name in quoted(reference)]
    if re.fullmatch("[0-9a-f]+", reference):
        conditions.append(f"attributes.run_id LIKE '{reference}%'")
    found = {run.info.run_id: run for one in conditions for run in search(one)}
    wanted = [run for run in found.values() if is_wanted(run)]
    if len(wanted) > 1:
        raise InputError(
            f"{reference!r} stands for {len(wanted)} runs: {_described(wanted, reference)}; give"
            " the id of one, or as much of it as is unique"
        )
    # One that is not wanted is returned too: the caller knows what is wrong with it.
    return wanted[0] if wanted else next(iter(found.values())) if len(found) == 1 else None


def get_run(reference: str, is_wanted: Filter = is_any) -> Run:
    """Return the run that `match_run` finds. Raises InputError if there is none, or several."""
    run = match_run(reference, is_wanted)
    if run is None:
        raise not_found(reference, f"run in {shown_uri()}", is_wanted)
    return run


@in_store
def not_found(reference: str, what: str, is_wanted: Filter = is_any) -> InputError:
    """Say that there is no such run, and which are the newest that are wanted."""
    newest = [run for run in search("", most=NEWEST) if is_wanted(run)]
    hint = f"the newest are: {_described(newest[:MAX_SHOWN])}" if newest else "there is none yet"
    return InputError(f"{reference!r} is not the id of a {what}, its beginning or its name; {hint}")


@in_store
def search(condition: str, experiment_id: str | None = None, most: int = MAX_RUNS) -> list[Run]:
    """Find the runs of an experiment, or of all, that meet MLflow's condition, newest first."""
    return list(
        mlflow.search_runs(
            [experiment_id] if experiment_id else None,
            search_all_experiments=experiment_id is None,
            filter_string=condition,
            max_results=most,
            output_format="list",
        )
    )


def quoted(text: str) -> list[str]:
    """A text as a string of MLflow's filters; none if it holds both quotes: there is no escape."""
    return [f"{quote}{text}{quote}" for quote in "'\"" if quote not in text][:1]


def age(run: Run) -> str:
    """How long ago a run began, such as `3 h ago`."""
    seconds = time.time() - run.info.start_time / 1000
    for unit, length in AGES:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _described(runs: list[Run], reference: str = "") -> str:
    """List runs for a message, with more of their ids than what several begin with."""
    is_start = all(run.info.run_id.startswith(reference) for run in runs)
    length = max(SHORT_ID, len(reference) + 4 if is_start else 0)
    shown = [
        f"{run.info.run_id[:length]} ({run.info.run_name}, {age(run)}, in"
        f" {mlflow.get_experiment(run.info.experiment_id).name})"
        for run in runs[:MAX_SHOWN]
    ]
    return shortlist([*shown, *runs[MAX_SHOWN:]], MAX_SHOWN)


def outputs_of(run: Run) -> list[LoggedModelOutput]:
    """The models that a run has logged, the newest first."""
    return sorted(run.outputs.model_outputs if run.outputs else [], key=lambda one: -one.step)


def datasets_of(run: Run) -> dict[str, str]:
    """MLflow's digests of the data sets that a run has logged, by name.

    Such a digest sees neither booleans nor dates, nor the rows beyond its sample: different ones
    show different data, equal ones show little.
    """
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {one.dataset.name: one.dataset.digest for one in inputs}
