"""One training run: train a network, log it as a model, and register it."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pipeline.ablation.inputs import digest_of
from pipeline.errors import RegistrationError
from pipeline.models import registry
from pipeline.models.aliases import move_aliases
from pipeline.models.export import log_network
from pipeline.models.trial.recipe import train_once
from pipeline.openmp import describe_spinning
from pipeline.runs import provenance, resume
from pipeline.runs.checkpoint import Checkpoints
from pipeline.runs.identity import Identity
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import read_record
from pipeline.runs.record import (
    LEARNED,
    NO_SCHEDULE,
    STUCK,
    RunRecord,
    StudyRecord,
    UnreadableRunError,
    to_tags,
)
from pipeline.runs.results import RESULT_FILE, pack_results
from pipeline.store import uploads
from pipeline.store.interface import link
from pipeline.store.lookup import find_run
from pipeline.training.device import restoring_torch, set_up_torch
from pipeline.training.history import History
from pipeline.training.loop import Trained, Training, is_stuck, loss_of_guess
from pipeline.training.spec import RunSpec
from pipeline.training.state import TrainingState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """How a run begins and what is kept of it.

    continued: a run to continue from its last checkpoint. start: else a finished run of fewer
    epochs, from whose state a new one goes on. study: that it belongs to. register: one of
    REGISTRATIONS. keep_state: whether a finished run can go on, too.
    """

    continued: RunRecord | None = None
    start: RunRecord | None = None
    study: StudyRecord | None = None
    register: str = "alias"
    keep_state: bool = True


@restoring_torch()
def train_run(
    spec: RunSpec, how: Beginning, show: Callable[[History], None] = lambda _: None
) -> RunRecord:
    """Train one network as one MLflow run, log its model, and register that.

    `show` is called after each epoch.

    Raises StoreError if the tracking store can't be used; the newest checkpoint is then in a
    file or the store. If only its model is refused, the record says so: the run is finished.
    """
    inputs = provenance.inputs_of_run(spec, how.study)
    begun = how.continued or how.start
    if begun:  # both affect the last bits, and `auto` may choose differently here
        then = begun.identity
        spec = replace(spec, precision=then.precision, threads=then.threads)
    identity = provenance.identity_of(spec)
    if begun:
        resume.check(begun, identity, inputs)
    set_up_torch()
    torch.set_num_threads(spec.threads)
    training = Training(spec)
    begins = _record(training, identity, how, digest_of(inputs))
    run_id = how.continued.run_id if how.continued else None
    checkpoints = Checkpoints(identity.fingerprint, run_id or "")
    settings: dict[str, object] = {**spec.config.as_dict(), "keep_state": begins.keep_state}
    if not how.study:  # a study registers its models itself
        settings["register"] = how.register
    values = {"kind": "train", **to_tags(begins)}
    name = spec.config.run_name
    with (
        checkpoints.kept_on_failure(),
        track(name, settings, values, parent=how.study, run_id=run_id) as run,
    ):
        checkpoints.run_id = run.info.run_id
        provenance.log_dataset(spec.data)
        provenance.log_ablation(spec.ablation)
        provenance.log_inputs({spec.variant: inputs})
        if begun and (state := _last_state(spec, checkpoints, begun)):
            training.load(state)
            for n, epoch in enumerate(training.history, 1):
                uploads.log_metrics(epoch.metrics, n)  # any that were not logged before
        trained = _train(training, checkpoints, show, how.keep_state)
        learning = _log_learning(spec, trained.history, warn=not how.study)
        if not how.study:
            # matplotlib takes a second to import: done only when there is something to show.
            from pipeline.runs.run_figures import as_png, learning_curves

            figure = learning_curves(trained.history, f"{name} on {spec.data.name}")
            uploads.log_files({"learning_curves.png": as_png(figure)})
        correct = trained.correct.numpy()
        uploads.log_files({RESULT_FILE: pack_results(trained.history, correct)})
        uri = log_network(
            trained.network,
            spec.network_settings,
            spec.data,
            spec.config.epochs,
            is_new=not how.continued,
        )
        record = replace(
            read_record(RunRecord, run),
            status="FINISHED",
            learning=learning,
            history=trained.history,
            correct=correct,
            model_uri=uri,
        )
        if not how.keep_state:
            uploads.drop_state()
        if how.register != "none":
            record = _register(record, spec, how.register)
    return record


def _train(
    training: Training,
    checkpoints: Checkpoints,
    show: Callable[[History], None],
    keep_state: bool,
) -> Trained:
    """Train to the end: log what each epoch measures, and write checkpoints."""
    spec, path = training.spec, training.fast_path
    for epoch in training.epochs():
        count = len(training.history)
        uploads.log_metrics(epoch.metrics, count)
        checkpoints.write(training.state, count == spec.config.epochs, keep_state)
        if training.fast_path != path:  # a graph could not be captured
            path = training.fast_path
            uploads.set_tags({"fast_path": path})
        show(training.history)
    trained = training.finish()
    of_test = {name: v for name, v in trained.history[-1].metrics.items() if name[:4] == "test"}
    uploads.log_metrics(of_test, spec.config.epochs)
    return trained


def _register(record: RunRecord, spec: RunSpec, which: str) -> RunRecord:
    try:
        record = register_model(record, spec)
        if which == "alias" and record.registered:
            (aliased,), _ = move_aliases([record.registered], spec.data)
            record = replace(record, registered=aliased)
    except RegistrationError as error:
        record = replace(record, refusal=error)
    return record


def register_model(record: RunRecord, spec: RunSpec, study_id: str = "") -> RunRecord:
    """Register the model of a run, for the study of that id if there is one; move no alias.

    spec: of the run, or of another one of the same study.

    Raises RegistrationError if the store refuses that.
    """
    page, accuracy = link(record.experiment_id, record.run_id), record.history[-1].val_accuracy
    own = replace(spec, config=record.config)
    version = registry.register(record.model_uri, own, accuracy, page, study_id)
    return replace(record, registered=version)


def _record(training: Training, identity: Identity, how: Beginning, inputs: str) -> RunRecord:
    """What a run says of itself when it begins."""
    spec, parts = training.spec, training.parts
    data, network = spec.data, parts.network
    on_cuda = spec.device.type == "cuda"
    return RunRecord(
        run_id="",
        identity=identity,
        config=spec.config,
        settings=spec.ablation.values(spec.variant),
        network=type(network).__name__,
        criterion=type(parts.criterion).__name__,
        optimizer=type(parts.optimizer).__name__,
        schedule=type(parts.scheduler).__name__ if parts.scheduler else NO_SCHEDULE,
        augmentation=spec.augmentation.description,
        num_classes=data.num_classes,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        other_weights={
            other: (names[0], len(names))
            for other, names in spec.unlike_earlier(spec.network()).items()
        },
        total_images=data.total,
        validation_digest=data.validation.digest,
        validation_scheme=data.validation_scheme,
        inputs_digest=inputs,
        data_caveat=data.caveat,
        fast_path=training.fast_path,
        spinning=describe_spinning(spec.threads),
        device_name=torch.cuda.get_device_name(spec.device) if on_cuda else "",
        register="none" if how.study else how.register,
        keep_state="yes" if how.keep_state else "no",
    )


def _last_state(spec: RunSpec, checkpoints: Checkpoints, begun: RunRecord) -> TrainingState | None:
    """The state of this run, or else that of the run from which it starts."""

    def harmless() -> list[str]:  # the trial has continued without what changes in its first step
        return train_once(replace(spec, device=torch.device("cpu")))[0]

    state = checkpoints.read(harmless)
    start = _origin(begun) if begun.run_id == checkpoints.run_id else begun
    if state is None and start:
        state = checkpoints.read(harmless, of=start)
        if state:
            uploads.set_tags({"continued_from": start.run_id})
    complete, name = len(state.history) if state else 0, spec.config.run_name
    log.info(f"{name} continues after {complete} of {spec.config.epochs} epochs")
    return state


def _origin(record: RunRecord) -> RunRecord | None:
    """The run from whose state this one has gone on, if there is one that can be read."""
    run = find_run(record.continued_from) if record.continued_from else None
    try:
        return read_record(RunRecord, run) if run else None
    except UnreadableRunError as error:
        log.warning(f"note: run {record.continued_from}, with which this one began: {error}")
        return None


def _log_learning(spec: RunSpec, history: History, warn: bool) -> str:
    """Log whether the network has learned anything, and `warn` if not."""
    classes = spec.data.num_classes
    learning = STUCK if is_stuck(history[-1], loss_of_guess(spec), classes) else LEARNED
    if learning == STUCK and warn:  # a study's report counts such runs
        log.warning(
            f"warning: {spec.config.run_name} has learned nothing: its loss is still that of a"
            f" random guess over {classes} classes, {math.log(classes):.3f} by cross-entropy; more"
            " epochs or another learning rate may help"
        )
    uploads.set_tags({"learning": learning})
    return learning
