"""One tracked run each: train and register a network, or evaluate a registered one."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pipeline import registry, tracking
from pipeline.config import Config
from pipeline.data import load
from pipeline.data.dataset import ImageDataset
from pipeline.device import choose_device, choose_precision
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation, evaluate
from pipeline.figures import confusion_figure, learning_curves
from pipeline.network import CNNNetwork, count_parameters
from pipeline.results import RunResult
from pipeline.training import VALIDATION_BATCH_SIZE, train_network

# The code that decides the numbers of a run; a test holds the list to what training.py imports.
RESULT_CODE = ("config.py", "device.py", "network.py", "randomness.py", "training.py", "data/*.py")


@cache
def code_digest() -> str:
    """sha256 (hex) of the code that decides the numbers of a run, as this process found it.

    Runs with equal digests may be compared and reused, whatever else a commit has changed.
    """
    folder = Path(__file__).parent
    files = sorted(path for pattern in RESULT_CODE for path in folder.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def train_run(config: Config, data: ImageDataset, register: bool = True) -> RunResult:
    """Train one network as one MLflow run; log its model, and `register` and alias it."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    parameters = count_parameters(CNNNetwork(config.variant))
    tags = {
        "kind": "train",
        "variant": config.variant,
        "seed": config.seed,
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "num_parameters": parameters,
        "code_digest": code_digest(),
        **data.tags,
    }
    if device.type == "cuda":
        tags["device_name"] = torch.cuda.get_device_name(device)
    with tracking.track(config.run_name, config.as_dict(), tags) as run:
        tracking.log_dataset(data, "training", "validation", *(["test"] if data.test else []))
        network, history = train_network(config, data, device, precision)
        title = f"{config.run_name} on {data.name}"
        tracking.log_figure(learning_curves(history, title), "learning_curves.png")
        model_uri = registry.log_network(network, data)
        known = dict(run.data.tags)
        result = RunResult(run.info.run_id, config, parameters, model_uri, history, known)
        return registry.register(result, data) if register else result


def evaluate_run(model: str, dataset: str, data_dir: str) -> tuple[str, Evaluation]:
    """Evaluate the model that a URI or run id names, in an MLflow run of its own.

    `dataset` may be `auto`: the one that the model was trained on. Returns the data set's name too.
    Raises InputError if there is no such model, or if it knows other classes.
    """
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
    return name, result
