"""Train the runs of a study on this machine: in this process, or in several."""

from collections.abc import Sequence
from functools import partial

from mlflow.entities import Run

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import StoreError
from pipeline.execution.jobs import in_parallel
from pipeline.execution.parallelism import choose_jobs, share_threads
from pipeline.execution.tasks import Engine, Events, Progress, Show, Task, progress_of
from pipeline.machine import visible_gpus
from pipeline.runs.training_run import THREADS, train_run
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.state import History


def local_engine(
    config: Config, cells: int, data: ImageDataset, asked_jobs: int, gpu_share: float
) -> Engine:
    """Train on this machine, with `asked_jobs` runs at once (0: as many as there is room for).

    On a machine with several GPUs each run takes one of them, or a share of one.
    """
    device = choose_device(config.device)
    gpus = visible_gpus() if device.type == "cuda" else []
    count = len(gpus) or int(device.type == "mps")
    jobs = choose_jobs(asked_jobs, cells, THREADS, count, gpu_share, data.nbytes)
    return Engine(
        device.type,
        choose_precision(config.precision, device),
        jobs,
        share_threads(cells, jobs.number, THREADS),
        partial(_train, jobs=jobs.number, gpus=gpus, data=data),
    )


def _train(
    tasks: Sequence[Task],
    parent: Run,
    show: Show,
    jobs: int,
    gpus: Sequence[str],
    data: ImageDataset,
) -> Events:
    if jobs > 1:
        return in_parallel(tasks, parent, jobs, gpus)
    return _one_by_one(tasks, parent, show, data)


def _one_by_one(tasks: Sequence[Task], parent: Run, show: Show, data: ImageDataset) -> Events:
    """Train in this process, which can't yield a run's progress until it has ended."""
    for cell, continued, threads, start, keep_state in tasks:
        yield cell, Progress()

        def after_epoch(history: History, cell: Config = cell) -> None:
            show(cell, progress_of(history))

        try:
            result = train_run(
                cell, data, "none", continued, parent, threads, after_epoch, start, keep_state
            )
            yield cell, result
        except StoreError:
            raise
        except Exception as error:  # any error is this run's alone; the others continue
            yield cell, error
