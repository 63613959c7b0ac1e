"""The commands: read the options, call the package that does the work, print the outcome.

Torch and MLflow take seconds to import, so only commands that need them do. Signals wait
meanwhile: neither can be imported again after a partial import.
"""

import os
from collections.abc import Mapping
from typing import Any

import typer

from pipeline import interruption, options
from pipeline.config import DATASETS, Config, check_choice
from pipeline.errors import MachineError
from pipeline.interruption import Interrupted
from pipeline.study.grid import (
    REGISTER,
    REUSE,
    Grid,
    auto_grid,
    check_name,
    parse_jobs,
    parse_rates,
    parse_seeds,
    parse_variants,
)

app = typer.Typer(
    help="Train, compare and evaluate the tutorial's CIFAR-100 network, tracked with MLflow.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # MLproject writes data_dir; the command-line convention is data-dir. Accept both.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)

DEFAULT = Config()
STUDY_REMEDY = "the same command again, which keeps what is done"


@app.command()
def train(
    context: typer.Context,
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
    config = Config(**settings)
    with interruption.deferred():
        from pipeline.data import load
        from pipeline.runs.queries import get_run, given_run
        from pipeline.runs.resume import configuration, is_complete
        from pipeline.runs.training_run import train_run
        from pipeline.store.address import where_to_look
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.store.liveness import mark_dead_runs
        from pipeline.training.device import choose_device

    check_store()
    run = given_run() if resume is None else get_run(resume)
    if run:
        mark_dead_runs()
        run = get_run(run.info.run_id)
        config = configuration(run, _given(context, settings, typed=resume is not None))
        if is_complete(run, config):
            print(
                f"run {run.info.run_id} is finished, with {config.epochs} epochs; for more:"
                f" python -m pipeline train --resume {run.info.run_id} --epochs N"
            )
            return
    else:
        check_experiment()
    choose_device(config.device)
    data = load(config.dataset, config.data_dir, config.train_images, config.validation)
    result = train_run(config, data, continued=run)
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


def _given(context: typer.Context, settings: Mapping[str, Any], typed: bool) -> dict[str, Any]:
    """The settings that were typed, or those that differ from their defaults.

    `mlflow run` passes every parameter, including those that nobody typed.
    """
    if not typed:
        return {name: v for name, v in settings.items() if v != getattr(DEFAULT, name)}
    sources = {name: context.get_parameter_source(name) for name in settings}
    return {n: v for n, v in settings.items() if getattr(sources[n], "name", "") == "COMMANDLINE"}


@app.command()
def ablate(
    variants: options.Variants = "base,bn,dropout",
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
) -> None:
    """Train several variants with several seeds: a parent run, one child run each, a report."""
    if seeds == "auto":
        grid = auto_grid(parse_variants(variants), parse_rates(lr), margin, max_seeds)
    else:
        grid = Grid(parse_variants(variants), parse_seeds(seeds), parse_rates(lr))
    check_name(name)
    check_choice("register", register, tuple(REGISTER))
    check_choice("reuse", reuse, REUSE)
    asked_jobs = parse_jobs(jobs)
    if validation == "auto":
        validation = "test" if len(grid.rates) == 1 else "holdout"
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
    config, *_ = [Config(**settings, lr=rate) for rate in grid.rates]  # which checks each rate
    with interruption.deferred():
        from pipeline.errors import StoreError
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.study import run_study

    check_store()
    check_experiment()
    try:
        run_study(config, grid, name=name, register=register, reuse=reuse, asked_jobs=asked_jobs)
    except Interrupted as stop:
        stop.remedy = STUDY_REMEDY
        raise
    except StoreError as error:
        raise type(error)(f"{error}; continue the study by: {STUDY_REMEDY}") from None


@app.command()
def compare(
    runs: options.RunIds = None,
    experiment: options.Experiment = None,
) -> None:
    """Write a study's report on finished runs, such as three that were started separately."""
    with interruption.deferred():
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.compare import compare_runs

    check_store()
    compare_runs(runs or [], experiment or ("" if runs else check_experiment()))


@app.command()
def evaluate(
    model: options.Model,
    dataset: options.ModelDataset = "auto",
    data_dir: options.DataDir = DEFAULT.data_dir,
) -> None:
    """Evaluate a model on its data set's validation split, as a new MLflow run."""
    check_choice("dataset", dataset, ("auto", *DATASETS))
    with interruption.deferred():
        from pipeline.runs.evaluation_run import evaluate_run
        from pipeline.store.address import where_to_look
        from pipeline.store.initialization import check_experiment, check_store

    check_store()
    check_experiment()
    run, name, evaluation = evaluate_run(model, dataset, data_dir)
    print(f"{model} on {name}'s validation split")
    for metric, value in evaluation.metrics.items():
        print(f"  {metric:20} {value:.4f}")
    print("most frequent confusions")
    for row in evaluation.confusions.head(5).to_dict("records"):
        print(f"  {row['class']} taken for {row['taken_for']}: {row['images']} images")
    print(f"See the run: {where_to_look(run.info.run_id, run.info.experiment_id)}")


@app.command()
def data(
    data_dir: options.DataDir = DEFAULT.data_dir,
    check: options.Check = False,
    sources: options.Sources = False,
    source: options.SourceAddress = None,
) -> None:
    """Fetch, verify and prepare CIFAR-100; training does the same if it is missing."""
    if source:
        os.environ["PIPELINE_DATA_SOURCE"] = source
    with interruption.deferred():
        from pipeline.data import cifar100, download
        from pipeline.data.sources import chosen_sources

    if sources:
        print("\n".join(download.describe(chosen_sources())))
    elif check:
        verified = cifar100.check(data_dir)
        if not verified:
            raise MachineError(
                "CIFAR-100 is neither in data_dir nor in the cache; fetch it by: data"
            )
        print("\n".join(verified))
    else:
        loaded = cifar100.load(data_dir)
        print(
            f"CIFAR-100: {len(loaded.training):,} training and {len(loaded.validation):,}"
            f" validation images, sha256 {loaded.digest}, cached in {cifar100.array_folder()}"
        )
