"""One tracked run each: train and register a network, or evaluate a registered one."""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mlflow.entities import Run

from pipeline import checkpoint, outbox, registry, resume, tracking
from pipeline.config import Config
from pipeline.data import load
from pipeline.data.dataset import ImageDataset
from pipeline.device import choose_device, choose_precision
from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted
from pipeline.machine import usable_threads
from pipeline.network import CNNNetwork, count_parameters
from pipeline.results import RunResult
from pipeline.store import StoreError, StoreOutageError
from pipeline.training import (
    VALIDATION_BATCH_SIZE,
    History,
    TrainingState,
    is_stuck,
    train_network,
)

# matplotlib and scikit-learn, which take a second, are imported when a run has something to show.
if TYPE_CHECKING:
    from pipeline.evaluation import Evaluation

# The code that decides the numbers of a run; a test holds the list to what training.py imports.
RESULT_CODE = (
    "blocked.py",
    "config.py",
    "device.py",
    "network.py",
    "randomness.py",
    "cuda_graph.py",
    "training.py",
    "data/*.py",
)


THREADS = usable_threads()
STUCK = "its loss is no better than a guess's, ln(100) = 4.6; another learning rate may help"


@cache
def code_digest() -> str:
    """sha256 (hex) of the code that decides the numbers of a run, as this process found it.

    Runs with equal digests may be compared and reused, whatever else a commit has changed.
    """
    folder = Path(__file__).parent
    files = sorted(path for pattern in RESULT_CODE for path in folder.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def train_run(
    config: Config,
    data: ImageDataset,
    register: bool = True,
    continued: Run | None = None,
    parent: Run | None = None,
    threads: int = THREADS,
    show: Callable[[History], None] | None = None,
) -> RunResult:
    """Train one network as one MLflow run; log its model, and `register` and alias it.

    `continued` is a run to go on with, from its last complete epoch, and with the threads that it
    began with. `parent` is the study that it belongs to. `show` is told after each epoch.

    Raises StoreError if the tracking store can't be used; what it lacks is kept in a file, or was
    stored before.
    """
    device = choose_device(config.device)
    if continued:
        resume.check(continued, data, device, code_digest())
        # Both decide the last bits, and auto may be another precision here.
        precision = continued.data.tags["precision"]
        threads = int(continued.data.tags["threads"])
    else:
        precision = choose_precision(config.precision, device)
    torch.set_num_threads(threads)
    parameters = count_parameters(CNNNetwork(config.variant))
    tags = {
        "kind": "train",
        "variant": config.variant,
        "seed": config.seed,
        "device": device.type,
        "precision": precision,
        "threads": threads,
        "num_parameters": parameters,
        "code_digest": code_digest(),
        "epochs": config.epochs,
        **data.tags,
    }
    if device.type == "cuda":
        tags["device_name"] = torch.cuda.get_device_name(device)
    fingerprint = checkpoint.fingerprint(config, tags)
    run_id, packed = continued.info.run_id if continued else "", b""

    def save(state: TrainingState) -> None:
        nonlocal packed
        packed = checkpoint.pack(state, fingerprint)
        if not outbox.save_state(packed):
            checkpoint.keep(run_id, packed)  # this process may end before the store is back
        if show:
            show(state.history)

    try:
        with tracking.track(
            config.run_name, config.as_dict(), tags, parent=parent, run_id=run_id or None
        ) as run:
            run_id = run.info.run_id
            tracking.log_dataset(data, "training", "validation", *(["test"] if data.test else []))
            state = resume.state_of(run, fingerprint) if continued else None
            if continued:
                epochs = f"{len(state.history) if state else 0} of {config.epochs} epochs"
                print(f"{config.run_name} goes on after {epochs}", flush=True)
            network, history = train_network(config, data, device, precision, state, save)
            outbox.deliver()
            learning = {"learning": "ok"}
            if is_stuck(history):
                learning = {"learning": "stuck"}
                print(f"warning: {config.run_name} has learned nothing: {STUCK}", file=sys.stderr)
            tracking.set_tags(learning)
            from pipeline.figures import learning_curves

            title = f"{config.run_name} on {data.name}"
            tracking.log_figure(learning_curves(history, title), "learning_curves.png")
            model_uri = registry.log_network(network, data, config.epochs)
            known = run.data.tags | learning
            result = RunResult(run_id, config, parameters, model_uri, history, known)
            if register:
                result = registry.register(result, data)
        checkpoint.kept_file(run_id).unlink(missing_ok=True)
        return result
    except Interrupted as stop:
        stop.remedy = _continue(run_id)
        raise
    except StoreOutageError as outage:
        if not packed:
            raise StoreOutageError(f"{outage}; then go on by: {_continue(run_id)}") from None
        raise StoreOutageError(
            f"{outage}; all that the run has is kept in {checkpoint.keep(run_id, packed)}; once"
            f" the store answers, deliver it by: {_continue(run_id)}"
        ) from None
    except StoreError as error:
        if packed:
            with suppress(MachineError):  # the disk is full here as well; the last state is stored
                checkpoint.keep(run_id, packed)
        raise StoreError(f"{error}; then go on by: {_continue(run_id)}") from None


def _continue(run_id: str) -> str:
    return f"python -m pipeline train --resume {run_id}" if run_id else "the same command"


def evaluate_run(model: str, dataset: str, data_dir: str) -> "tuple[str, str, Evaluation]":
    """Evaluate the model that a URI or run id names, in an MLflow run of its own.

    `dataset` may be `auto`: the one that the model was trained on. Returns the run's id, the data
    set's name and the evaluation. Raises InputError if there is no such model, or if it knows other
    classes.
    """
    from pipeline.evaluation import evaluate
    from pipeline.figures import confusion_figure

    if tracking.given_run():
        raise InputError("evaluate makes a run of its own; leave --run-id out")
    loaded = registry.load_model(model)
    name = loaded.dataset if dataset == "auto" else dataset
    if name == "unknown":
        raise InputError(f"{model} does not say what it was trained on; give dataset=cifar100")
    data = load(name, data_dir)
    if loaded.class_names and loaded.class_names != data.class_names:
        raise InputError(f"{model} was trained on {loaded.dataset}; it has no classes of {name}")
    settings = {"model": model, "dataset": name, "data_dir": data_dir}
    tags = {"kind": "evaluate", "model_uri": loaded.uri, **data.tags}
    if loaded.versions:
        tags["model_version"] = ", ".join(f"{v.name}/{v.version}" for v in loaded.versions)
    run_name = f"evaluate-{model.removeprefix('models:/')}"
    with tracking.track(run_name, settings, tags) as run:
        tracking.log_dataset(data, "validation")
        images = data.validation.images.numpy()
        batches = np.split(images, range(VALIDATION_BATCH_SIZE, len(images), VALIDATION_BATCH_SIZE))
        probabilities = np.concatenate([loaded.model.predict(batch) for batch in batches])
        if not np.isfinite(probabilities).all():
            raise InputError(f"{model} predicts no numbers; did its training diverge?")
        result = evaluate(probabilities, data)
        registry.log_evaluation(run, loaded, result.metrics)
        tracking.log_table(result.per_class, "per_class_accuracy.csv")
        tracking.log_table(result.confusions, "confusions.csv")
        title = f"{model} on {name}, {len(images):,} validation images"
        tracking.log_figure(confusion_figure(result.confusion, data, title), "confusion_matrix.png")
    return run.info.run_id, name, result
