"""What a study will take: its runs, and how long they take, before and while it trains."""

import heapq
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from itertools import cycle
from statistics import fmean, median

import mlflow
import torch
from torch import nn

from pipeline.ablation.loading import load_ablation, load_data
from pipeline.config import AUTO, Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import plural
from pipeline.execution.engine import NONE, Where
from pipeline.execution.parallelism import job_memory
from pipeline.execution.tasks import Engine
from pipeline.machine import GIB
from pipeline.models.registry import check_may_register
from pipeline.models.trial.variants import try_variants
from pipeline.runs.run_result import RunResult
from pipeline.statistics import FIRST_SEEDS
from pipeline.store import liveness
from pipeline.store.outages.waiting import in_store
from pipeline.study.grid import Grid
from pipeline.study.reuse import Found, epochs_before, find_cells
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.building.parts import build_network, prepare
from pipeline.training.cuda_graph import Step
from pipeline.training.device import choose_device, release_freed_memory
from pipeline.training.loop import VALIDATION_BATCH_SIZE, fast_step

# Batches that are timed, of which the second half counts: the first ones warm up. On a CPU there
# are fewer if they take longer than PATIENCE, so that a study of three variants begins 1 s later.
BATCHES = 10
PATIENCE = 0.1  # seconds
BESIDE_EPOCHS = 1.4  # seconds that a run takes for its start, model and figure (docs/speed.md)
START_SECONDS = 6.0  # until a process has imported torch and MLflow


class Forecast:
    """How long runs take that `jobs` at a time train: by estimates, then by their own epochs."""

    def __init__(self, jobs: int, estimates: Mapping[str, float], basis: str = "") -> None:
        """estimates: seconds of an epoch, by variant. basis: where they come from, in words."""
        self.jobs, self.basis = jobs, basis
        self._estimates = estimates
        self._measured = defaultdict[str, list[float]](list)

    def note(self, variant: str, epoch_seconds: float) -> None:
        """Take note of how long an epoch has taken."""
        self._measured[variant].append(epoch_seconds)

    def seconds_of(self, cell: Config, complete: int = 0) -> float | None:
        """Seconds until a run has ended of which so many epochs are complete; None if unknown.

        A variant of which nothing is known takes as long as the others.
        """
        known = {**self._estimates, **{v: fmean(each) for v, each in self._measured.items()}}
        if not known:
            return None
        epoch_seconds = known.get(cell.variant, fmean(known.values()))
        return BESIDE_EPOCHS + (cell.epochs - complete) * epoch_seconds

    def seconds(self, complete: Mapping[Config, int], starting: bool = False) -> float | None:
        """Seconds until all these runs have ended, as `seconds_of` each.

        starting: whether the processes that train them are to start first.
        """
        ends = [START_SECONDS * (starting and self.jobs > 1)] * self.jobs
        for cell, epochs in complete.items():
            seconds = self.seconds_of(cell, epochs)
            if seconds is None:
                return None
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)


def make_forecast(
    cells: Sequence[Config],
    finished: Mapping[Config, RunResult],
    data: ImageDataset,
    engine: Engine,
    device: torch.device,
) -> Forecast:
    """Estimate an epoch of each variant: from finished runs, or else from a few steps on `device`.

    There is no estimate if other hardware than `device` trains, or if a step fails.
    """
    known = defaultdict[str, list[float]](list)
    for cell, result in finished.items():
        known[cell.variant] += [epoch["epoch_seconds"] for epoch in result.history]
    estimates = {variant: fmean(seconds) for variant, seconds in known.items()}
    missing = {cell.variant: cell for cell in cells if cell not in finished}
    if missing.keys() <= known.keys():
        return Forecast(engine.jobs.number, estimates, "from those that are finished")
    if device.type != engine.device:
        return Forecast(engine.jobs.number, estimates)
    torch.set_num_threads(engine.threads[0])
    try:
        for variant in missing.keys() - known.keys():
            estimates[variant] = _measure(missing[variant], data, device, engine.precision)
    except Exception:  # the code is the user's: its runs will say what is wrong, each in a line
        return Forecast(engine.jobs.number, {})
    finally:
        release_freed_memory()
    return Forecast(
        engine.jobs.number, estimates, "from a few steps of each variant on this machine"
    )


