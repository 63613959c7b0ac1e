"""Train a run."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline import openmp
from pipeline.api import options
from pipeline.api.environment import set_variables
from pipeline.api.given import noting_given
from pipeline.config import REGISTRATIONS, Config, check_choice
from pipeline.errors import percent, plural
from pipeline.imports import importing
from pipeline.news import shows_bars

if TYPE_CHECKING:
    from pipeline.runs.record import RunRecord
    from pipeline.training.history import History

log = logging.getLogger(__name__)
DEFAULT = options.DEFAULT


@noting_given
def train(
    given: Mapping[str, Any],
    *,
    ablation: options.Ablation = DEFAULT.ablation,
    variant: options.Variant = DEFAULT.variant,
    dataset: options.Dataset = DEFAULT.dataset,
    data_dir: options.DataDir = DEFAULT.data_dir,
    epochs: options.Epochs = DEFAULT.epochs,
    batch_size: options.BatchSize = DEFAULT.batch_size,
    lr: options.LearningRate = DEFAULT.lr,
    seed: options.Seed = DEFAULT.seed,
    device: options.Device = DEFAULT.device,
    precision: options.Precision = DEFAULT.precision,
    train_images: options.TrainImages = DEFAULT.train_images,
    validation: options.Validation = DEFAULT.validation,
    holdout_seed: options.HoldoutSeed = DEFAULT.holdout_seed,
    register: options.RegisterOne = "alias",
    keep_state: options.KeepState = "yes",
    resume: options.Resume = None,
) -> "RunRecord":
    """Train one variant as one MLflow run, and register its model.

    Returns the run: its ids, `history` and model, and what came of registering that (`registered`,
    or `refusal` if the store does not let this user).

    Raises InputError for what can't be trained, and MachineError if training or the store fails.
    """
    settings = {name: value for name, value in locals().items() if name in DEFAULT.as_dict()}
    Config(**settings)  # which checks them before anything slow is imported
    check_choice("register", register, REGISTRATIONS)
    keeps = options.is_yes("keep_state", keep_state)
    set_variables()
    openmp.spin_if_idle()
    with importing():
        from pipeline.ablation.loading import MOVED, load_ablation
        from pipeline.models.registry import check_may_register, registered_of
        from pipeline.models.trial.variants import try_variants
        from pipeline.runs.queries import given_run, is_readable
        from pipeline.runs.resolve import resolve
        from pipeline.runs.results import read_results
        from pipeline.runs.resume import configuration, is_complete, to_continue
        from pipeline.runs.training_run import Beginning, train_run
        from pipeline.store.initialization import check_experiment, check_experiment_of, check_store
        from pipeline.store.liveness import mark_dead_runs
        from pipeline.store.lookup import get_run

    settings["ablation"] = options.absolute(ablation)
    check_store()
    run = given_run() if resume is None else get_run(resume, is_readable)
    if run:
        mark_dead_runs()
        continued = to_continue(get_run(run.info.run_id))
        check_experiment_of(continued.run_id, continued.experiment_id, continued.artifact_uri)
        typed = {name: settings.get(name, value) for name, value in given.items()}
        if resume is None:  # `mlflow run` passes every parameter, typed or not
            defaults = {**DEFAULT.as_dict(), "register": "alias", "keep_state": "yes"}
            typed = {name: v for name, v in typed.items() if v != defaults.get(name)}
        # As typed now, else as it began. A study registers its models itself.
        register = typed.get("register", continued.register)
        keeps = options.is_yes("keep_state", typed.get("keep_state", continued.keep_state))
        changed = {name: value for name, value in typed.items() if name in settings}
        config = configuration(continued, changed)
        if is_complete(continued, config):
            log.info(
                f"run {continued.run_id} is finished, with {config.epochs} epochs; for more:"
                f" python -m pipeline train --resume {continued.run_id} --epochs N"
            )
            return replace(read_results(continued), registered=registered_of(continued.run_id))
        spec = resolve(config, load_ablation(config.ablation, MOVED))
        how = Beginning(continued, register=register, keep_state=keeps)
    else:
        check_experiment(models=True)
        spec = resolve(Config(**settings))
        how = Beginning(register=register, keep_state=keeps)
    config = spec.config
    if register != "none":
        check_may_register(spec.ablation, spec.data, "give register=none")
    try_variants(spec, [config.variant])
    log.info(f"{config.run_name} on {spec.data.heading}, {plural(config.epochs, 'epoch')}")
    return train_run(spec, how, partial(_say_epoch, config.epochs))


def _say_epoch(epochs: int, history: "History") -> None:
    """Say what the last epoch has measured, and how long the others take, where no bar does."""
    if shows_bars():
        return
    last, count = history[-1], len(history)
    seconds = sum(epoch.epoch_seconds for epoch in history) / count * (epochs - count)
    left = f"; about {timedelta(seconds=round(seconds))} left" if count < epochs else ""
    log.info(
        f"epoch {count} of {epochs}: training loss {last.train_loss:.3f}, validation accuracy"
        f" {percent(last.val_accuracy)}, {last.epoch_seconds:.0f} s{left}"
    )
