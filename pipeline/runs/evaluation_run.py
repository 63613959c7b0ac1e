"""One tracked evaluation: measure a model on its data set's validation split."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
import numpy as np
from mlflow.entities import LoggedModelInput, Run

from pipeline.ablation.loading import MOVED, load_ablation, load_data
from pipeline.config import AUTO, Config, check_choice
from pipeline.data.dataset import size_of
from pipeline.errors import InputError
from pipeline.models.evaluation import Evaluation, evaluate
from pipeline.models.loading import LoadedModel, load_model
from pipeline.models.registry import tag_versions, versions_of
from pipeline.runs.lifecycle import track
from pipeline.runs.provenance import log_dataset
from pipeline.runs.queries import check_ours, given_run
from pipeline.store import uploads
from pipeline.store.artifacts import as_csv
from pipeline.store.lookup import find_run
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import kind_of
from pipeline.training.loop import VALIDATION_BATCH_SIZE


@dataclass(frozen=True, kw_only=True)
class Evaluated(Evaluation):
    """An evaluation, and the run that records it.

    model: as it was named. dataset: the name of that with the images.
    """

    run_id: str
    experiment_id: str
    model: str
    dataset: str


def evaluate_run(model: str, dataset: str, data_dir: str, ablation: str) -> Evaluated:
    """Evaluate the model named by a URI or run id, in a new MLflow run.

    `dataset` may be `auto`, the one the model was trained on, and so may the `ablation` that names
    it.

    Raises InputError if there is no such model, or if its images or classes differ.
    """
    from pipeline.runs.run_figures import as_png, confusion_figure  # slow to import

    if given_run():
        raise InputError("evaluate creates its own run; leave --run-id out")
    loaded = load_model(model)
    name = loaded.dataset if dataset == AUTO else dataset
    # From the store, not from the model's files: it names code that is to be run.
    source = find_run(loaded.run_id or "") if ablation == AUTO else None
    if source and kind_of(source) == "train":
        ablation = check_ours(source, "; name its ablation with --ablation").config.ablation
    found = load_ablation(ablation, MOVED if source else "")
    if name == "unknown":
        example = next(iter(found.datasets))
        raise InputError(f"{model} does not say what it was trained on; give dataset={example}")
    check_choice("dataset", name, found.datasets)
    data = load_data(Config(ablation, dataset=name, data_dir=data_dir), found)
    if (loaded.image_shape, loaded.num_classes) != (data.image_shape, data.num_classes):
        raise InputError(
            f"{model} takes images of {size_of(loaded.image_shape)}, {loaded.num_classes} classes;"
            f" {name} has {size_of(data.image_shape)}, {data.num_classes} classes"
        )
    for number, (own, other) in enumerate(zip(loaded.class_names, data.class_names, strict=False)):
        if own != other:
            raise InputError(
                f"{model} was trained on {loaded.dataset}, where class {number} is {own!r}; in"
                f" {name} it is {other!r} now"
            )
    settings = {"model": model, "ablation": ablation, "dataset": name, "data_dir": data_dir}
    tags = {"kind": "evaluate", "model_uri": loaded.uri, **data.tags}
    versions = versions_of(loaded.run_id) if loaded.run_id else []
    if versions:
        tags["model_version"] = ", ".join(f"{v.name}/{v.version}" for v in versions)
    run_name = f"evaluate-{model.removeprefix('models:/')}"
    with track(run_name, settings, tags) as run:
        log_dataset(data, ["validation"])
        images = data.validation.images.numpy()
        batches = np.split(images, range(VALIDATION_BATCH_SIZE, len(images), VALIDATION_BATCH_SIZE))
        probabilities = np.concatenate([loaded.model.predict(batch) for batch in batches])
        if not np.isfinite(probabilities).all():
            raise InputError(
                f"{model} predicts values that are not numbers; did its training diverge?"
            )
        result = evaluate(probabilities, data)
        _log_evaluation(run, loaded, result.metrics)
        tag_versions(versions, "evaluation_run", run.info.run_id)
        title = f"{model} on {name}, {len(images):,} validation images"
        uploads.log_files(
            {
                "per_class_accuracy.csv": as_csv(result.per_class),
                "confusions.csv": as_csv(result.confusions),
                "confusion_matrix.png": as_png(confusion_figure(result.confusion, data, title)),
            }
        )
    where = {"run_id": run.info.run_id, "experiment_id": str(run.info.experiment_id)}
    return Evaluated(**where, model=model, dataset=name, **vars(result))


@in_store
def _log_evaluation(run: Run, loaded: LoadedModel, metrics: Mapping[str, float]) -> None:
    """Log an evaluation's metrics, and link its run to the model."""
    mlflow.log_metrics(dict(metrics), model_id=loaded.model_id)
    if loaded.model_id:
        mlflow.MlflowClient().log_inputs(
            run.info.run_id, models=[LoggedModelInput(loaded.model_id)]
        )
