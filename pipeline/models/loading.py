"""Load a registered model, after checks that run none of its code."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
import numpy as np
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel

from pipeline.errors import InputError
from pipeline.models.export import DIGESTS_TAG, PIXELS_TO_PROBABILITIES
from pipeline.models.safety import check_harmless, check_unaltered
from pipeline.store.failures import STORE_ERRORS, first_line, is_outage
from pipeline.store.waiting import in_store
from pipeline.upstream import name_and_version


class LoadedModel(NamedTuple):
    """A model that classifies pixels, and what is known about its origin.

    class_names is empty, and dataset `unknown`, for a model that this project did not log.
    """

    uri: str
    model: PyFuncModel
    model_id: str | None
    dataset: str
    class_names: tuple[str, ...]
    versions: tuple[ModelVersion, ...]


@in_store
def load_model(reference: str) -> LoadedModel:
    """Load the model named by a URI, a folder or a run id, after checks that run none of it.

    Its files must be those that were logged, if this store knows them, and contain no code, and the
    model must do what its signature says. Raises InputError if a check fails, if there is no such
    model, or if it does not take pixels and return probabilities of 100 classes.
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
            raise InputError(f"the model at {uri} is rejected: {first_line(error)}") from None
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
    """Where the model is, without aliases, which may move, and what the store knows of it.

    Only a folder, whose address says nothing, is identified by the model's own files.
    """
    client = mlflow.MlflowClient()
    model_id: str | None
    if uri.startswith("models:/"):
        name, *version = name_and_version(uri)
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
    """Load the model in a folder, with its metadata, if it passes the checks.

    `tags` are those of the logged model, if this store knows it. Raises InputError, or whatever
    the loader of a foreign model raises.
    """
    if DIGESTS_TAG in tags:
        check_unaltered(files, json.loads(tags[DIGESTS_TAG]))
    mlmodel = Model.load(str(files))
    if mlmodel.signature != PIXELS_TO_PROBABILITIES:
        raise InputError(
            "it does not take uint8 [N, 32, 32, 3] and return float32 [N, 100];"
            f" its signature is {' '.join(str(mlmodel.signature).split())}"
        )
    metadata = mlmodel.metadata or {}
    names = metadata.get("class_names", ())
    if names and not len(names) == len(set(names)) == 100:
        raise InputError("it does not name 100 different classes")
    check_harmless(files, mlmodel.flavors)
    # Models that this project did not log run on the CPU too, whatever MLflow would use.
    model = mlflow.pyfunc.load_model(str(files), model_config={"device": "cpu"})
    _try_out(model)
    return model, metadata


def _try_out(model: PyFuncModel) -> None:
    """Raise InputError unless the model returns 100 probabilities for each of three images.

    Non-finite values pass too: training may have diverged, which is reported after more images.
    """
    found: object = model.predict(np.zeros((3, 32, 32, 3), np.uint8))
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != ((3, 100), np.float32):
        raise InputError("it does not return float32 [N, 100], as its signature says")
    one = np.allclose(found.sum(axis=1), 1, atol=1e-3) and (found >= 0).all()
    if np.isfinite(found).all() and not one:
        raise InputError("what it returns are not probabilities")
