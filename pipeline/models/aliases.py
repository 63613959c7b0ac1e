"""Which version an alias points at: a variant's newest model of a full recipe, or the best of all.

docs/models.md has the rule as a table.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion

from pipeline.data.dataset import TEST_SPLIT, ImageDataset
from pipeline.errors import percent, plural
from pipeline.models.export import MODEL_FILE
from pipeline.models.registry import RegisteredVersion, refresh, refused_as
from pipeline.store.artifacts import missing_files
from pipeline.store.outages.failures import is_outage, unless_forbidden
from pipeline.store.outages.waiting import in_store

CHAMPION, ACCURACY = "champion", "val_accuracy"  # an alias, and a version's tag
MEASURED = ("validation_digest", "validation_scheme")  # equal where accuracies are comparable


class Registry(NamedTuple):
    """A registered model at one time: its versions, and those that its aliases point at."""

    versions: Mapping[str, ModelVersion]  # by number
    holders: Mapping[str, ModelVersion]  # by alias


class _Training(NamedTuple):
    """What a version was trained on: the data set by its digest, how much of it, and how often."""

    data: str
    left_out: int  # training images, by `train_images`
    holds_out: bool
    epochs: int


def move_aliases(
    registered: Sequence[RegisteredVersion], data: ImageDataset
) -> tuple[list[RegisteredVersion], Mapping[str, ModelVersion]]:
    """Point the variants' aliases at these versions where the rule allows it, and `champion`.

    registered: versions of one model, at most one of each variant. Returns them with the aliases
    that point at them now, and with notes; and the versions at which the aliases of all variants
    point now.

    `champion` moves to the best of all versions measured on the same validation images in the same
    way. (Their training images may differ: a trial on a few hundred must not become champion just
    for being the only one of its kind.)

    Raises RegistrationError if the store refuses that for another reason than this user's rights.
    """
    if not registered:
        return [], {}
    (name,) = {one.name for one in registered}
    before = look_up(name)  # once: after an outage, what was moved before it is still said
    if before is None:
        return list(registered), {}
    notes = {one: _move_to(before.versions[one.version], before) for one in registered}
    notes[registered[-1]] += _move_champion(name, data, before)
    moved = [refresh(one)._replace(notes=tuple(lines)) for one, lines in notes.items()]
    here = {alias: before.versions[one.version] for one in moved for alias in one.aliases}
    return moved, {**before.holders, **here}


@in_store
def look_up(name: str) -> Registry | None:
    """Read a registered model; None, with a note, if this user may not see its aliases."""
    client = mlflow.MlflowClient()
    unseen = f"see the aliases of models:/{name}, so that none is moved"
    with refused_as(f"the aliases of models:/{name} can't be read"), unless_forbidden(unseen):
        versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
        aliases = client.get_registered_model(name).aliases
        holders = {a: versions[str(n)] for a, n in aliases.items() if str(n) in versions}
        return Registry(versions, holders)
    return None


@in_store
def _move_to(new: ModelVersion, before: Registry) -> list[str]:
    """Point its variant's alias at a version, if it may move; return what there is to say."""
    alias = new.tags["variant"]
    old = before.holders.get(alias)
    if old and old.version == new.version:
        return []
    gone = old is not None and not _has_files(old)
    obstacle = _obstacle(new, None if gone else old)
    if not obstacle:
        # Of two runs that register at the same moment, the later one has the alias.
        return _set(alias, new, old, ", whose files are gone" if gone else "")
    now = f"stays at {_shown(old)}" if old else "is not set"
    by_hand = f"set_registered_model_alias('{new.name}', '{alias}', '{new.version}')"
    return [
        f"models:/{new.name}@{alias} {now}: models:/{new.name}/{new.version} {obstacle};"
        f' to point it there: python -c "import mlflow; mlflow.MlflowClient().{by_hand}"'
    ]


