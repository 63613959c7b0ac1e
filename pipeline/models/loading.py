"""Load a registered model, after checks that run none of its code."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
import numpy as np
from mlflow.entities import LoggedModel
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from tqdm import tqdm

from pipeline.data.checks import MAX_CHANNELS
from pipeline.errors import InputError
from pipeline.models.export import DIGESTS_TAG, file_names, find_model, recorded_digests, signature
from pipeline.models.naming import absent, model_uri
from pipeline.models.safety import check_harmless, check_unaltered
from pipeline.store.artifacts import missing_files
from pipeline.store.outages.failures import STORE_ERRORS, first_line, is_outage
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import name_and_version


class LoadedModel(NamedTuple):
    """A model that classifies pixels, and what is known about its origin.

    class_names is empty, and dataset `unknown`, for a model that this project did not log.
    run_id, experiment_id: of the run that logged it, if this store knows that.
    """

    uri: str
    model: PyFuncModel
    model_id: str | None
    run_id: str | None
    experiment_id: str | None
    dataset: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    num_classes: int

    @property
    def names(self) -> tuple[str, ...]:
        """The classes by label; their numbers for a model that does not name them."""
        return self.class_names or tuple(map(str, range(self.num_classes)))


@in_store
def load_model(reference: str) -> LoadedModel:
    """Load the model that `naming.model_uri` finds, after checks that run none of it.

    Its files must be those that were logged, if this store knows them, and contain no code, and the
    model must do what its signature says. Raises InputError if a check fails, if there is no such
    model, or if it does not take pixels and return probabilities.
    """
    uri = model_uri(reference)
    with TemporaryDirectory() as copy:  # so that what is loaded is what was checked
        known = None
        try:
            address, known = _look_up(uri)
            files = Path(mlflow.artifacts.download_artifacts(address, dst_path=copy))
        except Exception as error:  # whatever the loader of a foreign address raises
            if isinstance(error, STORE_ERRORS) and is_outage(error):
                raise
            _check_files(reference, known)
            raise absent(reference, uri, first_line(error)) from None
        try:
            model, metadata = _load_checked(files, known.tags if known else {})
        except Exception as error:  # whatever the loader of a foreign model raises
            _check_files(reference, known)
            raise InputError(f"the model at {uri} is rejected: {first_line(error)}") from None
    image_shape, num_classes = _shapes(model.metadata)
    return LoadedModel(
        uri=uri,
        model=model,
        model_id=known.model_id if known else None,
        run_id=known.source_run_id if known else None,
        experiment_id=known.experiment_id if known else None,
        dataset=str(metadata.get("dataset", "unknown")),
        class_names=tuple(metadata.get("class_names", ())),
        image_shape=image_shape,
        num_classes=num_classes,
    )


@in_store
def unloadable_versions() -> tuple[int, dict[str, str]]:
    """Load every registered version; return how many load, and why the others don't, by URI."""
    uris = [f"models:/{v.name}/{v.version}" for v in mlflow.MlflowClient().search_model_versions()]
    rejected = {}
    for uri in tqdm(uris, unit="model", disable=None, leave=False, delay=0.5):
        try:
            load_model(uri)
        except InputError as error:
            rejected[uri] = str(error)
    return len(uris) - len(rejected), rejected


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
    return uri, find_model(model_id) if model_id else None  # one of another store is not known


def _check_files(reference: str, known: LoggedModel | None) -> None:
    """Raise InputError if the store knows a model of which no file is left."""
    names = file_names(known) if known else []
    if known and missing_files(known.artifact_location, names) == names:
        raise InputError(
            f"the files of {reference} are missing in {known.artifact_location}; bring them back,"
            " or repeat the command that trained it, which trains runs without files again"
        )


def _load_checked(files: Path, tags: Mapping[str, str]) -> tuple[PyFuncModel, dict[str, Any]]:
    """Load the model in a folder, with its metadata, if it passes the checks.

    `tags` are those of the logged model, if this store knows it. Raises InputError, or whatever
    the loader of a foreign model raises.
    """
    if DIGESTS_TAG in tags:
        check_unaltered(files, recorded_digests(tags))
    mlmodel = Model.load(str(files))
    image_shape, num_classes = _shapes(mlmodel)
    metadata = mlmodel.metadata or {}
    names = metadata.get("class_names", ())
    if names and not len(names) == len(set(names)) == num_classes:
        raise InputError(f"it does not name {num_classes} different classes")
    check_harmless(files, mlmodel.flavors)
    # Models that this project did not log run on the CPU too, whatever MLflow would use.
    model = mlflow.pyfunc.load_model(str(files), model_config={"device": "cpu"})
    _try_out(model, image_shape, num_classes)
    return model, metadata


def _shapes(mlmodel: Model) -> tuple[tuple[int, ...], int]:
    """The height, width and channels of a model's images, and its number of classes.

    Raises InputError unless its signature says: pixels in, probabilities out.
    """
    found = mlmodel.signature
    with suppress(AttributeError, TypeError, ValueError):  # other kinds and numbers of columns
        [pixels], [probabilities] = found.inputs, found.outputs
        _, height, width, channels = pixels.shape
        _, num_classes = probabilities.shape
        image_shape = height, width, channels
        right = found == signature(image_shape, num_classes) and channels <= MAX_CHANNELS
        if right and min(*image_shape, num_classes) > 0:
            return image_shape, num_classes
    raise InputError(
        "it does not take uint8 [N, height, width, channels] and return float32 [N, classes];"
        f" its signature is {' '.join(str(mlmodel.signature).split())}"
    )


def _try_out(model: PyFuncModel, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Raise InputError unless the model returns probabilities for each of three images.

    Non-finite values pass too: training may have diverged, which is reported after more images.
    """
    found: object = model.predict(np.zeros((3, *image_shape), np.uint8))
    shape = (3, num_classes)
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (shape, np.float32):
        raise InputError(f"it does not return float32 [N, {num_classes}], as its signature says")
    one = np.allclose(found.sum(axis=1), 1, atol=1e-3) and (found >= 0).all()
    if np.isfinite(found).all() and not one:
        raise InputError("what it returns are not probabilities")
