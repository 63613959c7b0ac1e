"""One training run: train a network, log it as a model, and register it."""

import math
import sys
import time
from collections.abc import Callable

import mlflow
import torch
from mlflow.entities import Run
from torch import nn

from pipeline.ablation.loading import load_ablation
from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import RegistrationError
from pipeline.machine import usable_threads
from pipeline.models import registry
from pipeline.models.aliases import move_aliases
from pipeline.models.export import log_network
from pipeline.models.trial.recipe import train_once
from pipeline.openmp import describe_spinning
from pipeline.runs import provenance, resume
from pipeline.runs.checkpoint import Checkpoints
from pipeline.runs.lifecycle import track
from pipeline.runs.run_result import (
    NO_SCHEDULE,
    RESULT_FILE,
    RESULT_TAG,
    RunResult,
    pack_result,
)
from pipeline.store import buffer
from pipeline.store.artifacts import log_figure, replace_artifact
from pipeline.store.interface import link
from pipeline.store.lookup import find_run
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import tags_of
from pipeline.training.building.parts import (
    network_settings,
    prepare,
    schedule_of,
    steps_of,
    unlike_earlier,
)
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.loop import FAST_PATH, describe_steps, is_stuck, loss_of_guess, train_network
from pipeline.training.state import History, TrainingState, fingerprint

THREADS = usable_threads()
CONTINUED_FROM = "continued_from"  # a run's tag: the id of that with whose state it began
# The least time between checkpoints; elsewhere every epoch has one. An epoch takes seconds on a
# CPU, but on a GPU it may take only a few times as long as writing a checkpoint and its metrics.
CHECKPOINT_SECONDS = {"cuda": 1.0, "mps": 1.0}