@in_store
def _move_champion(name: str, data: ImageDataset, before: Registry) -> list[str]:
    """Point `champion` at the best version; return what there is to say."""
    notes, rivals = list[str](), list[ModelVersion]()
    measured = {key: data.tags[key] for key in MEASURED}
    versions: Collection[ModelVersion] = before.versions.values()
    seen, old = 0, before.holders.get(CHAMPION)
    while len(versions) != seen:  # again if another run has registered a version meanwhile
        seen = len(versions)
        rivals = [one for one in versions if measured.items() <= one.tags.items()]
        # Accuracies on other images aren't comparable: a hold-out trial can't replace the champion.
        is_trial = data.test and len(rivals) < len(versions)
        best = None if is_trial else _best(rivals)
        if best and (old is None or best.version != old.version):
            first = before.holders.get(CHAMPION)
            same = first and all(first.tags.get(key) == best.tags[key] for key in MEASURED)
            why = "" if same else ", measured on other images"
            notes, old = _set(CHAMPION, best, first, why), best
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    edited = {one.version: one.tags.get(ACCURACY) for one in rivals if _accuracy(one) is None}
    return notes + [
        f"models:/{name}/{version} is left out: its tag {ACCURACY} is {tag!r}, no fraction"
        for version, tag in edited.items()
    ]


def _set(alias: str, new: ModelVersion, old: ModelVersion | None, why: str = "") -> list[str]:
    uri = f"models:/{new.name}@{alias}"
    with refused_as(f"{uri} can't be moved to {_shown(new)}"), unless_forbidden(f"move {uri}"):
        mlflow.MlflowClient().set_registered_model_alias(new.name, alias, new.version)
        return [f"{uri}: {_shown(new)}, before {_shown(old)}{why}"] if old else []
    return []


def _obstacle(version: ModelVersion, holder: ModelVersion | None) -> str:
    """Why the alias at `holder` may not move to a version; empty if it may."""
    new, old = _training(version), _training(holder) if holder else None
    assert new  # it has just been registered with all that
    if new.left_out:
        return f"left out {new.left_out:,} training images"
    if holder is None:
        return ""
    if old is None:  # it may be the better one
        unknown = f"what version {holder.version} was trained on is not known"
        return f"can't be compared with it, since {unknown}"
    if old.left_out:
        return ""
    if new.data != old.data:
        return "was trained on other data"
    if new.holds_out and not old.holds_out:
        return "held out a part of the training images"
    if new.epochs < old.epochs:
        return f"has {plural(new.epochs, 'epoch')}, not {old.epochs}"
    return ""


def _training(version: ModelVersion) -> _Training | None:
    """What a version was trained on; None if it was registered by hand, or its tags edited."""
    try:
        return _Training(
            data=version.tags.get("whole_digest", ""),
            left_out=int(version.tags["left_out"]),
            holds_out=version.tags["validation_scheme"] != TEST_SPLIT,
            epochs=int(version.tags["epochs"]),
        )
    except (KeyError, ValueError):
        return None


def _best(rivals: Collection[ModelVersion]) -> ModelVersion | None:
    """The version with the best accuracy, of equal ones the oldest; None if none says its own."""
    known = [(accuracy, one) for one in rivals if (accuracy := _accuracy(one)) is not None]
    known.sort(key=lambda pair: (-pair[0], int(pair[1].version)))
    return next((version for _, version in known if _has_files(version)), None)


def _has_files(version: ModelVersion) -> bool:
    address = mlflow.MlflowClient().get_model_version_download_uri(version.name, version.version)
    try:
        return not missing_files(address, [MODEL_FILE])
    except Exception as error:  # each kind of artifact store has its own
        if is_outage(error):
            raise
        return True  # as far as can be known


def _shown(version: ModelVersion) -> str:
    """A version's number and accuracy: `version 7 (49.5 %)`."""
    accuracy = _accuracy(version)
    return f"version {version.version}" + ("" if accuracy is None else f" ({percent(accuracy)})")


def _accuracy(version: ModelVersion) -> float | None:
    """A version's validation accuracy; None if it was registered by hand, or its tag edited."""
    try:
        accuracy = float(version.tags[ACCURACY])
    except (KeyError, ValueError):
        return None
    return accuracy if 0 <= accuracy <= 1 else None
