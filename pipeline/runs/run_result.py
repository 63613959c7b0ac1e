"""A finished training run: the record that a study, its report and comparisons share."""

import io
import json
import math
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple
from zipfile import BadZipFile

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities import Run

from pipeline.ablation.definition import Ablation, Value
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.errors import InputError, RegistrationError
from pipeline.models.export import is_whole, newest_model
from pipeline.models.registry import RegisteredVersion
from pipeline.store.artifacts import read_artifact
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import tags_of
from pipeline.training.state import History
from pipeline.upstream import shell_quote

# A run's file: `history`, the metrics of each epoch as JSON, and `correct`, whether each image of
# the reported split was classified correctly (bool `[N]`). One file takes one request to read; the
# metrics take one each. The tag says that there is one.
RESULT_FILE = "result.npz"
RESULT_TAG = "result_file"
NO_SCHEDULE = "none"  # the tag `schedule` of a run whose learning rate stays as it is
# The metrics of every epoch.
LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
PACE = ("lr", "epoch_seconds", "images_per_second")

Booleans = npt.NDArray[np.bool_]


class RunResult(NamedTuple):
    """A finished training run.

    model_uri: empty if the model has been deleted. history: the metrics of each epoch, as
    `train_network` returns them. tags: its data, device and code, as recorded.
    correct: whether each image of the reported split was classified correctly; None for older runs.
    reused: trained earlier, by a study or on its own. refusal: why the store has not registered its
    model, or not moved its alias.
    """

    run_id: str
    experiment_id: str
    config: Config
    parameters: int
    model_uri: str
    history: History
    tags: Mapping[str, str]
    correct: Booleans | None = None
    reused: bool = False
    registered: RegisteredVersion | None = None
    refusal: RegistrationError | None = None

    @property
    def commit(self) -> str:
        """The commit of the run's code, `…-dirty` if changed since; empty without git."""
        commit = self.tags.get("mlflow.source.git.commit", "")
        return f"{commit}-dirty" if commit and self.tags.get("git_dirty") == "true" else commit

    @property
    def seconds(self) -> float:
        """Time spent in epochs, training and validation."""
        return sum(epoch["epoch_seconds"] for epoch in self.history)


class IncompleteRunError(InputError):
    """A finished run whose files or metrics are missing or contradict each other."""


@in_store
def read_result(run: Run, whole: bool = False) -> RunResult:
    """Read a finished run, as a search has found it, from the store: by two requests to a server.

    Runs of earlier versions, without a RESULT_FILE, take more; so do those whose file is gone.

    Raises IncompleteRunError if neither file nor metrics say what the run has measured. If it must
    be `whole`, which takes one more request, also if files of the run or of its model are gone.
    """
    found, model, tags = _read_file(run), newest_model(run), tags_of(run)
    if whole and not found and RESULT_TAG in tags:
        raise IncompleteRunError(f"{RESULT_FILE} is missing in {run.info.artifact_uri}")
    if whole and not model:
        raise IncompleteRunError("its model was deleted")
    if whole and model and not is_whole(model):
        raise IncompleteRunError(f"files of its model are missing in {model.artifact_location}")
    history, correct = found or _read_metrics(run)
    return RunResult(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        config=config_of(run),
        parameters=int(tags["num_parameters"]),
        model_uri=str(model.model_uri) if model else "",
        history=history,
        tags=tags,
        correct=correct,
    )


def pack_result(history: History, correct: Booleans) -> bytes:
    """Return the content of a RESULT_FILE. JSON keeps every bit of a float, and infinity."""
    file = io.BytesIO()
    np.savez_compressed(file, history=json.dumps(history), correct=correct)
    return file.getvalue()


def _read_file(run: Run) -> tuple[History, Booleans] | None:
    """Unpack the RESULT_FILE; None if the run has none, or only a part of one."""
    file = read_artifact(run, RESULT_FILE, expected=True) if RESULT_TAG in tags_of(run) else None
    if not file:
        return None
    try:
        with np.load(io.BytesIO(file)) as arrays:
            return json.loads(str(arrays["history"])), arrays["correct"]
    except (ValueError, KeyError, EOFError, BadZipFile):
        return None


