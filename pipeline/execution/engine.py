"""Choose what trains the runs of a study: this machine, or a Ray cluster."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from pipeline.ablation.definition import Ablation
from pipeline.errors import InputError
from pipeline.execution.jobs import in_parallel
from pipeline.execution.parallelism import (
    choose_jobs,
    for_each,
    on_gpus,
    share_threads,
    smallest,
)
from pipeline.execution.tasks import Engine
from pipeline.machine import usable_processors, visible_gpus
from pipeline.training.spec import RunSpec

NONE = "none"


class Where(NamedTuple):
    """Where a study is to run.

    cluster: `none` for this machine, else a cluster's address. jobs: how many runs at once; 0 is as
    many as there is room for. gpu_share: the part of a GPU that a run takes.
    """

    cluster: str
    jobs: int
    gpu_share: float

    def connect(self, experiment: str) -> None:
        """Connect to the cluster, if there is one.

        Raises InputError if that fails, or if the cluster can't reach the tracking store.
        """
        if self.cluster == NONE:
            return
        if find_spec("ray") is None:
            raise InputError(
                f"cluster={self.cluster} needs Ray, which {sys.executable} does not have; install"
                " it by: pip install -r requirements-ray.txt (`mlflow run` then takes"
                " --env-manager local)"
            )
        # Ray would print what happens to its workers among the study's own lines and bars.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        from pipeline.execution.cluster import connect

        connect(self.cluster, experiment)

    def engine(self, run: RunSpec, cells: int) -> Engine:
        """Return what trains so many runs like `run` there; call `connect` first.

        Raises InputError if the cluster can't train them.
        """
        if self.cluster == NONE:
            return local_engine(run, cells, self.jobs, self.gpu_share)
        from pipeline.execution.cluster import cluster_engine

        return cluster_engine(run, cells, self.jobs, self.gpu_share)


def program_engine(where: Where, ablation: Ablation, variants: Sequence[str], cells: int) -> Engine:
    """Return what runs a program so many times there; call `connect` first.

    How much memory a program takes is not known, and its device is its own affair.
    """
    if where.cluster != NONE:
        from pipeline.execution.cluster import cluster_programs

        return cluster_programs(ablation, variants, cells, where.jobs, where.gpu_share)
    gpus, processors = visible_gpus(), usable_processors()
    limits = [(processors, for_each(processors, "processor"))]
    if gpus:
        limits.append(on_gpus(len(gpus), where.gpu_share))
    jobs = smallest(limits, where.jobs, cells)
    train = partial(in_parallel, jobs=jobs.number, gpus=gpus)
    return Engine("", "", jobs, share_threads(cells, jobs.number, processors), train)


def local_engine(run: RunSpec, cells: int, asked_jobs: int, gpu_share: float) -> Engine:
    """Train on this machine, with `asked_jobs` runs at once (0: as many as there is room for).

    In processes of their own: a crash of one then never takes the study along, and a process that
    ends gives all memory back.

    On a machine with several GPUs each run takes one of them, or a share of one.
    """
    device = run.device.type
    gpus = visible_gpus() if device == "cuda" else []
    count = len(gpus) or int(device == "mps")
    jobs = choose_jobs(asked_jobs, cells, run.threads, count, gpu_share, run.data.nbytes)
    threads = share_threads(cells, jobs.number, run.threads)
    train = partial(in_parallel, jobs=jobs.number, gpus=gpus)
    return Engine(device, run.precision, jobs, threads, train)
