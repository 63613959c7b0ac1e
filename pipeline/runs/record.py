"""What is known of a run that this project has recorded, and how that is written and read.

Imports neither MLflow nor torch.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.config import Config
from pipeline.errors import InputError, RegistrationError
from pipeline.runs.identity import Identity, differences
from pipeline.runs.plan import Plan
from pipeline.training.history import History

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.models.registry import RegisteredVersion

NO_SCHEDULE = "none"  # the schedule of a run whose learning rate stays as it is
STUCK, LEARNED = "stuck", "ok"  # whether a network has learned anything

# MLflow's own, by field.
OTHER_NAMES = {
    "parent": "mlflow.parentRunId",
    "commit": "mlflow.source.git.commit",
    "adopted": "pipeline.adopted",
    "exit_status": "pipeline.exit_status",
}

# What a configuration says of a run's identity: all that it has in common but what may be `auto`.
AS_TYPED = ({one.name for one in fields(Config)} & {one.name for one in fields(Identity)}) - {
    "ablation",
    "device",
    "precision",
}

Booleans = npt.NDArray[np.bool_]
T = TypeVar("T")


class UnreadableRunError(InputError):
    """A run does not say what this project records, or says what can't be."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a run is in the store, and how it ended.

    started, ended: in milliseconds since 1970. metrics: the last value of each. models: ids of the
    models that it has logged, the newest first. datasets: MLflow's digests of the data sets that it
    has logged, by name.
    """

    run_id: str
    experiment_id: str = ""
    name: str = ""
    status: str = "FINISHED"
    started: int = 0
    ended: int | None = None
    artifact_uri: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    datasets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """What came of a finished run, as `results` reads it.

    correct: whether each image of the reported split was classified correctly, bool `[N]`.
    model_uri: empty if the model has been deleted. reused: trained earlier, by a study or on its
    own. registered, refusal: what came of registering its model.
    """

    history: History = ()
    correct: Booleans | None = None
    model_uri: str = ""
    reused: bool = False
    registered: "RegisteredVersion | None" = None
    refusal: RegistrationError | None = None

    @property
    def curves(self) -> "pd.DataFrame":
        """A row for each epoch, from 1, with its metrics."""
        import pandas as pd

        rows = enumerate(self.history, 1)
        return pd.DataFrame({"epoch": n, **epoch.metrics} for n, epoch in rows)

    @property
    def seconds(self) -> float:
        """Time spent in epochs, training and validation."""
        return sum(epoch.epoch_seconds for epoch in self.history)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Results, Stored):
    """A training run: what it is, what it was made of and where, and what came of it.

    Each field of its own is recorded as a tag.

    config: as it was typed, with the names of variant and data set. settings: of the variant.
    other_weights: by an earlier variant's name, the first parameter that does not start out as in
    that one, and the number of all of them.
    reported_with: the plan of the first report that contains the run. parent: the study's id.
    """

    identity: Identity
    config: Config
    settings: Mapping[str, Any]
    network: str
    criterion: str
    optimizer: str
    schedule: str
    augmentation: str
    num_classes: int
    num_parameters: int
    other_weights: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    total_images: int
    validation_digest: str
    validation_scheme: str
    inputs_digest: str = ""
    data_caveat: str = ""
    fast_path: str = ""
    spinning: str = ""
    device_name: str = ""
    register: str = "none"
    keep_state: str = "no"
    # Set by whatever tracks the run.
    numpy: str = ""
    machine: str = ""
    node: str = ""
    processor: str = ""
    commit: str = ""
    git_dirty: str = "unknown"
    failure: str = ""
    # Set later.
    learning: str = ""
    continued_from: str = ""
    reported_with: Plan | None = None
    parent: str = ""

    @property
    def shown_commit(self) -> str:
        """The commit of the run's code, `…-dirty` if it was changed; empty without git."""
        dirty = self.commit and self.git_dirty == "true"
        return f"{self.commit}-dirty" if dirty else self.commit

    @property
    def is_stuck(self) -> bool:
        """Whether the network has learned nothing."""
        return self.learning == STUCK

    @property
    def has_read_test_split(self) -> bool:
        """Whether the run is through with what it holds out, which happens once, at the end."""
        return "test_loss" in self.metrics

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether the variant had these settings; one that was not known then is no matter."""
        return all(settings.get(name) == value for name, value in self.settings.items())


@dataclass(frozen=True, kw_only=True)
class ProgramRecord(Stored):
    """A run of somebody's program, as a study began and ended it.

    statement: what was run, without settings and seed. exit_status: of its process, once that has
    ended. adopted: the id of the run that has the outcome instead. reused: made before the study.
    """

    ablation: str
    variant: str
    seed: int
    settings: Mapping[str, Any]
    statement: str
    inputs_digest: str = ""
    exit_status: str = ""
    adopted: str = ""
    failure: str = ""
    reported_with: Plan | None = None
    parent: str = ""
    reused: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return ((self.ended or self.started) - self.started) / 1000

    @property
    def measured_in(self) -> str:
        """The id of the run that has the outcome."""
        return self.adopted or self.run_id


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Stored):
    """A study: what its runs have in common, and how it comes to them.

    study: its name, or `auto`. recipe: as of `Identity`. reuse: which finished runs it uses.
    """

    study: str
    ablation: str
    plan: Plan
    recipe: Mapping[str, Any]
    code_digest: str
    # Of networks.
    dataset: str = ""
    data_digest: str = ""
    images: str = ""
    inputs_digest: str = ""
    jobs_chosen: str = ""
    reuse: str = "same"
    failure: str = ""

    def check_same(self, plan: Plan, name: str, recipe: Mapping[str, Any]) -> None:
        """Raise InputError unless a study with these values continues this one."""
        before = {"name": self.study, "plan": self.plan.words, **self.recipe}
        if changed := differences(before, {"name": name, "plan": plan.words, **recipe}):
            raise InputError(f"study {self.run_id} has {changed}; it continues only with the same")


def _tagged(kind: type[Any]) -> dict[str, Field[Any]]:
    """The fields of a record or an identity that are tags, by the tags' names."""
    others = {one.name for other in (Stored, Results) for one in fields(other)}
    own = [one for one in fields(kind) if one.name not in others and one.type is not Identity]
    return {OTHER_NAMES.get(one.name, one.name): one for one in own}


