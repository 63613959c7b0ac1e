"""The model registry: versions, and the aliases that point at them."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion

from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
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


@in_store
def register(
    model_uri: str, config: Config, val_accuracy: float, data: ImageDataset
) -> RegisteredVersion:
    """Register a model, unless it already is, and move the aliases that should change.

    The variant's alias points at the newest version of that variant; `champion` at the best
    validation accuracy among all versions measured on the same validation images in the same way.
    (Their training images may differ: a trial on a few hundred must not become champion just for
    being the only one of its kind.)
    """
    client = mlflow.MlflowClient()
    # Variants of another ablation may have the same names.
    name = f"{data.name}-{load_ablation(config.ablation).name}"
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
    newest = max(
        (version for version in versions if version.tags.get("variant") == variant),
        key=lambda version: int(version.version),
    )
    client.set_registered_model_alias(name, variant, newest.version)
    measured = {key: data.tags[key] for key in ("validation_digest", "validation_scheme")}
    rivals = [rival for rival in versions if measured.items() <= rival.tags.items()]
    champion = max(rivals, key=lambda v: (float(v.tags["val_accuracy"]), -int(v.version)))
    # Accuracies on other images aren't comparable: a hold-out trial can't replace the champion.
    if data.test is None or len(rivals) == len(versions):
        client.set_registered_model_alias(name, "champion", champion.version)


@in_store
def refresh(registered: RegisteredVersion) -> RegisteredVersion:
    """Reread the aliases that point at a version."""
    version = mlflow.MlflowClient().get_model_version(registered.name, registered.version)
    return registered._replace(aliases=tuple(version.aliases))
