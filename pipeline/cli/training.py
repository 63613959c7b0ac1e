"""The commands that train a run, and fetch the data for it."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pipeline import openmp
from pipeline.cli import options, use_options
from pipeline.config import REGISTRATIONS, Config, check_choice
from pipeline.errors import percent, plural
from pipeline.imports import importing
from pipeline.study.grid import KEEP_STATE

if TYPE_CHECKING:
    from pipeline.training.state import History

DEFAULT = options.DEFAULT


def train(
    context: typer.Context,
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
) -> None:
    """Train one variant as one MLflow run, and register its model."""
    settings = {name: context.params[name] for name in DEFAULT.as_dict()}
    Config(**settings)  # which checks them before anything slow is imported
    check_choice("register", register, REGISTRATIONS)
    check_choice("keep_state", keep_state, KEEP_STATE)
    openmp.spin_if_idle()
    with importing():
        from pipeline.ablation.loading import completed, load_data
        from pipeline.models.registry import check_may_register
        from pipeline.models.trial.variants import try_variants
        from pipeline.runs.queries import given_run, is_training
        from pipeline.runs.resume import configuration, is_complete
        from pipeline.runs.run_result import recorded_ablation
        from pipeline.runs.training_run import train_run
        from pipeline.store.initialization import (
            check_experiment,
            check_experiment_of,
            check_store,
        )
        from pipeline.store.interface import where_to_look
        from pipeline.store.liveness import mark_dead_runs
        from pipeline.store.lookup import get_run
        from pipeline.store.tags import PARENT_TAG
        from pipeline.training.device import choose_device, choose_precision

    settings["ablation"] = options.absolute(ablation)
    config = Config(**settings)
    check_store()
    run = given_run() if resume is None else get_run(resume, is_training)
    if run:
        mark_dead_runs()
        run = get_run(run.info.run_id)
        check_experiment_of(run, continued=True)
        choices = {"register": register, "keep_state": keep_state}
        given = _given(context, settings | choices, typed=resume is not None)
        if PARENT_TAG in run.data.tags:  # a study registers its models itself
            choices["register"] = "none"
        # As typed now, else as it began; earlier versions did not record that.
        register, keep_state = (
            given.pop(name, run.data.params.get(name, value)) for name, value in choices.items()
        )
        config = configuration(run, given)
        if is_complete(run, config):
            print(
                f"run {run.info.run_id} is finished, with {config.epochs} epochs; for more:"
                f" python -m pipeline train --resume {run.info.run_id} --epochs N"
            )
            print(where_to_look(run.info.experiment_id, run.info.run_id))
            return
        recorded_ablation(config.ablation)  # or say that its new place can be named
    else:
        check_experiment(models=True)
    config = completed(config)
    choose_precision(config.precision, choose_device(config.device))  # which check both
    data = load_data(config)
    if register != "none":
        check_may_register(config.ablation, data, "give register=none")
    try_variants(config, data, [config.variant])
    print(f"{config.run_name} on {data.heading}, {plural(config.epochs, 'epoch')}")
    # On a terminal there are bars.
    show = None if sys.stderr.isatty() else partial(_print_epoch, config.epochs)
    result = train_run(
        config, data, register, continued=run, keep_state=keep_state == "yes", show=show
    )
    last, registered = result.history[-1], result.registered
    print(
        f"{config.run_name} on {data.name}: validation accuracy {percent(last['val_accuracy'])},"
        f" loss {last['val_loss']:.3f}, {result.seconds:.0f} s"
    )
    if registered:
        print(f"run {result.run_id}, registered as {registered.uri}")
        for alias in registered.aliases:
            print(f"  also models:/{registered.name}@{alias}")
        for note in registered.notes:
            print(f"  {note}")
    else:
        print(f"run {result.run_id}, not registered; its model is {result.model_uri}")
    print(where_to_look(result.experiment_id, result.run_id))
    if result.refusal:
        raise result.refusal


def _print_epoch(epochs: int, history: "History") -> None:
    """Print a line about the last epoch, and how long the others take."""
    last, count = history[-1], len(history)
    seconds = sum(epoch["epoch_seconds"] for epoch in history) / count * (epochs - count)
    left = f"; about {timedelta(seconds=round(seconds))} left" if count < epochs else ""
    print(
        f"epoch {count} of {epochs}: training loss {last['train_loss']:.3f}, validation accuracy"
        f" {percent(last['val_accuracy'])}, {last['epoch_seconds']:.0f} s{left}"
    )


def _given(context: typer.Context, settings: Mapping[str, Any], typed: bool) -> dict[str, Any]:
    """The settings that were typed, or those that differ from their defaults.

    `mlflow run` passes every parameter, including those that nobody typed.
    """
    if not typed:
        defaults = {**DEFAULT.as_dict(), "register": "alias", "keep_state": "yes"}
        return {name: v for name, v in settings.items() if v != defaults[name]}
    sources = {name: context.get_parameter_source(name) for name in settings}
    return {n: v for n, v in settings.items() if getattr(sources[n], "name", "") == "COMMANDLINE"}


def data(
    data_dir: options.DataDir = DEFAULT.data_dir,
    check: use_options.Check = False,
    sources: use_options.Sources = False,
    source: use_options.SourceAddress = None,
) -> None:
    """Fetch, verify and cache what can be downloaded; training does so too if it is missing."""
    with importing():
        from pipeline.data import describe_sources, prepare, verify

    if sources:
        print(describe_sources(source))
    else:
        print(verify(data_dir) if check else prepare(data_dir, source))
