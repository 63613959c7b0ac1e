"""A process that trains on request and reports how long each stage took."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

STAGES = ("data", "forward", "backward", "optimiser", "bookkeeping")
MATMUL_SIZES = {"cpu": 2048, "cuda": 8192}  # large enough to fill the device
PRODUCTS = ("convolution", "conv2d", "addmm")  # as in the profiler's names, on any processor
KIB = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes


class Setup(NamedTuple):
    """How a contestant trains. `precision` is `tutorial` for the tutorial's own loop."""

    precision: str
    variant: str
    dataset: str
    data_dir: str
    device: str
    threads: int  # 0: torch's choice
    patch: Callable[[], None] | None = None  # called first, in the process


class Contestant:
    """The process. It idles until asked, so it takes no time from the others."""

    def __init__(self, setup: Setup, environment: dict[str, str]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # OpenMP reads its settings once, when it is loaded.
        before = dict(os.environ)
        os.environ.update(environment)
        self.process = context.Process(target=_serve, args=(theirs, setup))
        self.process.start()
        os.environ.clear()
        os.environ.update(before)

    def ask(self, task: str, size: int = 0) -> None:
        """Begin a task: `train` or `validate` on `size` images, or one of the figures below."""
        self.connection.send((task, size))

    def answer(self) -> Any:
        """Wait for the result and return it."""
        return self.connection.recv()

    def end(self) -> None:
        """End the process."""
        self.ask("end")
        self.process.join()

    def do(self, task: str, size: int = 0) -> Any:
        """Ask and wait."""
        self.ask(task, size)
        return self.answer()


def _serve(connection: Connection, setup: Setup) -> None:
    import torch

    from benchmarks import tutorial
    from pipeline.config import Config
    from pipeline.data.dataset import Split
    from pipeline.runs.resolve import resolve
    from pipeline.training.batches import TrainingBatches, ValidationBatches
    from pipeline.training.device import set_up_torch
    from pipeline.training.epoch import run_pass as epoch
    from pipeline.training.loop import VALIDATION_BATCH_SIZE, fast_step

    if setup.patch:
        setup.patch()
    # Hides the progress bars, which both loops have.
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if setup.threads:
        torch.set_num_threads(setup.threads)
    config = Config(variant=setup.variant, dataset=setup.dataset, data_dir=setup.data_dir)
    device = torch.device(setup.device)
    spec = replace(resolve(config), device=device)
    data = spec.data
    is_tutorial = setup.precision == "tutorial"
    workers = os.cpu_count() or 1 if device.type == "cuda" else 0  # a GPU outpaces one process
    if is_tutorial:
        model, criterion, optimizer = tutorial.setup(setup.variant, device)
    else:
        set_up_torch()
        model, criterion, optimizer = spec.build()
        trains = fast_step(model, criterion, optimizer, setup.precision, tutorial.BATCH_SIZE)
        validates = fast_step(model, criterion, None, "fp32", VALIDATION_BATCH_SIZE)
    clock = _Clock(criterion, optimizer)

    def training(split: Split) -> Any:
        if is_tutorial:
            return tutorial.loader(split, True, workers)
        return TrainingBatches(split, tutorial.BATCH_SIZE, 0, device)

    def validation(split: Split) -> Any:
        if is_tutorial:
            return tutorial.loader(split, False, workers)
        return ValidationBatches(split, VALIDATION_BATCH_SIZE, device)

    def one_pass(train: bool, split: Split) -> dict[str, Any]:
        batches = training(split) if train else validation(split)
        clock.restart()
        started = time.perf_counter()
        arguments = (model, 1, train, clock.watch(batches), criterion, optimizer)
        if is_tutorial:
            tutorial.epoch(*arguments)
        else:
            epoch(*arguments, step=trains if train else validates)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "images": len(split), "stages": clock.shares()}

    while (request := connection.recv())[0] != "end":
        task, size = request
        if task == "train":
            connection.send(one_pass(True, data.training.first(size)))
        elif task == "validate":
            connection.send(one_pass(False, data.validation.first(size)))
        elif task == "matmul":
            connection.send(_matmul_rates(device))
        elif task == "products":
            connection.send(_products_share(partial(one_pass, False, data.validation.first(size))))
        elif task == "sizes":
            connection.send((len(data.training), len(data.validation)))
        elif task == "flop":
            connection.send(_flop_per_image(model, criterion, device))
        elif task == "memory":
            connection.send(_peak_memory(device))
        elif task == "loading":
            started = time.perf_counter()
            resolve(config)
            connection.send(time.perf_counter() - started)


class _Clock:
    """Seconds spent in each stage, on a device that computes synchronously."""

    def __init__(self, criterion: Any, optimizer: Any) -> None:
        criterion.register_forward_hook(lambda *_: self._mark("forward"))
        optimizer.register_step_pre_hook(lambda *_: self._mark("backward"))
        optimizer.register_step_post_hook(lambda *_: self._mark("optimiser"))
        self.restart()

    def restart(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.last = time.perf_counter()

    def watch(self, batches: Iterable[Any]) -> "_Watched":
        return _Watched(batches, self)

    def shares(self) -> dict[str, float]:
        self._mark("bookkeeping")
        total = sum(self.seconds.values())
        return {stage: seconds / total for stage, seconds in self.seconds.items()}

    def _mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


class _Watched:
    """Batches, with the time it takes to make them."""

    def __init__(self, batches: Any, clock: _Clock) -> None:
        self.batches, self.clock = batches, clock

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.batches)
        while True:
            self.clock._mark("bookkeeping")
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.clock._mark("data")
            yield batch


def _flop_per_image(model: Any, criterion: Any, device: Any) -> tuple[float, float]:
    """Multiplications and additions per image, of a training step and of its forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    count = 16
    with FlopCounterMode(display=False) as counter:
        outputs = model(torch.zeros(count, 3, 32, 32, device=device))
        forward = counter.get_total_flops()
        criterion(outputs, torch.zeros(count, dtype=torch.int64, device=device)).backward()
    return counter.get_total_flops() / count, forward / count


def _matmul_rates(device: Any) -> dict[str, float]:
    """Operations per second (multiplications and additions) of a large matrix product."""
    import torch

    size = MATMUL_SIZES[device.type]
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(size, size, device=device, dtype=dtype)
        best = float("inf")
        for _ in range(6):
            started = time.perf_counter()
            (a @ a)[0, 0].item()
            best = min(best, time.perf_counter() - started)
        rates[name] = 2 * size**3 / best
    return rates


def _peak_memory(device: Any) -> float:
    """Peak memory of the process, or of its tensors on a GPU, in MB."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 1e6


def _products_share(work: Callable[[], dict[str, Any]]) -> float:
    """The share of a pass on a CPU spent in convolutions and matrix products themselves."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds: float = work()["seconds"]
    products: list[float] = [
        event.self_cpu_time_total
        for event in profiler.key_averages()
        if any(name in event.key for name in PRODUCTS)
    ]
    return sum(products) / 1e6 / seconds
