"""The model registry: log a trained network as a model, register it, load it again."""

import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import numpy as np
from mlflow.entities import LoggedModelInput, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import Schema, TensorSpec

from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.network import CNNNetwork, PixelClassifier
from pipeline.results import RegisteredVersion, RunResult
from pipeline.tracking import first_line, store_errors

PIXELS_TO_PROBABILITIES = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, 32, 32, 3))]),
    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 100))]),
)


class LoadedModel(NamedTuple):
    """A model that classifies pixels, and what is known of where it comes from.

    class_names is empty, and dataset `unknown`, for a model that this project did not log.
    """

    uri: str
    model: PyFuncModel
    model_id: str | None
    dataset: str
    class_names: tuple[str, ...]
    versions: tuple[ModelVersion, ...]


@store_errors()
def log_network(network: CNNNetwork, data: ImageDataset) -> str:
    """Store the network with the active run, twice; return the URI of the model.

    `checkpoint.pt` holds the weights for fine-tuning. The model `model` classifies pixels; it is a
    pt2 archive, which loads without pickle and without this project's code. It freezes the mode
    that the network is in (hence `eval`), and a batch size of 1 (hence an example of 2 images).
    """
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        network.save_checkpoint(checkpoint)
        mlflow.log_artifact(str(checkpoint))
        portable = CNNNetwork.from_checkpoint(checkpoint)
    info = mlflow.pytorch.log_model(
        PixelClassifier(portable).eval(),
        name="model",
        signature=PIXELS_TO_PROBABILITIES,
        input_example=data.validation.images[:2].numpy(),
        serialization_format="pt2",
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
        metadata={"dataset": data.name, "class_names": list(data.class_names)},
    )
    return str(info.model_uri)


@store_errors()
def register(result: RunResult, data: ImageDataset) -> RunResult:
    """Register a run's model, and move the aliases that are now its own, unless it is registered.

    The variant's alias points at the newest version of that variant; `champion` at the best
    validation accuracy among all versions measured on the same validation images in the same way.
    (They may have learned from other images: a trial on a few hundred must not become champion
    for being the only one of its kind.)
    """
    client = mlflow.MlflowClient()
    name = f"{data.name}-cnn"
    for known in client.search_model_versions(f"name = '{name}' and run_id = '{result.run_id}'"):
        version = RegisteredVersion(name, str(known.version), ())
        return refresh(result._replace(registered=version))
    tags = {
        "variant": result.config.variant,
        "seed": str(result.config.seed),
        "val_accuracy": repr(result.history[-1]["val_accuracy"]),
        **data.tags,
    }
    with redirect_stderr(StringIO()):  # MLflow's remarks; the command says what is registered
        new = mlflow.register_model(result.model_uri, name, tags=tags)
    measured = {key: data.tags[key] for key in ("validation_digest", "validation_scheme")}
    versions = client.search_model_versions(f"name = '{name}'")
    rivals = [rival for rival in versions if measured.items() <= rival.tags.items()]
    champion = max(rivals, key=lambda v: (float(v.tags["val_accuracy"]), -int(v.version)))
    client.set_registered_model_alias(name, result.config.variant, new.version)
    # Accuracies on other images can't be compared: a hold-out trial does not depose the champion.
    if data.test is None or len(rivals) == len(versions):
        client.set_registered_model_alias(name, "champion", champion.version)
    return refresh(result._replace(registered=RegisteredVersion(name, str(new.version), ())))


def refresh(result: RunResult) -> RunResult:
    """Note the aliases that point at the run's version now, if it has one."""
    if result.registered:
        name, version = result.registered.name, result.registered.version
        aliases = mlflow.MlflowClient().get_model_version(name, version).aliases
        return result._replace(registered=RegisteredVersion(name, version, tuple(aliases)))
    return result


@store_errors()
def load_model(reference: str) -> LoadedModel:
    """Load the model that a URI, a folder or a run id names.

    Raises InputError if there is none, or if it does not take pixels and return 100 probabilities.
    """
    uri = f"runs:/{reference}/model" if re.fullmatch("[0-9a-f]{32}", reference) else reference
    try:
        info = mlflow.models.get_model_info(uri)
        model = mlflow.pyfunc.load_model(uri) if info.signature == PIXELS_TO_PROBABILITIES else None
    except Exception as error:  # whatever the loader of a foreign address or model raises
        raise InputError(
            f"no model at {reference!r} ({first_line(error)}); name one by a URI such as"
            " models:/cifar100-cnn@bn, or by the id of its run"
        ) from None
    if model is None:
        raise InputError(
            f"the model at {uri} does not take uint8 [N, 32, 32, 3] and return float32 [N, 100];"
            f" its signature is {' '.join(str(info.signature).split())}"
        )
    metadata = info.metadata or {}
    return LoadedModel(
        uri=uri,
        model=model,
        model_id=info.model_id,
        dataset=metadata.get("dataset", "unknown"),
        class_names=tuple(metadata.get("class_names", ())),
        versions=tuple(mlflow.MlflowClient().search_model_versions(f"run_id = '{info.run_id}'")),
    )


@store_errors()
def log_evaluation(run: Run, loaded: LoadedModel, metrics: Mapping[str, float]) -> None:
    """Log an evaluation's metrics, and link its run with the model and its registered versions."""
    client = mlflow.MlflowClient()
    mlflow.log_metrics(dict(metrics), model_id=loaded.model_id)
    if loaded.model_id:
        client.log_inputs(run.info.run_id, models=[LoggedModelInput(loaded.model_id)])
    for known in loaded.versions:
        client.set_model_version_tag(known.name, known.version, "evaluation_run", run.info.run_id)
