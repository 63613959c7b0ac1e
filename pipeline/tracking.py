"""Everything that talks to MLflow; nothing else imports it."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import LoggedModelInput, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted, deferred
from pipeline.network import CNNNetwork, PixelClassifier

# MLflow's remarks about itself (system metrics started, …) would bury the progress bar.
logging.getLogger("mlflow").setLevel(logging.WARNING)
# By default MLflow samples CPU and memory every 10 s, and a run shorter than that has no sample.
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")

# The validation split is the data set's `train=False` split, read after every epoch.
VALIDATION_SCHEME = "train=False split"
# MLflow allows a data set's digest 36 characters; tags hold all 64 of the sha256.
DIGEST_CHARACTERS = 32
PIXELS_TO_PROBABILITIES = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, 32, 32, 3))]),
    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 100))]),
)


class LoadedModel(NamedTuple):
    """A model that classifies pixels, and what is known of where it comes from.

    class_names is empty, and dataset `unknown`, for a model that this project did not log.
    """

    uri: str
    model: PyFuncModel
    model_id: str | None
    dataset: str
    class_names: tuple[str, ...]
    versions: tuple[ModelVersion, ...]


class RegisteredVersion(NamedTuple):
    """A version in the registry, and the aliases that point at it."""

    name: str
    version: str
    aliases: tuple[str, ...]


def check_store() -> None:
    """Raise MachineError, in one line, unless the tracking store can be read."""
    with _store_errors():
        mlflow.search_experiments(max_results=1)


@contextmanager
def track(name: str, settings: Mapping[str, object], tags: Mapping[str, object]) -> Iterator[Run]:
    """Run the body as an MLflow run and end it with its true status.

    FINISHED, or KILLED when the process is asked to stop, or FAILED. Inside `mlflow run` the run
    that it created is taken over, within another `track` the run is its child. `settings` become
    parameters, except those that `mlflow run` has logged as they were typed: MLflow refuses to log
    `0.1` over `1e-1`.
    """
    run = None
    status = "FAILED"
    try:
        with _store_errors(), deferred():
            run = mlflow.start_run(nested=True, log_system_metrics=True)
        with _store_errors():
            # A name of three parts was made up by MLflow; any other one was given by the user.
            if re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name):
                mlflow.set_tag("mlflow.runName", name)
            mlflow.log_params({k: v for k, v in settings.items() if k not in run.data.params})
            mlflow.set_tags({**tags, "git_dirty": _git_dirty(), "torch": torch.__version__})
            mlflow.log_dict(dict(settings), "config.json")
            mlflow.log_text(_environment(), "environment.txt")
        yield run
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        if run:
            with _store_errors(), deferred():
                mlflow.end_run(status)


def keep_killed(run_id: str) -> None:
    """Leave a process behind that sets the run to KILLED once `mlflow run`, our parent, has ended.

    MLflow 3.17 sets FAILED over a child's KILLED: `mlflow.projects._maybe_set_run_terminated`
    looks for the name of the status among numbers, and so takes no run for terminated.
    """
    command = [sys.executable, "-c", _KEEP_KILLED, run_id, str(os.getppid())]
    # Nobody shall wait for it: it holds neither the terminal nor the pipes of this process.
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


_KEEP_KILLED = """
import contextlib, sys
import mlflow, psutil
with contextlib.suppress(psutil.Error):
    psutil.Process(int(sys.argv[2])).wait(timeout=30)
mlflow.MlflowClient().set_terminated(sys.argv[1], "KILLED")
"""


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log to the active run; do nothing if there is none (MLflow itself would start one)."""
    if mlflow.active_run():
        mlflow.log_metrics(dict(metrics), step=step)


def log_dataset(data: ImageDataset, *contexts: str) -> None:
    """Name the splits `training` or `validation` of `data` as inputs of the active run."""
    for context in contexts:
        split = data.training if context == "training" else data.validation
        mlflow.log_input(
            from_numpy(
                split.images.numpy(),
                targets=split.labels.numpy(),
                source=data.source,  # type: ignore[arg-type]  # None: the code is the source
                name=f"{data.name}-{context}",
                digest=split.digest[:DIGEST_CHARACTERS],
            ),
            context=context,
        )


def log_figure(figure: Figure, path: str) -> None:
    """Store a picture with the active run."""
    mlflow.log_figure(figure, path)


def log_table(table: pd.DataFrame, path: str) -> None:
    """Store a table with the active run, as CSV."""
    mlflow.log_text(table.to_csv(index=False), path)


