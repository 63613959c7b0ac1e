"""The model registry: versions, and the aliases that point at them."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, RegistrationError
from pipeline.models.export import MODEL_FILE
from pipeline.store.address import shown_uri
from pipeline.store.artifacts import missing_files
from pipeline.store.failures import first_line, is_forbidden, is_outage, unless_forbidden
from pipeline.store.waiting import in_store


class RegisteredVersion(NamedTuple):
    """A version in the registry, and the aliases that point at it."""

    name: str
    version: str
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """The URI that loads it: `models:/<name>/<version>`."""
        return f"models:/{self.name}/{self.version}"


def registry_name(ablation: str, data: ImageDataset) -> str:
    """The name under which an ablation's models are registered.

    Variants of another ablation may have the same names, and other data other classes.
    """
    return f"{data.name}-{load_ablation(ablation).name}"


@in_store
def register(
    model_uri: str, config: Config, val_accuracy: float, data: ImageDataset
) -> RegisteredVersion:
    """Register a model, unless it already is, and move the aliases that should change.

    The variant's alias points at the newest version of that variant; `champion` at the best
    validation accuracy among all versions measured on the same validation images in the same way.
    (Their training images may differ: a trial on a few hundred must not become champion just for
    being the only one of its kind.) Neither points at a version whose files are gone.

    Raises RegistrationError if the store refuses that, although it takes runs.
    """
    name = registry_name(config.ablation, data)
    try:
        return _register(name, model_uri, config, val_accuracy, data)
    except MlflowException as error:
        if is_outage(error) or error.error_code == "TEMPORARILY_UNAVAILABLE":  # the database
            raise
        raise RegistrationError(
            f"{config.run_name} is trained, but its model {model_uri} can't be registered as"
            f" {name} ({first_line(error)})"
        ) from None


def check_may_register(ablation: str, data: ImageDataset, way_out: str) -> None:
    """Raise InputError, with the way out, if this user may not register an ablation's models."""
    name = registry_name(ablation, data)
    if not _may_register(name):
        raise InputError(
            f"{shown_uri()} does not let you register models (403), and this would register"
            f" {name}; ask for that right, or {way_out}"
        )


@in_store
def _may_register(name: str) -> bool:
    """Whether the tracking server lets this user register models of that name.

    Rights are checked first: a request that lacks what it must say changes nothing, and is answered
    by 403 only where it is forbidden. A model that exists may have rights of its own.
    """
    if not mlflow.get_registry_uri().startswith("http"):
        return True
    client = mlflow.MlflowClient()
    try:
        if client.search_registered_models(f"name = '{name}'"):
            client.create_model_version(name, source="")
        else:
            client.create_registered_model("")
    except MlflowException as error:
        if is_outage(error):
            raise
        return not is_forbidden(error)
    return True


def _register(
    name: str, model_uri: str, config: Config, val_accuracy: float, data: ImageDataset
) -> RegisteredVersion:
    client = mlflow.MlflowClient()
    tags = {
        "variant": config.variant,
        "seed": str(config.seed),
        "val_accuracy": repr(val_accuracy),
        **data.tags,
    }
    known = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.source == model_uri
    ]
    if known:
        new = max(known, key=lambda version: int(version.version))
        for key, value in tags.items():  # missing if it was registered by hand
            client.set_model_version_tag(name, new.version, key, value)
    else:
        with redirect_stderr(StringIO()):  # MLflow's messages; the command prints its own
            new = mlflow.register_model(model_uri, name, tags=tags)
    # Aliases depend on the versions alone, so that a later call completes an interrupted one; they
    # are set again if another run has registered a version meanwhile.
    versions, seen = client.search_model_versions(f"name = '{name}'"), 0
    while len(versions) != seen:
        seen = len(versions)
        _set_aliases(name, versions, config.variant, data)
        versions = client.search_model_versions(f"name = '{name}'")
    return refresh(RegisteredVersion(name, str(new.version), ()))


def _set_aliases(
    name: str, versions: Sequence[ModelVersion], variant: str, data: ImageDataset
) -> None:
    client = mlflow.MlflowClient()
    of_variant = [version for version in versions if version.tags.get("variant") == variant]
    of_variant.sort(key=lambda version: -int(version.version))
    if newest := next(filter(_has_files, of_variant), None):
        client.set_registered_model_alias(name, variant, newest.version)
    measured = {key: data.tags[key] for key in ("validation_digest", "validation_scheme")}
    rivals = [rival for rival in versions if measured.items() <= rival.tags.items()]
    best_first = sorted(rivals, key=lambda v: (-float(v.tags["val_accuracy"]), int(v.version)))
    champion = next(filter(_has_files, best_first), None)
    # Accuracies on other images aren't comparable: a hold-out trial can't replace the champion.
    if champion and (data.test is None or len(rivals) == len(versions)):
        client.set_registered_model_alias(name, "champion", champion.version)


def _has_files(version: ModelVersion) -> bool:
    address = mlflow.MlflowClient().get_model_version_download_uri(version.name, version.version)
    try:
        return not missing_files(address, [MODEL_FILE])
    except Exception as error:  # each kind of artifact store has its own
        if is_outage(error):
            raise
        return True  # as far as can be known


@in_store
def refresh(registered: RegisteredVersion) -> RegisteredVersion:
    """Reread the aliases that point at a version."""
    with unless_forbidden(f"see the aliases of {registered.uri}"):
        version = mlflow.MlflowClient().get_model_version(registered.name, registered.version)
        return registered._replace(aliases=tuple(version.aliases))
    return registered


@in_store
def versions_of(run_id: str) -> list[ModelVersion]:
    """The registered versions of a run's model; none, with a note, if this user can't see any."""
    with unless_forbidden("see registered models, so that none is named"):
        return list(mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'"))
    return []


@in_store
def tag_versions(versions: Sequence[ModelVersion], key: str, value: str) -> None:
    """Set a tag of registered versions; a note names one that this user may not change."""
    for one in versions:
        with unless_forbidden(f"tag models:/{one.name}/{one.version} with {key}"):
            mlflow.MlflowClient().set_model_version_tag(one.name, one.version, key, value)
