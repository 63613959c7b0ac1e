"""A finished training run: the record that a study, its report and comparisons share."""

import io
import json
import math
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities import Run

from pipeline.ablation.definition import Value
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.models.export import logged_models
from pipeline.models.registry import RegisteredVersion
from pipeline.store.artifacts import read_artifact
from pipeline.store.waiting import in_store
from pipeline.training.state import History
from pipeline.upstream import shell_quote

# A run's file: whether each image of the reported split was classified correctly (bool `[N]`).
CORRECT_IMAGES = "correct.npy"


Booleans = npt.NDArray[np.bool_]


class RunResult(NamedTuple):
    """A finished training run.

    model_uri: empty if the model has been deleted. history: the metrics of each epoch, as
    `train_network` returns them. tags: its data, device and code, as recorded.
    correct: whether each image of the reported split was classified correctly; None for older runs.
    reused: trained earlier, by a study or on its own.
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

    @property
    def commit(self) -> str:
        """The commit of the run's code, `…-dirty` if changed since; empty without git."""
        commit = self.tags.get("mlflow.source.git.commit", "")
        return f"{commit}-dirty" if commit and self.tags.get("git_dirty") == "true" else commit

    @property
    def seconds(self) -> float:
        """Time spent in epochs, training and validation."""
        return sum(epoch["epoch_seconds"] for epoch in self.history)


@in_store
def read_result(run: Run) -> RunResult:
    """Read a finished run from the store."""
    client = mlflow.MlflowClient()
    history: History = []
    for name in run.data.metrics:
        if not name.startswith("system/"):
            for metric in client.get_metric_history(run.info.run_id, name):
                history += [{} for _ in range(metric.step - len(history))]
                # MLflow stores infinity as the largest float.
                infinite = abs(metric.value) >= sys.float_info.max
                history[metric.step - 1][name] = math.inf if infinite else metric.value
    file = read_artifact(run.info.run_id, CORRECT_IMAGES)
    models = sorted(logged_models(run.info.run_id), key=lambda output: output.step)
    return RunResult(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        config=config_of(run),
        parameters=int(run.data.tags["num_parameters"]),
        model_uri=f"models:/{models[-1].model_id}" if models else "",
        history=history,
        tags=dict(run.data.tags),
        correct=np.load(io.BytesIO(file)) if file else None,
    )


def config_of(run: Run) -> Config:
    """A run's configuration. Settings newer than the run have their defaults."""
    settings: dict[str, Any] = {
        name: _read(run.data.params[name], type(default))
        for name, default in Config().as_dict().items()
        if name in run.data.params
    }
    # MLflow parameters can't change, but a run may have been continued beyond its epochs, and
    # `mlflow run` logs `auto` and a relative path as they were typed.
    resolved = {"ablation": "ablation_source", "variant": "variant", "dataset": "dataset"}
    settings |= {n: run.data.tags[t] for n, t in resolved.items() if t in run.data.tags}
    if "epochs" in run.data.tags:
        settings["epochs"] = int(run.data.tags["epochs"])
    return Config(**settings)


def _read(text: str, kind: type[str | int | float]) -> str | int | float:
    """Read a setting as `mlflow run` logs it: as typed (`1.0`), and quoted for the shell."""
    if text.startswith(("'", '"')):
        with suppress(ValueError):  # the quote is in the text
            (inner,) = shlex.split(text)
            text = inner if shell_quote(inner) == text else text
    return text if kind is str else kind(Decimal(text))


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
        f"{name} {str(one.get(name))[:16]} instead of {str(value)[:16]}"
        for name, value in other.items()
        if one.get(name) != value
    ]
    return ", ".join(parts)
