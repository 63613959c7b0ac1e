"""Runs that a program has begun beside the one it was given, and what to change about it."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import mlflow
from mlflow.entities import Run

from pipeline.errors import plural, shortlist
from pipeline.outcome import Outcome
from pipeline.store.liveness import PROCESS
from pipeline.store.lookup import SHORT_ID, search
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import ADOPTED, BEGUN_BY, PARENT_TAG

USER = "mlflow.user"
WHOLE = "put `with mlflow.start_run():` around the whole program"
# Not from the variable, which `mlflow.start_run` takes out of the environment.
LIGHTNING = f"{WHOLE}, and give MLFlowLogger run_id=mlflow.active_run().info.run_id"
INSIDE = (
    "log from the process that calls `mlflow.start_run`: one that it starts begins a run of its own"
)
ACTIVE = "log to the run that is active when the function is called"
TRANSFORMERS = 'give TrainingArguments report_to="mlflow"'


class Strays(NamedTuple):
    """Runs other than the given one.

    begun: by its program, as their tags say. perhaps: that began meanwhile, of which nothing is
    known, such as those of a bare `MlflowClient`; other people's may be among them.
    """

    begun: list[Run]
    perhaps: list[Run]

    @property
    def unlinked(self) -> list[Run]:
        """Those that the program has begun and that are no children of others."""
        return [run for run in self.begun if PARENT_TAG not in run.data.tags]


@in_store
def find_strays(run: Run) -> Strays:
    """Find the runs, in any experiment, that a program has begun beside the run it was given."""
    begun = search(f"tags.`{BEGUN_BY}` = '{run.info.run_id}'")
    meanwhile = search(f"attributes.start_time >= {run.info.start_time}")
    # One that was begun by `mlflow.start_run` names its user, and would have our tag.
    known = {PROCESS, BEGUN_BY, USER, PARENT_TAG}
    perhaps = [one for one in meanwhile if not known & one.data.tags.keys()]
    return Strays(begun, [one for one in perhaps if one.info.run_id != run.info.run_id])


@in_store
def end_strays(strays: Strays, status: str) -> None:
    """End what a program, which has ended, has begun and left RUNNING."""
    for run in strays.begun:
        if run.info.status == "RUNNING":
            mlflow.MlflowClient().set_terminated(run.info.run_id, status)


@in_store
def adopt(run: Run, strays: Strays, missing: Sequence[Outcome]) -> Run | None:
    """Make the one run that has what is missing a child of the given one; None if it isn't one."""
    having = _having(strays.begun, missing)
    if len(having) != 1:
        return None
    client, (stray,) = mlflow.MlflowClient(), having
    if PARENT_TAG not in stray.data.tags:
        client.set_tag(stray.info.run_id, PARENT_TAG, run.info.run_id)
    client.set_tag(run.info.run_id, ADOPTED, stray.info.run_id)
    return stray


def why_missing(
    run: Run,
    missing: Sequence[Outcome],
    strays: Strays,
    packages: Collection[str],
    is_function: bool,
) -> str:
    """Say in one line that a program has not logged its outcomes, where they are, what to change.

    packages: those that the program imports, by name.
    """
    metrics = [one.metric for one in missing]
    quoted = " and ".join(f"`{name}`" for name in metrics)
    guess = _guess(run, missing)
    parts = [f"the program ended well but logged no {quoted}{_logged_instead(run, missing)}{guess}"]
    having = _having(strays.begun, missing)
    perhaps = [] if having else _having(strays.perhaps, missing)
    if having:
        has = "has" if len(having) == 1 else "have"
        parts.append(f"{_listed(having)}, which the program began, {has} it")
    elif perhaps:
        parts.append(f"{_listed(perhaps)}, which began meanwhile and may be the program's, has it")
    elif strays.unlinked:
        parts.append(f"it began {_listed(strays.unlinked)}, without it")
    # One that has logged to its run, and began no other, has joined it.
    has_joined = run.data.metrics and not (having or perhaps or strays.unlinked)
    if is_function and not guess:
        returned = ", ".join(f'"{name}": …' for name in metrics)
        parts.append(f"let the function return {{{returned}}}, or {ACTIVE}")
    elif not is_function and not has_joined:
        elsewhere = [*having, *perhaps]
        ended = run.info.end_time or 0  # by MLflow, which the program has joined it by
        is_inside = bool(elsewhere) and all(one.info.start_time < ended for one in elsewhere)
        advice = _advice(packages, bool(elsewhere), metrics[0])
        parts.append(INSIDE if is_inside and advice == WHOLE else advice)
    return "; ".join(parts)


def unlinked_note(strays: Strays, counted: Run | None, is_function: bool) -> str:
    """Say which runs a program has begun that don't count; empty if there are none."""
    adopted = counted.info.run_id if counted else ""
    others = [one for one in strays.unlinked if one.info.run_id != adopted]
    if not others:
        return ""
    way = ACTIVE if is_function else WHOLE
    return f"the program also began {_listed(others)}, which {_verb(others)} to no study: {way}"


def _verb(runs: Sequence[Run]) -> str:
    return "belongs" if len(runs) == 1 else "belong"


def _having(runs: Iterable[Run], missing: Sequence[Outcome]) -> list[Run]:
    return [run for run in runs if all(one.metric in run.data.metrics for one in missing)]


def _logged_instead(run: Run, missing: Sequence[Outcome]) -> str:
    logged = sorted(run.data.metrics)
    steps = [one for one in missing if one.metric in logged]
    if steps:
        return f" at step {steps[0].value}"
    if not logged:
        return " or any other metric"
    return f", only {shortlist(logged)}"


def _guess(run: Run, missing: Sequence[Outcome]) -> str:
    """The metric that is perhaps meant: `acc` by `Accuracy`."""
    logged = {name.lower(): name for name in sorted(run.data.metrics)}
    close = [m for one in missing for m in get_close_matches(one.metric.lower(), logged, 1, 0.5)]
    is_there = any(one.metric in run.data.metrics for one in missing)
    return f" (did you mean {logged[close[0]]}?)" if close and not is_there else ""


def _listed(runs: Sequence[Run]) -> str:
    """Runs by name, the beginning of the id, and experiment."""
    client = mlflow.MlflowClient()
    names = [
        f"{run.info.run_name} ({run.info.run_id[:SHORT_ID]}, in experiment"
        f" {client.get_experiment(run.info.experiment_id).name!r})"
        for run in runs[:3]
    ]
    listed = shortlist([*names, *runs[3:]], 3)
    return f"run {listed}" if len(runs) == 1 else f"{plural(len(runs), 'run')}: {listed}"


def _advice(packages: Collection[str], is_elsewhere: bool, metric: str) -> str:
    if {"lightning", "pytorch-lightning"} & set(packages):
        return LIGHTNING
    if "transformers" in packages and not is_elsewhere:
        return TRANSFORMERS
    is_logged = is_elsewhere or "mlflow" in packages
    return WHOLE if is_logged else f'log it by `mlflow.log_metric("{metric}", …)`, and {WHOLE}'
