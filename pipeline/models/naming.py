"""Which model a reference means, and what there is instead if it means none."""

import os
import re
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError, shortlist
from pipeline.models.export import MODEL_FILE
from pipeline.store.lookup import match_run, quoted
from pipeline.store.outages.failures import unless_forbidden
from pipeline.store.outages.waiting import in_store

HOW = "name one by NAME@ALIAS, NAME/VERSION, a URI or a folder, or by the id or name of its run"


@in_store
def model_uri(reference: str) -> str:
    """The URI of a model, which may be named without `models:/`, or by its run.

    A run by its id, the beginning of that, or its name. A URI, and the path of a model's folder,
    are returned as they are. A folder that holds no model does not hide a model or run of its name.

    Raises InputError if it is the name of several models or runs, or of none.
    """
    is_model = os.path.lexists(f"{reference}/{MODEL_FILE}")
    if is_model or re.match(r"[A-Za-z][\w+.-]*:/", reference):
        return reference
    if re.fullmatch("[0-9a-f]{32}", reference):
        return f"runs:/{reference}/model"
    uri, is_folder = f"models:/{reference}", _is_folder(reference)
    if re.fullmatch(r"[^/@]+(@[^/@]+|/(\d+|latest))", reference):
        if not _unregistered(uri):
            return uri
        is_folder = False
    elif is_folder and Path(reference).name != reference:
        raise absent(reference, reference)
    else:
        with unless_forbidden():
            if _aliases_and_versions(reference):
                raise absent(reference, uri)
    run = match_run(reference, lambda run: run.info.status == "FINISHED")
    if run is None:
        raise absent(reference, reference if is_folder else uri)
    return f"runs:/{run.info.run_id}/model"


@in_store
def absent(reference: str, uri: str, reason: str = "") -> InputError:
    """Say that there is no model at a URI, and what is registered instead, or how one is named."""
    if _is_folder(uri):
        reason = reason or f"it has no {MODEL_FILE}"
        return InputError(f"no model in the folder {reference!r}: {reason}; {HOW}")
    reason = _unregistered(uri) or f"{reason or 'nothing has that name'}; {HOW}"
    return InputError(f"no model at {reference!r}: {reason}")


def _is_folder(text: str) -> bool:
    with suppress(OSError):  # too long for a name
        return bool(text) and Path(text).is_dir()
    return False


def _unregistered(uri: str) -> str:
    """Say what is registered, if a URI names a registered version that is not; else empty.

    Also empty if this user may not see it.
    """
    named = re.fullmatch("models:/([^/@]+)(?:([/@])([^/@]+))?", uri)
    if named and not re.fullmatch("m-[0-9a-f]{32}", named[1]):
        with unless_forbidden():
            return _instead(*named.groups())
    return ""


def _instead(name: str, sign: str | None, part: str | None) -> str:
    found = _aliases_and_versions(name)
    if found is None:
        return f"no registered model is named {name!r}; {_registered()}; {HOW}"
    aliases, versions = found
    if part in (aliases if sign == "@" else [*versions, "latest"]):
        return ""
    wanted = "alias" if sign == "@" else "version"
    lacks = f"has no {wanted} {part}" if part else "alone does not say which version"
    named = shortlist(f"{alias} (version {version})" for alias, version in aliases.items())
    return (
        f"{name} {lacks}; its aliases are {named or 'none'}, its versions"
        f" {shortlist(versions) or 'none'}"
    )


def _aliases_and_versions(name: str) -> tuple[dict[str, str], list[str]] | None:
    """The aliases of a registered model, with their versions, and all versions, newest first."""
    client = mlflow.MlflowClient()
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    found = [v for one in quoted(name) for v in client.search_model_versions(f"name = {one}")]
    return dict(sorted(aliases.items())), sorted({str(v.version) for v in found}, key=int)[::-1]


def _registered() -> str:
    names = shortlist(model.name for model in mlflow.MlflowClient().search_registered_models())
    return f"registered are: {names}" if names else "no model is registered yet"