def describe_plan(
    cells: Sequence[Config],
    finished: Collection[Config],
    begun: Mapping[Config, Found],
    data: ImageDataset,
    engine: Engine,
    forecast: Forecast,
    at_least: bool,
) -> str:
    """Say how many runs a study has, which are done, and how long the others take.

    at_least: whether the study may find that it needs more of them.
    """
    lines = []
    if finished:
        of_all = f"{len(finished)} of " * (not at_least)
        count = plural(len(finished) if at_least else len(cells), "run")
        be = "is" if len(finished) == 1 else "are"
        lines.append(f"{of_all}{count} {be} finished already and {be} reused")
    if left := {cell: epochs_before(begun.get(cell)) for cell in cells if cell not in finished}:
        count = f"{'at least ' * at_least}{plural(len(left), 'run')} to train"
        if begun:
            count += f" ({f'{len(begun)} of them ' * (len(left) > 1)}continued)"
        memory = job_memory(data.nbytes) / GIB
        lines.append(f"{count}, {in_words(forecast.seconds(left, starting=True), forecast.basis)}")
        lines.append(f"{engine.jobs.reason}; about {memory:.1f} GiB of memory each")
    return "\n".join(lines)


def in_words(seconds: float | None, basis: str = "") -> str:
    """A time that runs take, and where that is known from, in words."""
    if seconds is None:
        return "time known after the first epoch"
    return f"about {timedelta(seconds=round(seconds))}{f' ({basis})' if basis else ''}"


def preview_study(
    config: Config, grid: Grid, where: Where, *, register: str, reuse: str, experiment: str
) -> None:
    """Print what `run_study` would train, and how long that takes; store nothing."""
    data = load_data(config)
    print(f"ablation {load_ablation(config.ablation).name} on {data.heading}")
    if register != "none":
        check_may_register(config.ablation, data, "give register=none")
    try_variants(config, data, grid.variants)
    cells = grid.cells(config)
    engine = where.engine(config, len(cells), data)
    conditions = data.identity | {"precision": engine.precision, "device": engine.device}
    liveness.mark_dead_runs()  # which a study would continue
    known = in_store(mlflow.get_experiment_by_name)(experiment)
    found: dict[Config, Found] = {}
    outdated: dict[Config, str] = {}
    if known:
        found, outdated = find_cells(known.experiment_id, grid, cells, conditions, reuse)
    if grid.margin:  # the spread of the first seeds decides about the others
        cells = [cell for cell in cells if cell.seed < FIRST_SEEDS or cell in found]
    finished = {cell: one.result for cell, one in found.items() if one.result}
    # What trains here, or would if a cluster has the same.
    device = torch.device(engine.device) if where.cluster == NONE else choose_device(AUTO)
    forecast = make_forecast(cells, finished, data, engine, device)
    for cell in grid.cells(config)[: len(grid.variants)]:
        parameters = sum(one.numel() for one in build_network(cell, data).parameters())
        alone = forecast.seconds_of(cell)
        time_of_run = "" if alone is None else f", {in_words(alone)} a run"
        print(f"  {cell.variant}: {plural(parameters, 'parameter')}{time_of_run}")
    for cell in cells:
        state = f"to train again: {outdated[cell]}" if cell in outdated else "to train"
        if cell in found:
            state = "finished, " if found[cell].result else "to continue, "
            if found[cell].is_start:
                state = f"to go on after epoch {epochs_before(found[cell])} of "
            state += found[cell].run.info.run_id
        print(f"  {cell.run_name}: {state}")
    begun = {cell: one for cell, one in found.items() if not one.result}
    print(describe_plan(cells, finished, begun, data, engine, forecast, grid.margin > 0))


def _measure(config: Config, data: ImageDataset, device: torch.device, precision: str) -> float:
    """Seconds that an epoch takes, from a few real steps."""
    network, criterion, optimizer = prepare(config, data, device)
    augmentation = load_ablation(config.ablation).augmentation_of(config.variant)
    training = TrainingBatches(data.training, config.batch_size, config.seed, device, augmentation)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    step = fast_step(network, criterion, optimizer, precision, config.batch_size)
    validate = fast_step(network, nn.CrossEntropyLoss(), None, "fp32", VALIDATION_BATCH_SIZE)
    network.train()
    of_step = _seconds_of_batch(training, step, device)
    network.eval()
    of_validation = _seconds_of_batch(validation, validate, device)
    return of_step * len(training) + of_validation * len(validation)


def _seconds_of_batch(
    batches: TrainingBatches | ValidationBatches, step: Step, device: torch.device
) -> float:
    """The median time of a batch, its augmentation included."""
    times, started = list[float](), time.perf_counter()
    for images, labels in cycle(batches):
        loss, _ = step(images, labels)
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
        long = device.type == "cpu" and len(times) > 1 and sum(times) > PATIENCE
        if long or len(times) == BATCHES:
            return median(times[len(times) // 2 :])
    raise AssertionError("a data set has images")
