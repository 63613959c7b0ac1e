"""The commands on runs that have ended: compare them, repeat them."""

from pipeline.cli import options
from pipeline.config import AUTO, check_at_least
from pipeline.imports import importing


def compare(
    runs: options.RunIds = None,
    experiment: options.Experiment = None,
    ablation: options.OwnAblation = AUTO,
) -> None:
    """Write a study's report on finished runs, such as three that were started separately."""
    with importing():
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.compare import compare_runs

    check_store()
    experiment = experiment or ("" if runs else check_experiment())
    compare_runs(runs or [], experiment, options.absolute(ablation))


def reproduce(
    run_id: options.RunId,
    epochs: options.FirstEpochs = None,
    data_dir: options.OtherDataDir = None,
) -> int:
    """Train a run again from its record and compare every metric; exit status 1 if one differs.

    Of a study, one run of each variant.
    """
    if epochs is not None:
        check_at_least("epochs", epochs, 1)
    with importing():
        from pipeline.reproduction.reproduce import describe, records_of, reproduce
        from pipeline.store.initialization import check_experiment_of, check_store
        from pipeline.store.interface import where_to_look

    check_store()
    status = 0
    for record in records_of(run_id, epochs):
        check_experiment_of(record.run)  # which takes the repetition
        print("\n".join(describe(record)), flush=True)
        run, comparison = reproduce(record, epochs, data_dir)
        print(comparison.describe(record.differences))
        print(where_to_look(run.info.experiment_id, run.info.run_id), flush=True)
        status = max(status, int(not comparison.is_identical))
    return status
