"""The commands that use a model: evaluate it."""

from pipeline import interruption
from pipeline.cli import options
from pipeline.config import AUTO


def evaluate(
    model: options.Model,
    dataset: options.ModelDataset = AUTO,
    data_dir: options.DataDir = options.DEFAULT.data_dir,
    ablation: options.OwnAblation = AUTO,
) -> None:
    """Evaluate a model on its data set's validation split, as a new MLflow run."""
    with interruption.deferred():
        from pipeline.runs.evaluation_run import evaluate_run
        from pipeline.store.address import where_to_look
        from pipeline.store.initialization import check_experiment, check_store

    check_store()
    check_experiment()
    run, name, evaluation = evaluate_run(model, dataset, data_dir, options.absolute(ablation))
    print(f"{model} on {name}'s validation split")
    for metric, value in evaluation.metrics.items():
        print(f"  {metric:20} {value:.4f}")
    print("most frequent confusions" if len(evaluation.confusions) else "no confusions")
    for row in evaluation.confusions.head(5).to_dict("records"):
        print(f"  {row['class']} taken for {row['taken_for']}: {row['images']} images")
    print(f"See the run: {where_to_look(run.info.run_id, run.info.experiment_id)}")
