"""The model registry: versions, what they say of themselves, and who may register them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.ablation.definition import Ablation
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, RegistrationError, percent, plural
from pipeline.store.address import shown_uri
from pipeline.store.outages.failures import first_line, is_forbidden, is_outage, unless_forbidden
from pipeline.store.outages.waiting import in_store
from pipeline.training.spec import RunSpec


class RegisteredVersion(NamedTuple):
    """A version in the registry, and the aliases that point at it.

    notes: a line for each alias that was moved to it, and for one that was not, with the reason.
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """The URI that loads it: `models:/<name>/<version>`."""
        return f"models:/{self.name}/{self.version}"


def registry_name(ablation: Ablation, data: ImageDataset) -> str:
    """The name under which an ablation's models are registered.

    Variants of another ablation may have the same names, and other data other classes.
    """
    return f"{data.name}-{ablation.name}"


@in_store
def register(
    model_uri: str, spec: RunSpec, val_accuracy: float, page: str, study: str = ""
) -> RegisteredVersion:
    """Register a model, unless it already is, and describe it. No alias is moved.

    spec: of the run that has trained it. page: a link to its run's page. study: the id of the
    study that registers it, if one does.

    Raises RegistrationError if the store refuses that, although it takes runs.
    """
    config, data = spec.config, spec.data
    name = registry_name(spec.ablation, data)
    tags = {
        "variant": config.variant,
        "seed": str(config.seed),
        "val_accuracy": repr(val_accuracy),
        "epochs": str(config.epochs),
        "left_out": str(data.left_out),
        **({} if data.left_out else {"whole_digest": data.whole_digest or data.digest}),
        **data.tags,
        **({"study": study} if study else {}),
    }
    trained = f"{config.run_name} is trained, but its model {model_uri}"
    with refused_as(f"{trained} can't be registered as {name}"):
        version = register_version(name, model_uri, tags)
        _describe(version, spec, val_accuracy, page)
    return RegisteredVersion(name, str(version.version))


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Raise RegistrationError, which says what failed, for what the store refuses for good."""
    try:
        yield
    except MlflowException as error:
        if is_outage(error) or error.error_code == "TEMPORARILY_UNAVAILABLE":  # the database
            raise
        raise RegistrationError(f"{what} ({first_line(error)})") from None


def check_may_register(ablation: Ablation, data: ImageDataset, way_out: str) -> None:
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


def register_version(name: str, model_uri: str, tags: Mapping[str, str]) -> ModelVersion:
    """The newest version of a model with these tags, which is registered if there is none."""
    client = mlflow.MlflowClient()
    versions = client.search_model_versions(f"name = '{name}'")
    known = [version for version in versions if version.source == model_uri]
    if not known:
        with redirect_stderr(StringIO()):  # MLflow's messages; the command prints its own
            return mlflow.register_model(model_uri, name, tags=dict(tags))
    newest = max(known, key=lambda version: int(version.version))
    for key, value in tags.items():  # missing if it was registered by hand
        client.set_model_version_tag(name, newest.version, key, value)
    return newest


def _describe(version: ModelVersion, spec: RunSpec, val_accuracy: float, page: str) -> None:
    """Describe a version and its registered model, unless somebody has."""
    client, by = mlflow.MlflowClient(), spec.config
    ablation, data = spec.ablation, spec.data
    if not version.description:
        left_out = f" ({data.left_out:,} left out)" if data.left_out else ""
        text = (
            f"{percent(val_accuracy)} validation accuracy, on the"
            f" {data.validation_scheme}.\n\n"
            f"- Recipe: {by.variant} of the ablation {ablation.name},"
            f" {plural(by.epochs, 'epoch')}, batch size {by.batch_size},"
            f" learning rate {by.lr:g}\n"
            f"- Data: {data.name}, {data.description}{left_out}; sha256 `{data.digest}`\n"
            f"- Seed: {by.seed}\n"
            f"- Run: [{by.run_name}]({page}), `{version.run_id}`"
        )
        with unless_forbidden(f"describe models:/{version.name}/{version.version}"):
            client.update_model_version(version.name, version.version, text)
    with unless_forbidden(f"describe models:/{version.name}"):
        if not client.get_registered_model(version.name).description:
            variants = ", ".join(f"`@{variant}`" for variant in ablation.variants)
            text = (
                f"Models of the ablation {ablation.name}, trained on {data.name}.\n\n"
                f"- {variants}: the variant's newest model of a full recipe: trained on all"
                " training images, for at least as many epochs as the version before it, on the"
                " same data\n"
                "- `@champion`: the version with the best validation accuracy on the same images"
                "\n\nThe description of a version says how it was trained."
            )
            client.update_registered_model(version.name, text)


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


def registered_of(run_id: str) -> RegisteredVersion | None:
    """The newest registered version of a run's model, with its aliases."""
    newest = max(versions_of(run_id), key=lambda one: int(one.version), default=None)
    return refresh(RegisteredVersion(newest.name, str(newest.version))) if newest else None


@in_store
def tag_versions(versions: Sequence[ModelVersion], key: str, value: str) -> None:
    """Set a tag of registered versions; a note names one that this user may not change."""
    for one in versions:
        with unless_forbidden(f"tag models:/{one.name}/{one.version} with {key}"):
            mlflow.MlflowClient().set_model_version_tag(one.name, one.version, key, value)