def log_network(network: CNNNetwork, data: ImageDataset) -> str:
    """Store the network with the active run, twice; return the URI of the model.

    `checkpoint.pt` holds the weights for fine-tuning. The model `model` classifies pixels; it is a
    pt2 archive, which loads without pickle and without this project's code. It freezes the mode
    that the network is in (hence `eval`), and a batch size of 1 (hence an example of 2 images).
    """
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        network.save_checkpoint(checkpoint)
        mlflow.log_artifact(str(checkpoint))
        portable = CNNNetwork.from_checkpoint(checkpoint)
    info = mlflow.pytorch.log_model(
        PixelClassifier(portable).eval(),
        name="model",
        signature=PIXELS_TO_PROBABILITIES,
        input_example=data.validation.images[:2].numpy(),
        serialization_format="pt2",
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
        metadata={"dataset": data.name, "class_names": list(data.class_names)},
    )
    return str(info.model_uri)


def register(
    model_uri: str, config: Config, data: ImageDataset, val_accuracy: float
) -> RegisteredVersion:
    """Register the active run's model, and move the aliases that are now its own.

    The variant's alias points at the newest version of that variant; `champion` at the best
    validation accuracy among all versions measured on the same data in the same way.
    """
    client = mlflow.MlflowClient()
    name = f"{data.name}-cnn"
    comparable = {"data_digest": data.digest, "validation_scheme": VALIDATION_SCHEME}
    new = mlflow.register_model(
        model_uri,
        name,
        tags={
            "variant": config.variant,
            "seed": str(config.seed),
            "val_accuracy": repr(val_accuracy),
            **comparable,
        },
    )
    rivals = [
        rival
        for rival in client.search_model_versions(f"name = '{name}'")
        if comparable.items() <= rival.tags.items()
    ]
    champion = max(rivals, key=lambda v: (float(v.tags["val_accuracy"]), -int(v.version)))
    client.set_registered_model_alias(name, config.variant, new.version)
    client.set_registered_model_alias(name, "champion", champion.version)
    aliases = [config.variant] + ["champion"] * (champion.version == new.version)
    return RegisteredVersion(name, str(new.version), tuple(aliases))


def load_model(reference: str) -> LoadedModel:
    """Load the model that a URI, a folder or a run id names.

    Raises InputError if there is none, or if it does not take pixels and return 100 probabilities.
    """
    uri = f"runs:/{reference}/model" if re.fullmatch("[0-9a-f]{32}", reference) else reference
    try:
        info = mlflow.models.get_model_info(uri)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"no model at {reference!r} ({_first_line(error)}); name one by a URI such as"
            " models:/cifar100-cnn@bn, or by the id of its run"
        ) from None
    if info.signature != PIXELS_TO_PROBABILITIES:
        raise InputError(
            f"the model at {uri} does not take uint8 [N, 32, 32, 3] and return float32 [N, 100];"
            f" its signature is {' '.join(str(info.signature).split())}"
        )
    metadata = info.metadata or {}
    return LoadedModel(
        uri=uri,
        model=mlflow.pyfunc.load_model(uri),
        model_id=info.model_id,
        dataset=metadata.get("dataset", "unknown"),
        class_names=tuple(metadata.get("class_names", ())),
        versions=tuple(mlflow.MlflowClient().search_model_versions(f"run_id = '{info.run_id}'")),
    )


def log_evaluation(run: Run, loaded: LoadedModel, metrics: Mapping[str, float]) -> None:
    """Log an evaluation's metrics, and link its run with the model and its registered versions."""
    client = mlflow.MlflowClient()
    mlflow.log_metrics(dict(metrics), model_id=loaded.model_id)
    if loaded.model_id:
        client.log_inputs(run.info.run_id, models=[LoggedModelInput(loaded.model_id)])
    for known in loaded.versions:
        client.set_model_version_tag(known.name, known.version, "evaluation_run", run.info.run_id)


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn what goes wrong in the tracking store into a MachineError of one line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise MachineError(
            f"the tracking store {mlflow.get_tracking_uri()} can't be used ({_first_line(error)});"
            " set MLFLOW_TRACKING_URI to one that can be written, such as sqlite:///mlflow.db"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _git_dirty() -> str:
    """Whether the code differs from the commit that MLflow notes; `unknown` without git."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain"]
    try:
        changes = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return "true" if changes else "false"


def _environment() -> str:
    """List every installed package, as in a requirements file."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}, key=str.lower))
