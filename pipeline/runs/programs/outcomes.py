"""What a program has logged, read from its run."""

from collections.abc import Sequence

import mlflow
from mlflow.entities import Run

from pipeline.errors import InputError
from pipeline.outcome import Outcome, mean_of
from pipeline.runs.histories import measured
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import ADOPTED

# With early stopping, XGBoost and LightGBM log the best value again, after the last round.
EARLY_STOPPING = ("best_iteration", "stopped_iteration")


@in_store
def outcome_values(run: Run, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The value of each outcome that a run, or the one that it has adopted, has logged.

    NaN and infinity say that the run has diverged. Raises InputError if it can't be known which of
    several values counts.
    """
    places = [run.info.run_id, *filter(None, [run.data.tags.get(ADOPTED)])]
    client, found = mlflow.MlflowClient(), {}
    for outcome in outcomes:
        for run_id in places:
            history = client.get_metric_history(run_id, outcome.metric)
            if not history:
                continue
            one = measured(history, outcome)
            if one.value is not None:
                found[outcome.metric] = one.value
                break
            if one.length == 0 or outcome.value == "last" or mean_of(outcome.value):
                raise InputError(f"it {one.problem}")
    return found


def early_stopping(run: Run) -> tuple[str, ...]:
    """The metrics which show that a run has stopped early."""
    return tuple(name for name in EARLY_STOPPING if name in run.data.metrics)