def _read_metrics(run: Run) -> tuple[History, Booleans | None]:
    """Read what earlier versions logged: metrics, and later also `correct.npy`.

    Other metrics may have been logged by hand, at any step.
    """
    history: History = [{} for _ in range(config_of(run).epochs)]
    for name in run.data.metrics:
        if not name.startswith("system/"):
            for metric in mlflow.MlflowClient().get_metric_history(run.info.run_id, name):
                if 1 <= metric.step <= len(history):
                    # MLflow stores infinity as the largest float.
                    infinite = abs(metric.value) >= sys.float_info.max
                    value = math.inf if infinite else metric.value
                    first = history[metric.step - 1].setdefault(name, value)
                    if name in LEARNED and first != value:
                        raise IncompleteRunError(
                            f"it has logged two values of {name} in epoch {metric.step}"
                        )
    for number, epoch in enumerate(history, 1):
        for name in {*LEARNED, *PACE} - epoch.keys():
            raise IncompleteRunError(f"it has no {name} of epoch {number}")
    file = read_artifact(run, "correct.npy")
    return history, np.load(io.BytesIO(file)) if file else None


def config_of(run: Run) -> Config:
    """A run's configuration. Settings newer than the run have their defaults.

    Raises InputError for a setting that can't be one, as of another project's run.
    """
    settings: dict[str, Any] = {
        name: _read(name, run.data.params[name], type(default))
        for name, default in Config().as_dict().items()
        if name in run.data.params
    }
    # MLflow parameters can't change, but a run may have been continued beyond its epochs, and
    # `mlflow run` logs `auto` and a relative path as they were typed.
    tags = tags_of(run)
    resolved = {"ablation": "ablation_source", "variant": "variant", "dataset": "dataset"}
    settings |= {n: tags[t] for n, t in resolved.items() if t in tags}
    if "epochs" in tags:
        settings["epochs"] = _read("epochs", tags["epochs"], int)
    return Config(**settings)


def recorded_ablation(reference: str) -> Ablation:
    """Load the ablation of a run, from where it was when the run began.

    Raises InputError, with the way out, if it isn't there, or can't be loaded.
    """
    try:
        return load_ablation(reference)
    except InputError as error:
        raise InputError(f"{error}; name its place now with --ablation") from None


def _read(name: str, text: str, kind: type[str | int | float]) -> str | int | float:
    """Read a setting as `mlflow run` logs it: as typed (`1.0`), and quoted for the shell."""
    if text.startswith(("'", '"')):
        with suppress(ValueError):  # the quote is in the text
            (inner,) = shlex.split(text)
            text = inner if shell_quote(inner) == text else text
    try:
        return text if kind is str else kind(Decimal(text))
    except (ArithmeticError, ValueError):
        raise InputError(f"{name} is {text!r}; it must be a number") from None


def recipe(config: Config, tags: Mapping[str, str]) -> dict[str, str | int | float]:
    """What runs must have in common to be compared: all but variant, seed and learning rate.

    `tags` are the run's: they say what data `data_dir` held and what precision `auto` chose.
    """
    free = ("ablation", "variant", "seed", "lr", "data_dir", "device", "precision")
    settings = {name: value for name, value in config.as_dict().items() if name not in free}
    measured = {name: tags[name] for name in ("precision", "data_digest")}
    return {"ablation": ablation_name(tags), **settings, **measured}


def has_settings(tags: Mapping[str, str], now: Mapping[str, Value]) -> bool:
    """Whether a run's variant had the settings `now`; a setting that it did not know is no matter.

    Runs of earlier versions did not record them.
    """
    then = json.loads(tags.get("settings", "{}"))
    return all(now.get(name) == value for name, value in then.items())


def ablation_name(tags: Mapping[str, str]) -> str:
    """The name of a run's ablation, by its tags; that of the default one for earlier versions."""
    return tags.get("ablation") or load_ablation(AUTO).name


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Say where `one` differs from `other`, such as `epochs 5 instead of 30`."""
    parts = [
        f"{name} {shortened(one.get(name))} instead of {shortened(value)}"
        for name, value in other.items()
        if one.get(name) != value
    ]
    return ", ".join(parts)


def shortened(value: object) -> str:
    """A value for a message: of a digest, the first 16 characters."""
    text = str(value)
    return text[:16] if re.fullmatch("[0-9a-f]{32,}", text) else text
