"""Print what the functions return."""

from typing import TYPE_CHECKING

from pipeline.errors import percent, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.publish import Published
    from pipeline.reproduction.reproduce import Reproduced
    from pipeline.runs.evaluation_run import Evaluated
    from pipeline.runs.record import RunRecord


def trained(run: "RunRecord") -> None:
    """A run: what it has reached, and where its model is. Raises what the registry has refused."""
    from pipeline.store.interface import where_to_look

    last, registered = run.history[-1], run.registered
    print(
        f"{run.config.run_name} on {run.identity.dataset}: validation accuracy"
        f" {percent(last.val_accuracy)}, loss {last.val_loss:.3f}, {run.seconds:.0f} s"
    )
    if registered:
        print(f"run {run.run_id}, registered as {registered.uri}")
        for alias in registered.aliases:
            print(f"  also models:/{registered.name}@{alias}")
        for note in registered.notes:
            print(f"  {note}")
    else:
        print(f"run {run.run_id}, not registered; its model is {run.model_uri}")
    print(where_to_look(run.experiment_id, run.run_id))
    if run.refusal:
        raise run.refusal


def studied(done: "Published | list[str]") -> None:
    """A report's answer and place, or what a study would train."""
    print("\n".join(done) if isinstance(done, list) else done)


def reproduced(done: "Sequence[Reproduced]") -> int:
    """Nothing more: each comparison is told when it is made. Returns the exit status."""
    return int(not all(one.is_identical for one in done))


def evaluated(done: "Evaluated") -> None:
    """An evaluation's metrics, and the most frequent confusions."""
    from pipeline.store.interface import where_to_look

    print(f"{done.model} on the validation images of {done.dataset}")
    for metric, value in done.metrics.items():
        shown = f"{value:.3f}" if metric == "loss" else percent(value)
        print(f"  {metric:20} {shown:>7}")
    print("most frequent confusions" if len(done.confusions) else "no confusions")
    for row in done.confusions.head(5).to_dict("records"):
        print(f"  {row['class']} taken for {row['taken_for']}: {plural(row['images'], 'image')}")
    print(where_to_look(done.experiment_id, done.run_id))