def train_run(
    config: Config,
    data: ImageDataset,
    register: str = "alias",
    continued: Run | None = None,
    parent: Run | None = None,
    threads: int = THREADS,
    show: Callable[[History], None] | None = None,
    start: Run | None = None,
    keep_state: bool = True,
) -> RunResult:
    """Train one network as one MLflow run, log its model, and register that.

    `register` is one of REGISTRATIONS.
    `continued` is a run to continue from its last checkpoint, with the number of threads it
    began with. `parent` is the study it belongs to. `show` is called after each epoch. `start` is a
    finished run of fewer epochs, from whose state a new one goes on. `keep_state` keeps that of
    this run, so that it can go on, too.

    Raises StoreError if the tracking store can't be used; the newest checkpoint is then in a
    file or the store. If only its model is refused, the result says so: the run is finished.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    inputs = provenance.inputs_of_run(config, parent)
    begun = continued or start
    if begun:
        resume.check(begun, config, data, device, inputs)
        # Both affect the last bits, and auto may choose differently here.
        recorded = tags_of(begun)
        precision, threads = recorded["precision"], int(recorded["threads"])
    torch.set_num_threads(threads)
    settings = {**config.as_dict(), "keep_state": "yes" if keep_state else "no"}
    if not parent:  # a study registers its models itself
        settings["register"] = register
    tags = _tags(config, data, device, precision, threads) | provenance.inputs_tag(inputs)
    run_id = continued.info.run_id if continued else None
    checkpoints = Checkpoints(fingerprint(config, tags), run_id or "")
    pause, written = CHECKPOINT_SECONDS.get(device.type, 0.0), -math.inf

    def save(state: TrainingState) -> None:
        nonlocal written
        if time.monotonic() - written >= pause or len(state.history) == config.epochs:
            checkpoints.write(state)
            written = time.monotonic()
        if show:
            show(state.history)

    with (
        checkpoints.kept_on_failure(),
        track(config.run_name, settings, tags, parent=parent, run_id=run_id) as run,
    ):
        checkpoints.run_id = run.info.run_id
        provenance.log_dataset(data)
        provenance.log_ablation(config.ablation)
        provenance.log_inputs({config.variant: inputs})
        state = _last_state(config, data, checkpoints, begun) if begun else None
        network, history, noted = train_network(config, data, device, precision, state, save)
        correct = noted.numpy()
        buffer.flush()
        learning = _log_learning(config, data, history, warn=not parent)
        if not parent:
            # matplotlib takes a second to import: done only when there is something to show.
            from pipeline.runs.run_figures import learning_curves

            figure = learning_curves(history, f"{config.run_name} on {data.name}")
            log_figure(figure, "learning_curves.png")
        in_store(replace_artifact)(pack_result(history, correct), RESULT_FILE)
        model_uri = log_network(network, network_settings(config, data), data, config.epochs)
        recorded = tags_of(run)
        result = RunResult(
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            config=config,
            parameters=int(recorded["num_parameters"]),
            model_uri=model_uri,
            history=history,
            tags=recorded | {"learning": learning},
            correct=correct,
        )
        if not keep_state:
            buffer.drop_state()
        if register != "none":
            try:
                result = register_model(result, data)
                if register == "alias" and result.registered:
                    (aliased,), _ = move_aliases([result.registered], data)
                    result = result._replace(registered=aliased)
            except RegistrationError as error:
                result = result._replace(refusal=error)
    return result


def register_model(result: RunResult, data: ImageDataset, study: str = "") -> RunResult:
    """Register the model of a run, for the study of that id if there is one; move no alias.

    Raises RegistrationError if the store refuses that.
    """
    accuracy = result.history[-1]["val_accuracy"]
    page = link(result.experiment_id, result.run_id)
    version = registry.register(result.model_uri, result.config, accuracy, data, page, study)
    return result._replace(registered=version)


def _tags(
    config: Config, data: ImageDataset, device: torch.device, precision: str, threads: int
) -> dict[str, object]:
    ablation = load_ablation(config.ablation)
    network, criterion, optimizer = prepare(config, data, torch.device("cpu"))
    scheduler, _ = schedule_of(config, optimizer, steps_of(config, data))
    tags: dict[str, object] = {
        "kind": "train",
        "ablation": ablation.name,
        "ablation_source": config.ablation,
        "variant": config.variant,
        "seed": config.seed,  # also parameters, which a run has a moment later
        "lr": config.lr,
        "settings": ablation.values(config.variant),
        "criterion": type(criterion).__name__,
        "optimizer": type(optimizer).__name__,
        "schedule": type(scheduler).__name__ if scheduler else NO_SCHEDULE,
        "network": type(network).__name__,
        "num_classes": data.num_classes,
        "augmentation": ablation.augmentation_of(config.variant).description,
        "device": device.type,
        "precision": precision,
        "threads": threads,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        FAST_PATH: describe_steps(network, device, precision),
        "spinning": describe_spinning(threads),
        "other_weights": _other_weights(config, data, network),
        "code_digest": provenance.code_digest(config.ablation),
        "epochs": config.epochs,
        RESULT_TAG: RESULT_FILE,
        **data.tags,
    }
    if data.caveat:
        tags["data_caveat"] = data.caveat
    if device.type == "cuda":
        tags["device_name"] = torch.cuda.get_device_name(device)
    return tags


def _other_weights(config: Config, data: ImageDataset, network: nn.Module) -> str:
    """What does not start out as in the baseline; `NAME of VARIANT` for another variant."""
    baseline, *_ = load_ablation(config.ablation).variants
    return ", ".join(
        name if variant == baseline else f"{name} of {variant}"
        for variant, names in unlike_earlier(config, data, network).items()
        for name in names
    )


def _last_state(
    config: Config, data: ImageDataset, checkpoints: Checkpoints, begun: Run
) -> TrainingState | None:
    """The state of this run, or else that of the run from which it starts."""

    def harmless() -> list[str]:  # the trial has continued without what changes in its first step
        return train_once(config, data)[0]

    state = checkpoints.read(harmless)
    start: Run | None = begun
    if begun.info.run_id == checkpoints.run_id:
        origin = begun.data.tags.get(CONTINUED_FROM)
        start = find_run(origin) if origin else None
    if state is None and start:
        state = checkpoints.read(harmless, of=start)
        if state:
            in_store(mlflow.set_tag)(CONTINUED_FROM, start.info.run_id)
    complete = len(state.history) if state else 0
    print(f"{config.run_name} continues after {complete} of {config.epochs} epochs", flush=True)
    return state


def _log_learning(config: Config, data: ImageDataset, history: History, warn: bool) -> str:
    """Log whether the network has learned anything: `ok` or `stuck`, and `warn` if not."""
    guess = loss_of_guess(config, data)
    learning = "stuck" if is_stuck(history, guess, data.num_classes) else "ok"
    if learning == "stuck" and warn:  # a study's report counts such runs
        print(
            f"warning: {config.run_name} has learned nothing: its loss is still that of a random"
            f" guess over {data.num_classes} classes, {math.log(data.num_classes):.3f} by"
            " cross-entropy; more epochs or another learning rate may help",
            file=sys.stderr,
        )
    in_store(mlflow.set_tag)("learning", learning)
    return learning
