"""Use a model: evaluate it, classify pictures."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.api import options, use_options
from pipeline.api.environment import set_variables
from pipeline.config import AUTO, check_at_least, text_of, texts_of
from pipeline.imports import importing

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.models.prediction import Prediction
    from pipeline.runs.evaluation_run import Evaluated


def evaluate(
    model: use_options.Model,
    *,
    dataset: use_options.ModelDataset = AUTO,
    data_dir: options.DataDir = options.DEFAULT.data_dir,
    ablation: use_options.OwnAblation = AUTO,
) -> "Evaluated":
    """Evaluate a model on its data set's validation split, as a new MLflow run.

    Returns the run, with `metrics`, and tables of classes and confusions.

    Raises InputError if there is no such model, or if the data are not what it takes.
    """
    model = text_of("model", model)
    set_variables()
    with importing():
        from pipeline.runs.evaluation_run import evaluate_run
        from pipeline.store.initialization import check_experiment, check_store

    check_store()
    check_experiment()
    return evaluate_run(model, dataset, text_of("data_dir", data_dir), options.absolute(ablation))


def predict(
    model: use_options.Model,
    images: use_options.Images,
    *,
    top: use_options.Top = 5,
    recursive: use_options.Recursive = False,
) -> "pd.DataFrame":
    """Classify pictures of any kind and size.

    Returns a row for each: `file`, `class`, `probability`, `class_2` and so on; the `label` that
    its folder names, and the `error` if it can't be read.

    Raises InputError if there is no such model, or no picture.
    """
    predictions = predictions_of(model, images, top, recursive)
    from pipeline.models.prediction import as_frame

    return as_frame(predictions)


def predictions_of(
    model: str, images: "list[str] | str | Path", top: int, recursive: bool
) -> "list[Prediction]":
    """The same, as records."""
    check_at_least("top", top, 1)
    model = text_of("model", model)
    patterns = texts_of("images", images)
    set_variables()
    project_run = os.environ.get("MLFLOW_RUN_ID")
    with importing():
        from pipeline.models import prediction
        from pipeline.models.loading import load_model
        from pipeline.models.pictures import find_pictures
        from pipeline.runs.lifecycle import name_project_run
        from pipeline.store.initialization import check_store
        from pipeline.upstream import typed_in

    pictures = find_pictures(patterns, typed_in(), recursive)
    check_store()
    if project_run:
        name_project_run(project_run, f"predict-{model.removeprefix('models:/')}")
    return list(prediction.predict(load_model(model), pictures, top))
