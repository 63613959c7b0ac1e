"""What a study would do: check its variants, list its runs, estimate its time and memory."""

import time
from datetime import timedelta
from itertools import cycle
from statistics import median

import mlflow
import psutil
import torch
from torch import nn

from pipeline.ablation.loading import load_ablation, load_data
from pipeline.config import AUTO, Config
from pipeline.data.dataset import ImageDataset
from pipeline.execution.engine import NONE, Where
from pipeline.machine import GIB
from pipeline.models import registry
from pipeline.models.trial.variants import try_variants
from pipeline.runs.run_result import config_of
from pipeline.statistics import FIRST_SEEDS
from pipeline.store import liveness
from pipeline.store.waiting import in_store
from pipeline.study.grid import Grid
from pipeline.study.reuse import Found, find_cells
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.building.parts import prepare
from pipeline.training.cuda_graph import Step
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.loop import VALIDATION_BATCH_SIZE, fast_step

STEPS = 5  # that are timed, after as many to warm up
BESIDE_EPOCHS = 1.4  # seconds that a run takes for its start, model and figure (docs/speed.md)


def preview_study(
    config: Config, grid: Grid, where: Where, *, register: str, reuse: str, experiment: str
) -> None:
    """Print what `run_study` would train, and how long that takes; store nothing."""
    data = load_data(config)
    if register != "none":
        registry.check_may_register(config.ablation, data, "give register=none")
    try_variants(config, data, grid.variants)
    cells = grid.cells(config)
    engine = where.engine(config, len(cells), data)
    jobs = engine.jobs
    conditions = data.identity | {"precision": engine.precision, "device": engine.device}
    liveness.mark_dead_runs()  # which a study would continue
    known = in_store(mlflow.get_experiment_by_name)(experiment)
    found: dict[Config, Found] = {}
    outdated: dict[Config, str] = {}
    if known:
        found, outdated = find_cells(known.experiment_id, grid, cells, conditions, reuse)
    torch.set_num_threads(engine.threads[0])
    # The time is measured on this machine, also if others will train.
    device = choose_device(config.device if where.cluster == NONE else AUTO)
    precision = choose_precision(config.precision, device)

    name = load_ablation(config.ablation).name
    print(f"ablation {name} on {data.name}: {data.description}")
    seconds = {}
    for cell in grid.cells(config)[: len(grid.variants)]:
        seconds[cell.variant], count = _seconds_of_run(cell, data, device, precision)
        print(f"  {cell.variant}: {count:,} parameters, about {seconds[cell.variant]:.0f} s a run")
    if grid.margin:  # the spread of the first seeds decides about the others
        cells = [cell for cell in cells if cell.seed < FIRST_SEEDS or cell in found]
    left = 0.0
    for cell in cells:
        state = f"to train again: {outdated[cell]}" if cell in outdated else "to train"
        if cell in found:
            run = found[cell].run
            state = "finished, " if found[cell].result else "to continue, "
            if found[cell].is_start:
                state = f"to go on after epoch {config_of(run).epochs} of "
            state += run.info.run_id
        print(f"  {cell.run_name}: {state}")
        left += seconds[cell.variant] * _part_left(cell, found.get(cell))
    done = sum(one.result is not None for one in found.values())
    least = "at least " if grid.margin else ""
    print(
        f"{least}{len(cells)} runs, {done} of them finished; the others take about"
        f" {timedelta(seconds=round(left / jobs.number))} with {jobs.reason};"
        f" {psutil.Process().memory_info().rss / GIB:.1f} GiB of memory for each job"
    )


def _part_left(cell: Config, found: Found | None) -> float:
    """Which part of a run's time it still takes, at most."""
    if found and found.result:
        return 0.0
    return 1 - config_of(found.run).epochs / cell.epochs if found and found.is_start else 1.0


def _seconds_of_run(
    config: Config, data: ImageDataset, device: torch.device, precision: str
) -> tuple[float, int]:
    """The time that a run takes, from a few real steps, and its number of parameters."""
    network, criterion, optimizer = prepare(config, data, device)
    augmentation = load_ablation(config.ablation).augmentation_of(config.variant)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device, augmentation)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    step = fast_step(network, criterion, optimizer, precision, config.batch_size)
    validate = fast_step(network, nn.CrossEntropyLoss(), None, "fp32", VALIDATION_BATCH_SIZE)
    network.train()
    of_step = _seconds_of_batch(training, step)
    network.eval()
    of_validation = _seconds_of_batch(validation, validate)
    epoch = of_step * len(training) + of_validation * len(validation)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return BESIDE_EPOCHS + config.epochs * epoch, parameters


def _seconds_of_batch(batches: TrainingBatches | ValidationBatches, step: Step) -> float:
    """The median time of a batch, its augmentation included."""
    times, started = [], time.perf_counter()
    for _, (images, labels) in zip(range(2 * STEPS), cycle(batches), strict=False):
        loss, _ = step(images, labels)
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
    return median(times[STEPS:])