def _is_optional(one: "Field[Any]") -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def to_tags(record: RunRecord | ProgramRecord | StudyRecord) -> dict[str, object]:
    """The tags that say what a record says; empty ones are left out."""
    values: dict[str, object] = {}
    if isinstance(record, RunRecord):
        values = {name: getattr(record.identity, name) for name in _tagged(Identity)}
    for name, one in _tagged(type(record)).items():
        value = getattr(record, one.name)
        if value or not _is_optional(one):
            values[name] = _written(value)
    return values


def from_tags(kind: type[T], tags: Mapping[str, str], **known: Any) -> T:
    """Read a record, or an identity; `known` is what no tag says.

    Raises UnreadableRunError, naming the tag, if one is missing or says what can't be.
    """
    if kind is RunRecord:
        known["identity"] = from_tags(Identity, tags)
    for name, one in _tagged(kind).items():
        if name in tags:
            known[one.name] = _read(name, tags[name], one.type)
        elif not _is_optional(one):
            raise UnreadableRunError(f"it does not say its {name}")
    read = kind(**known)
    if isinstance(read, RunRecord):
        for name in AS_TYPED:
            one, other = getattr(read.config, name), getattr(read.identity, name)
            if one != other:
                raise UnreadableRunError(f"its {name} is {other!r}, but it began with {one!r}")
    return read


def _written(value: object) -> object:
    if isinstance(value, Plan):
        return value.as_json()
    return value.as_dict() if isinstance(value, Config) else value


def _read(name: str, text: str, kind: Any) -> Any:
    """Read a tag. Raises UnreadableRunError if it can't be one."""
    try:
        if kind in (str, int, float):
            return kind(text)
        if kind in (Plan, Plan | None):
            return Plan.from_json(text)
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError
        if name == "other_weights":
            return {other: (str(first), int(count)) for other, (first, count) in value.items()}
        return Config(**value) if kind is Config else value
    except InputError as error:
        raise UnreadableRunError(str(error)) from None
    except (ValueError, TypeError):
        raise UnreadableRunError(f"its {name} is {text[:60]!r}") from None
