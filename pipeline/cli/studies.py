"""The command that trains a study."""

from dataclasses import replace
from typing import Any

from pipeline import openmp
from pipeline.cli import options
from pipeline.config import AUTO, Config, check_choice
from pipeline.imports import importing
from pipeline.interruption import Interrupted
from pipeline.study.grid import (
    KEEP_STATE,
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

DEFAULT = options.DEFAULT
STUDY_REMEDY = "the same command again, which keeps what is done"


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
    holdout_seed: options.HoldoutSeed = DEFAULT.holdout_seed,
    name: options.Name = "auto",
    register: options.Register = "median",
    reuse: options.Reuse = "same",
    keep_state: options.KeepState = "no",
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
    check_choice("keep_state", keep_state, KEEP_STATE)
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
        "holdout_seed": holdout_seed,
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
        from pipeline.training.device import choose_device, choose_precision

    config = completed(replace(config, ablation=options.absolute(ablation)))
    own = load_ablation(config.ablation)
    grid = Grid(parse_variants(variants, own.variants, own.compared), asked_seeds, rates, margin)
    check_effects(own, grid)
    if cluster == "none":
        choose_precision(config.precision, choose_device(config.device))  # which check both
    check_store()
    experiment = check_experiment(models=True)
    where = Where(cluster, asked_jobs, gpu_share)
    where.connect(experiment)
    if dry_run:
        preview_study(config, grid, where, register=register, reuse=reuse, experiment=experiment)
        return
    try:
        run_study(
            config,
            grid,
            where,
            name=name,
            register=register,
            reuse=reuse,
            keep_state=keep_state == "yes",
        )
    except Interrupted as stop:
        stop.remedy = STUDY_REMEDY
        raise
    except StoreError as error:
        raise type(error)(f"{error}; continue the study by: {STUDY_REMEDY}") from None
