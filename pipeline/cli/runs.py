"""The commands on runs that are finished: compare them."""

from pipeline import interruption
from pipeline.cli import options
from pipeline.config import AUTO


def compare(
    runs: options.RunIds = None,
    experiment: options.Experiment = None,
    ablation: options.OwnAblation = AUTO,
) -> None:
    """Write a study's report on finished runs, such as three that were started separately."""
    with interruption.deferred():
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.compare import compare_runs

    check_store()
    experiment = experiment or ("" if runs else check_experiment())
    compare_runs(runs or [], experiment, options.absolute(ablation))
