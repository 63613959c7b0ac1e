"""The commands that use a model: evaluate it, classify pictures, serve it."""

import os
import sys

from pipeline.cli import options, use_options
from pipeline.config import AUTO, check_at_least
from pipeline.errors import InputError, percent, plural, printable
from pipeline.imports import importing

TABLE = "-"  # predictions on the terminal


def evaluate(
    model: use_options.Model,
    dataset: use_options.ModelDataset = AUTO,
    data_dir: options.DataDir = options.DEFAULT.data_dir,
    ablation: use_options.OwnAblation = AUTO,
) -> None:
    """Evaluate a model on its data set's validation split, as a new MLflow run."""
    with importing():
        from pipeline.runs.evaluation_run import evaluate_run
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.store.interface import where_to_look

    check_store()
    check_experiment()
    run, name, evaluation = evaluate_run(model, dataset, data_dir, options.absolute(ablation))
    print(f"{model} on the validation images of {name}")
    for metric, value in evaluation.metrics.items():
        shown = f"{value:.3f}" if metric == "loss" else percent(value)
        print(f"  {metric:20} {shown:>7}")
    print("most frequent confusions" if len(evaluation.confusions) else "no confusions")
    for row in evaluation.confusions.head(5).to_dict("records"):
        print(f"  {row['class']} taken for {row['taken_for']}: {plural(row['images'], 'image')}")
    print(where_to_look(run.info.experiment_id, run.info.run_id))


def predict(
    model: use_options.Model,
    images: use_options.Images,
    top: use_options.Top = 5,
    output: use_options.Output = TABLE,
    recursive: use_options.Recursive = False,
) -> int:
    """Classify pictures of any kind and size; exit status 1 if some can't be read."""
    check_at_least("top", top, 1)
    project_run = os.environ.get("MLFLOW_RUN_ID")
    with importing():
        from pipeline.models import prediction
        from pipeline.models.loading import load_model
        from pipeline.models.pictures import find_pictures
        from pipeline.runs.lifecycle import name_project_run
        from pipeline.store.initialization import check_store
        from pipeline.store.interface import where_to_look
        from pipeline.store.lookup import get_run
        from pipeline.upstream import typed_in

    if output != TABLE:
        prediction.check_output(output, typed_in())
    pictures = find_pictures(images, typed_in(), recursive)
    check_store()
    if project_run:
        name_project_run(project_run, f"predict-{model.removeprefix('models:/')}")
    predictions = list(prediction.predict(load_model(model), pictures, top))
    unread = [one for one in predictions if one.error]
    if output != TABLE:
        prediction.write(predictions, typed_in() / output)
        print(f"{output}: {len(predictions) - len(unread)} of {len(predictions)} classified")
    elif len(unread) < len(predictions):
        print(prediction.as_table(predictions))
    accuracy, labelled = prediction.accuracy(predictions)
    if labelled:
        of = f"of {plural(labelled, 'picture')} in folders named after a class"
        print(f"accuracy {percent(accuracy)}, {of}")
    for one in unread:
        print(f"not read: {printable(one.file)}: {one.error}", file=sys.stderr)
    if project_run:
        print(where_to_look(get_run(project_run).info.experiment_id, project_run))
    return 1 if unread else 0


def serve(
    model: use_options.Model,
    host: use_options.Host = "127.0.0.1",
    port: use_options.Port = 8000,
    follow: use_options.Follow = False,
    allowed_hosts: use_options.AllowedHosts = "",
) -> None:
    """Serve a model over HTTP, with a page to try it, until SIGTERM or Ctrl-C."""
    if not 0 <= port < 2**16:
        raise InputError(f"port is {port}; it must be from 0 to {2**16 - 1}")
    with importing():
        from pipeline.serving.server import serve
        from pipeline.store.initialization import check_store

    check_store()
    serve(model, host, port, follow, allowed_hosts)
