"""The model registry: log a trained network as a model, register it, load it again."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.types import Schema, TensorSpec
from torch.export import ExportedProgram

from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.finished import logged_models
from pipeline.model_files import check_harmless, check_unaltered, digests
from pipeline.network import CNNNetwork, PixelClassifier
from pipeline.results import RegisteredVersion, RunResult
from pipeline.store import STORE_ERRORS, first_line, in_store, is_outage

PIXELS_TO_PROBABILITIES = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, 32, 32, 3))]),
    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 100))]),
)

# Of a logged model: its files' digests as JSON. In the store's database: who alters the files does
# not alter it with them.
DIGESTS_TAG = "file_digests"


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


@in_store
def log_network(network: CNNNetwork, data: ImageDataset, epochs: int) -> str:
    """Store the network, after so many epochs, with the active run, twice; return the model's URI.

    `checkpoint.pt` holds the weights for fine-tuning. The model `model` classifies pixels; it is a
    pt2 archive, which loads without pickle and without this project's code. It freezes the mode
    that the network is in (hence `eval`), and a batch size of 1 (hence an example of 2 images).
    A model that is there already is kept; one that was not completed is deleted.
    """
    run = mlflow.active_run()
    assert run
    client = mlflow.MlflowClient()
    steps = {output.model_id: output.step for output in logged_models(run.info.run_id)}
    made = f"source_run_id = '{run.info.run_id}'"  # also one that is not among the outputs yet
    for model in client.search_logged_models([run.info.experiment_id], filter_string=made):
        # The digests of its files come last.
        if model.status != LoggedModelStatus.READY or DIGESTS_TAG not in model.tags:
            client.delete_logged_model(model.model_id)
        elif steps.get(model.model_id) == epochs:
            return str(model.model_uri)
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        network.save_checkpoint(checkpoint)
        mlflow.log_artifact(str(checkpoint))
        portable = CNNNetwork.from_checkpoint(checkpoint)
    with _written_from_memory():
        info = mlflow.pytorch.log_model(
            PixelClassifier(portable).eval(),
            name="model",
            step=epochs,
            signature=PIXELS_TO_PROBABILITIES,
            input_example=data.validation.images[:2].numpy(),
            serialization_format="pt2",
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
            metadata={"dataset": data.name, "class_names": list(data.class_names)},
        )
    _run_on_cpu(str(info.model_uri), str(info.model_id))
    record_digests(str(info.model_uri), str(info.model_id))
    return str(info.model_uri)


@contextmanager
def _written_from_memory() -> Iterator[None]:
    """Have `torch.export.save` write a whole file at once.

    On a full disk torch's own writer ends the process, after an error that does not say why.
    """
    save = torch.export.save

    def save_from_memory(program: ExportedProgram, path: str) -> None:
        content = BytesIO()
        save(program, content)
        Path(path).write_bytes(content.getvalue())

    torch.export.save = save_from_memory  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.export.save = save


def _run_on_cpu(uri: str, model_id: str) -> None:
    """Have a logged model run on the CPU wherever it is loaded.

    MLflow would take a GPU where there is one, but a pt2 program stays on the device that it was
    exported on, and loading would fail.
    """
    with TemporaryDirectory() as folder:
        files = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        said = Model.load(files)
        said.flavors["python_function"]["config"] = {"device": "cpu"}
        said.save(str(Path(files, "MLmodel")))
        mlflow.MlflowClient().log_model_artifact(model_id, str(Path(files, "MLmodel")))


def record_digests(uri: str, model_id: str) -> None:
    """Note with a logged model what its files are, as the store gives them back."""
    with TemporaryDirectory() as folder:
        files = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        tags = {DIGESTS_TAG: json.dumps(digests(Path(files)))}
    mlflow.MlflowClient().set_logged_model_tags(model_id, tags)


@in_store
def register(result: RunResult, data: ImageDataset) -> RunResult:
    """Register a run's model, unless it is registered, and move the aliases that are due.

    The variant's alias points at the newest version of that variant; `champion` at the best
    validation accuracy among all versions measured on the same validation images in the same way.
    (They may have learned from other images: a trial on a few hundred must not become champion
    for being the only one of its kind.)
    """
    client = mlflow.MlflowClient()
    name = f"{data.name}-cnn"
    tags = {
        "variant": result.config.variant,
        "seed": str(result.config.seed),
        "val_accuracy": repr(result.history[-1]["val_accuracy"]),
        **data.tags,
    }
    known = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.source == result.model_uri
    ]
    if known:
        new = max(known, key=lambda version: int(version.version))
        for key, value in tags.items():  # which it lacks if it was registered by hand
            client.set_model_version_tag(name, new.version, key, value)
    else:
        with redirect_stderr(StringIO()):  # MLflow's remarks; the command says what is registered
            new = mlflow.register_model(result.model_uri, name, tags=tags)
    # The aliases follow from the versions alone, so that what was interrupted is made up for; and
    # they are set again if another run has registered its own meanwhile.
    versions, seen = client.search_model_versions(f"name = '{name}'"), 0
    while len(versions) != seen:
        seen = len(versions)
        _set_aliases(name, versions, result.config.variant, data)
        versions = client.search_model_versions(f"name = '{name}'")
    return refresh(result._replace(registered=RegisteredVersion(name, str(new.version), ())))


def _set_aliases(
    name: str, versions: Sequence[ModelVersion], variant: str, data: ImageDataset
) -> None:
    client = mlflow.MlflowClient()
    newest = max(
        (version for version in versions if version.tags.get("variant") == variant),
        key=lambda version: int(version.version),
    )
    client.set_registered_model_alias(name, variant, newest.version)
    measured = {key: data.tags[key] for key in ("validation_digest", "validation_scheme")}
    rivals = [rival for rival in versions if measured.items() <= rival.tags.items()]
    champion = max(rivals, key=lambda v: (float(v.tags["val_accuracy"]), -int(v.version)))
    # Accuracies on other images can't be compared: a hold-out trial does not depose the champion.
    if data.test is None or len(rivals) == len(versions):
        client.set_registered_model_alias(name, "champion", champion.version)


@in_store
def refresh(result: RunResult) -> RunResult:
    """Note the aliases that point at the run's version now, if it has one."""
    if result.registered:
        name, version = result.registered.name, result.registered.version
        aliases = mlflow.MlflowClient().get_model_version(name, version).aliases
        return result._replace(registered=RegisteredVersion(name, version, tuple(aliases)))
    return result


