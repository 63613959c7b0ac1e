"""The model that is served, which an alias may replace while requests are running."""

import asyncio
import re
import sys
from typing import Any, NamedTuple

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.models.loading import LoadedModel, load_model
from pipeline.models.registry import versions_of
from pipeline.store.interface import page
from pipeline.store.outages.failures import is_outage
from pipeline.store.outages.waiting import in_store

ALIAS = re.compile("models:/([^/@]+)@([^/@]+)")
FOLLOW_SECONDS = 2.0


class Served(NamedTuple):
    """A loaded model, and what answers say of it."""

    model: LoadedModel
    facts: dict[str, Any]


def load_served(reference: str) -> Served:
    """Load the model that `reference` names now, after the checks of `load_model`.

    Raises InputError as that does.
    """
    uri = _resolved(reference)
    model = load_model(uri)
    named = re.fullmatch("models:/([^/]+)/([^/]+)", uri)
    name, version = named.groups() if named else _registered(model.run_id)
    return Served(
        model,
        {
            "uri": uri,
            "name": name,
            "version": version,
            "run_id": model.run_id,
            "run_page": page(model.experiment_id, model.run_id) if model.run_id else None,
            "dataset": model.dataset,
            "image_shape": model.image_shape,
            "num_classes": model.num_classes,
        },
    )


def _registered(run_id: str | None) -> tuple[str | None, str | None]:
    """The name and version under which a run's model is registered, if it is."""
    for one in versions_of(run_id) if run_id else []:
        return one.name, str(one.version)
    return None, None


@in_store
def _resolved(reference: str) -> str:
    """The URI of the version that an alias points at; other references as they are."""
    alias = ALIAS.fullmatch(reference)
    if alias is None:
        return reference
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(*alias.groups())
    except MlflowException as error:
        if is_outage(error):
            raise
        return reference  # no such alias, as `load_model` will say
    return f"models:/{alias[1]}/{version.version}"


class Following:
    """The model that answers requests now: the version at which `reference` points."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.served = load_served(reference)

    async def follow(self) -> None:
        """Look for another version again and again, and replace the model once that is loaded.

        If it can't be, the old one goes on serving.
        """
        said = rejected = uri = ""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                uri = await asyncio.to_thread(_resolved, self.reference)
                if uri not in (self.served.facts["uri"], rejected):
                    self.served = await asyncio.to_thread(load_served, uri)
                    print(f"{self.reference} is {uri} now", flush=True)
                    said = rejected = ""
            except Exception as error:  # of whatever kind: this goes on looking
                rejected = uri if isinstance(error, InputError) else ""
                if str(error) != said:
                    said = str(error)
                    now = self.served.facts["uri"]
                    print(f"{now} is still served: {said}", file=sys.stderr, flush=True)
