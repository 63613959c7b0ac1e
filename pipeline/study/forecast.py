"""What a study will take: its runs, and how long they take, before and while it trains."""

import heapq
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import cycle
from statistics import fmean, median

import torch
from torch import nn

from pipeline.config import Config
from pipeline.runs.record import RunRecord
from pipeline.study.spec import StudySpec
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.cuda_graph import Step
from pipeline.training.device import release_freed_memory, restoring_torch
from pipeline.training.loop import VALIDATION_BATCH_SIZE, fast_step
from pipeline.training.spec import RunSpec

# Batches that are timed, of which the second half counts: the first ones warm up. On a CPU there
# are fewer if they take longer than PATIENCE, so that a study of three variants begins 1 s later.
BATCHES = 10
PATIENCE = 0.1  # seconds
BESIDE_EPOCHS = 1.4  # seconds that a run takes for its start, model and figure (docs/speed.md)
START_SECONDS = 6.0  # until a process has imported torch and MLflow


class Forecast:
    """How long runs take that `jobs` at a time train: by estimates, then by their own epochs."""

    def __init__(
        self, jobs: int, estimates: Mapping[str, float], basis: str = "", step: str = "epoch"
    ) -> None:
        """estimates: seconds of an epoch, by variant. basis: where they come from, in words.

        step: what is estimated and measured, if it is not an epoch.
        """
        self.jobs, self.basis, self.step = jobs, basis, step
        self._estimates = estimates
        self._measured = defaultdict[str, list[float]](list)

    def in_words(self, seconds: float | None) -> str:
        """A time that runs take, and where that is known from."""
        if seconds is None:
            return f"time known after the first {self.step}"
        return f"{in_words(seconds)}{f' ({self.basis})' if self.basis else ''}"

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


@restoring_torch()
def make_forecast(
    study: StudySpec, finished: Mapping[Config, RunRecord], device: torch.device
) -> Forecast:
    """Estimate an epoch of each variant: from finished runs, or else from a few steps on `device`.

    There is no estimate if other hardware than `device` trains, or if a step fails.
    """
    engine = study.engine
    known = defaultdict[str, list[float]](list)
    for cell, record in finished.items():
        known[cell.variant] += [epoch.epoch_seconds for epoch in record.history]
    estimates = {variant: fmean(seconds) for variant, seconds in known.items()}
    missing = {cell.variant: cell for cell in study.cells if cell not in finished}
    if missing.keys() <= known.keys():
        return Forecast(engine.jobs.number, estimates, "from those that are finished")
    if device.type != engine.device:
        return Forecast(engine.jobs.number, estimates)
    torch.set_num_threads(engine.threads[0])
    here = replace(study.run, device=device, precision=engine.precision)
    try:
        for variant in missing.keys() - known.keys():
            estimates[variant] = _measure(replace(here, config=missing[variant]))
    except Exception:  # the code is the user's: its runs will say what is wrong, each in a line
        return Forecast(engine.jobs.number, {})
    finally:
        release_freed_memory()
    return Forecast(
        engine.jobs.number, estimates, "from a few steps of each variant on this machine"
    )


def in_words(seconds: float) -> str:
    """A time that runs take: `about 0:01:30`."""
    return f"about {timedelta(seconds=round(seconds))}"


def _measure(spec: RunSpec) -> float:
    """Seconds that an epoch takes, from a few real steps."""
    network, criterion, optimizer = spec.build()
    data, device, size = spec.data, spec.device, spec.config.batch_size
    training = TrainingBatches(data.training, size, spec.config.seed, device, spec.augmentation)
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    step = fast_step(network, criterion, optimizer, spec.precision, size)
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
