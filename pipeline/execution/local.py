"""Train the runs of a study on this machine, in processes of their own.

A crash of one then never takes the study along, and a process that ends gives all memory back.
"""

from functools import partial

from pipeline.execution.jobs import in_parallel
from pipeline.execution.parallelism import choose_jobs, share_threads
from pipeline.execution.tasks import Engine
from pipeline.machine import visible_gpus
from pipeline.training.spec import RunSpec


def local_engine(run: RunSpec, cells: int, asked_jobs: int, gpu_share: float) -> Engine:
    """Train on this machine, with `asked_jobs` runs at once (0: as many as there is room for).

    On a machine with several GPUs each run takes one of them, or a share of one.
    """
    device = run.device.type
    gpus = visible_gpus() if device == "cuda" else []
    count = len(gpus) or int(device == "mps")
    jobs = choose_jobs(asked_jobs, cells, run.threads, count, gpu_share, run.data.nbytes)
    threads = share_threads(cells, jobs.number, run.threads)
    train = partial(in_parallel, jobs=jobs.number, gpus=gpus)
    return Engine(device, run.precision, jobs, threads, train)