@in_store
def load_model(reference: str) -> LoadedModel:
    """Load the model that a URI, a folder or a run id names, after checks that run none of it.

    Its files must be those that were logged, where this store knows them; they must bring no code;
    and it must do what its signature says. Raises InputError if they are not, or if there is no
    such model, or if it does not take pixels and return probabilities of 100 classes.
    """
    uri = f"runs:/{reference}/model" if re.fullmatch("[0-9a-f]{32}", reference) else reference
    with TemporaryDirectory() as copy:  # so that what is loaded is what was checked
        try:
            address, known = _look_up(uri)
            files = Path(mlflow.artifacts.download_artifacts(address, dst_path=copy))
        except Exception as error:  # whatever the loader of a foreign address raises
            if isinstance(error, STORE_ERRORS) and is_outage(error):
                raise
            raise InputError(
                f"no model at {reference!r} ({first_line(error)}); name one by a URI such as"
                " models:/cifar100-cnn@bn, or by the id of its run"
            ) from None
        try:
            model, metadata = _load_checked(files, known.tags if known else {})
        except Exception as error:  # whatever the loader of a foreign model raises
            raise InputError(f"the model at {uri} is refused: {first_line(error)}") from None
    versions: Iterable[ModelVersion] = ()
    if known:
        versions = mlflow.MlflowClient().search_model_versions(f"run_id = '{known.source_run_id}'")
    return LoadedModel(
        uri=uri,
        model=model,
        model_id=known.model_id if known else None,
        dataset=str(metadata.get("dataset", "unknown")),
        class_names=tuple(metadata.get("class_names", ())),
        versions=tuple(versions),
    )


def _look_up(uri: str) -> tuple[str, LoggedModel | None]:
    """Where the model is, without aliases, which may move; and what the store knows of it.

    Only of a folder, whose address says nothing, the model's own files are asked which it is.
    """
    client = mlflow.MlflowClient()
    if uri.startswith("models:/"):
        name, *version = get_model_name_and_version(client, uri)  # type: ignore[no-untyped-call]
        if version:
            source = client.get_model_version(name, version[0]).source
            return f"models:/{name}/{version[0]}", _look_up(str(source))[1]
        model_id = name
    elif run := re.fullmatch("runs:/([0-9a-f]+)/([^/]+)", uri):
        experiment = client.get_run(run[1]).info.experiment_id
        query = f"source_run_id = '{run[1]}' AND name = '{run[2]}'"
        models = client.search_logged_models([experiment], query, max_results=1)
        return uri, models[0] if models else None
    else:
        model_id = Model.load(uri).model_id
    try:
        return uri, client.get_logged_model(model_id) if model_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return uri, None  # it comes from another store


def _load_checked(files: Path, tags: Mapping[str, str]) -> tuple[PyFuncModel, dict[str, Any]]:
    """Load the model that lies in a folder, with its metadata, unless something speaks against it.

    `tags` are those of the logged model, if this store knows it. Raises InputError, or whatever
    the loader of a foreign model raises.
    """
    if DIGESTS_TAG in tags:
        check_unaltered(files, json.loads(tags[DIGESTS_TAG]))
    said = Model.load(str(files))
    if said.signature != PIXELS_TO_PROBABILITIES:
        raise InputError(
            "it does not take uint8 [N, 32, 32, 3] and return float32 [N, 100];"
            f" its signature is {' '.join(str(said.signature).split())}"
        )
    metadata = said.metadata or {}
    names = metadata.get("class_names", ())
    if names and not len(names) == len(set(names)) == 100:
        raise InputError("it does not name 100 different classes")
    check_harmless(files, said.flavors)
    # Also one that this project did not log runs on the CPU, whatever MLflow would take.
    model = mlflow.pyfunc.load_model(str(files), model_config={"device": "cpu"})
    _try_out(model)
    return model, metadata


def _try_out(model: PyFuncModel) -> None:
    """Raise InputError unless the model returns 100 probabilities for each of three images.

    Or 100 values that are no numbers: training may have diverged, which is told after more images.
    """
    found: object = model.predict(np.zeros((3, 32, 32, 3), np.uint8))
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != ((3, 100), np.float32):
        raise InputError("it does not return float32 [N, 100], as its signature says")
    one = np.allclose(found.sum(axis=1), 1, atol=1e-3) and (found >= 0).all()
    if np.isfinite(found).all() and not one:
        raise InputError("what it returns are no probabilities")


@in_store
def log_evaluation(run: Run, loaded: LoadedModel, metrics: Mapping[str, float]) -> None:
    """Log an evaluation's metrics, and link its run with the model and its registered versions."""
    client = mlflow.MlflowClient()
    mlflow.log_metrics(dict(metrics), model_id=loaded.model_id)
    if loaded.model_id:
        client.log_inputs(run.info.run_id, models=[LoggedModelInput(loaded.model_id)])
    for known in loaded.versions:
        client.set_model_version_tag(known.name, known.version, "evaluation_run", run.info.run_id)
