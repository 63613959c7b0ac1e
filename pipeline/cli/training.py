"""The commands that train: a run, a study, and what both need, the data."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pipeline import openmp
from pipeline.cli import options
from pipeline.config import AUTO, Config, check_choice
from pipeline.imports import importing
from pipeline.interruption import Interrupted
from pipeline.study.grid import (
    REGISTER,
    REUSE,
    Grid,
    check_cluster,
    check_margin,
    check_name,
    parse_jobs,
    parse_rates,
    parse_seeds,
    parse_variants,
)

if TYPE_CHECKING:
    from pipeline.training.state import History

DEFAULT = options.DEFAULT
STUDY_REMEDY = "the same command again, which keeps what is done"


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
    resume: options.Resume = None,
) -> None:
    """Train one variant as one MLflow run, and register its model."""
    settings = {name: context.params[name] for name in DEFAULT.as_dict()}
    Config(**settings)  # which checks them before anything slow is imported
    openmp.spin_if_idle()
    with importing():
        from pipeline.ablation.loading import completed, load_data
        from pipeline.models.registry import check_may_register
        from pipeline.models.trial.variants import try_variants
        from pipeline.runs.queries import get_run, given_run
        from pipeline.runs.resume import configuration, is_complete
        from pipeline.runs.run_result import recorded_ablation
        from pipeline.runs.training_run import train_run
        from pipeline.store.address import where_to_look
        from pipeline.store.initialization import (
            check_experiment,
            check_experiment_of,
            check_store,
        )
        from pipeline.store.liveness import mark_dead_runs
        from pipeline.training.device import choose_device

    settings["ablation"] = options.absolute(ablation)
    config = Config(**settings)
    check_store()
    run = given_run() if resume is None else get_run(resume)
    if run:
        mark_dead_runs()
        run = get_run(run.info.run_id)
        check_experiment_of(run, continued=True)
        config = configuration(run, _given(context, settings, typed=resume is not None))
        if is_complete(run, config):
            print(
                f"run {run.info.run_id} is finished, with {config.epochs} epochs; for more:"
                f" python -m pipeline train --resume {run.info.run_id} --epochs N"
            )
            return
        recorded_ablation(config.ablation)  # or say that its new place can be named
    else:
        check_experiment(models=True)
    config = completed(config)
    choose_device(config.device)
    data = load_data(config)
    alone = f"ablate with variants={config.variant} seeds={config.seed}, register=none"
    check_may_register(config.ablation, data, f"train it by {alone}")
    try_variants(config, data, [config.variant])
    print(f"{config.run_name} on {data.heading}, {config.epochs} epoch{'s' * (config.epochs > 1)}")
    # On a terminal there are bars.
    show = None if sys.stderr.isatty() else partial(_print_epoch, config.epochs)
    result = train_run(config, data, continued=run, show=show)
    last, registered = result.history[-1], result.registered
    assert registered  # as requested
    print(
        f"{config.run_name} on {data.name}: validation accuracy {last['val_accuracy']:.1%},"
        f" loss {last['val_loss']:.3f}, {result.seconds:.0f} s"
    )
    print(f"run {result.run_id}, registered as {registered.uri}")
    for alias in registered.aliases:
        print(f"  also models:/{registered.name}@{alias}")
    print(f"Compare it with other runs: {where_to_look(result.run_id, result.experiment_id)}")


def _print_epoch(epochs: int, history: "History") -> None:
    """Print a line about the last epoch, and how long the others take."""
    last, count = history[-1], len(history)
    seconds = sum(epoch["epoch_seconds"] for epoch in history) / count * (epochs - count)
    left = f"; about {timedelta(seconds=round(seconds))} left" if count < epochs else ""
    print(
        f"epoch {count} of {epochs}: training loss {last['train_loss']:.3f}, validation accuracy"
        f" {last['val_accuracy']:.1%}, {last['epoch_seconds']:.0f} s{left}"
    )


def _given(context: typer.Context, settings: Mapping[str, Any], typed: bool) -> dict[str, Any]:
    """The settings that were typed, or those that differ from their defaults.

    `mlflow run` passes every parameter, including those that nobody typed.
    """
    if not typed:
        return {name: v for name, v in settings.items() if v != getattr(DEFAULT, name)}
    sources = {name: context.get_parameter_source(name) for name in settings}
    return {n: v for n, v in settings.items() if getattr(sources[n], "name", "") == "COMMANDLINE"}


def ablate(
    ablation: options.Ablation = DEFAULT.ablation,
    variants: options.Variants = AUTO,
    seeds: options.Seeds = "5",
    margin: options.Margin = 0.5,
    max_seeds: options.MaxSeeds = 30,
    dataset: options.Dataset = DEFAULT.dataset,
    data_dir: options.DataDir = DEFAULT.data_dir,
    epochs: options.Epochs = DEFAULT.epochs,
    batch_size: options.BatchSize = DEFAULT.batch_size,
    lr: options.LearningRates = str(DEFAULT.lr),
    device: options.Device = DEFAULT.device,
    precision: options.Precision = DEFAULT.precision,
    train_images: options.TrainImages = DEFAULT.train_images,
    validation: options.StudyValidation = "auto",
    name: options.Name = "auto",
    register: options.Register = "median",
    reuse: options.Reuse = "same",
    jobs: options.Jobs = "auto",
    cluster: options.Cluster = "none",
    gpu_share: options.GpuShare = 1.0,
    dry_run: options.DryRun = False,
) -> None:
    """Train several variants with several seeds: a parent run, one child run each, a report."""
    rates = parse_rates(lr)
    margin = check_margin(margin, max_seeds, rates) if seeds == AUTO else 0.0
    asked_seeds = range(max_seeds) if seeds == AUTO else parse_seeds(seeds)
    check_name(name)
    check_choice("register", register, tuple(REGISTER))
    check_choice("reuse", reuse, REUSE)
    asked_jobs = parse_jobs(jobs)
    check_cluster(cluster, gpu_share)
    if validation == "auto":
        validation = "test" if len(rates) == 1 else "holdout"
    settings: dict[str, Any] = {
        "dataset": dataset,
        "data_dir": data_dir,
        "epochs": epochs,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "train_images": train_images,
        "validation": validation,
    }
    config, *_ = [Config(**settings, lr=rate) for rate in rates]  # which checks each rate
    if cluster == "none":
        openmp.spin_if_idle()
    with importing():
        from pipeline.ablation.loading import completed, load_ablation
        from pipeline.errors import StoreError
        from pipeline.execution.engine import Where
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.forecast import preview_study
        from pipeline.study.margin import check_effects
        from pipeline.study.study import run_study

    config = completed(replace(config, ablation=options.absolute(ablation)))
    own = load_ablation(config.ablation)
    grid = Grid(parse_variants(variants, own.variants, own.compared), asked_seeds, rates, margin)
    check_effects(own, grid)
    check_store()
    experiment = check_experiment(models=True)
    where = Where(cluster, asked_jobs, gpu_share)
    where.connect(experiment)
    if dry_run:
        preview_study(config, grid, where, register=register, reuse=reuse, experiment=experiment)
        return
    try:
        run_study(config, grid, where, name=name, register=register, reuse=reuse)
    except Interrupted as stop:
        stop.remedy = STUDY_REMEDY
        raise
    except StoreError as error:
        raise type(error)(f"{error}; continue the study by: {STUDY_REMEDY}") from None


def data(
    data_dir: options.DataDir = DEFAULT.data_dir,
    check: options.Check = False,
    sources: options.Sources = False,
    source: options.SourceAddress = None,
) -> None:
    """Fetch, verify and cache what can be downloaded; training does so too if it is missing."""
    if source:
        os.environ["PIPELINE_DATA_SOURCE"] = source
    with importing():
        from pipeline.data import describe_sources, prepare, verify

    if sources:
        print(describe_sources())
    else:
        print(verify(data_dir) if check else prepare(data_dir))
