"""Train the runs of a study on a Ray cluster, where each is a task.

Ray decides where a task runs, and starts it again elsewhere if its worker or node dies. The run
then continues after its last complete epoch.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import ray
from mlflow.entities import Run
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import interruption
from pipeline.config import AUTO, Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, MachineError, StoreError
from pipeline.execution import ray_worker
from pipeline.execution.nodes import examine, living_nodes
from pipeline.execution.parallelism import JOB_MEMORY, on_gpus, smallest
from pipeline.execution.tasks import LOOK_SECONDS, Engine, Events, Progress, Task, TimeEpoch
from pipeline.machine import GIB
from pipeline.runs.provenance import PACKAGE
from pipeline.store import buffer
from pipeline.store.address import shown_uri
from pipeline.store.failures import first_line
from pipeline.upstream import local_path

MAX_RETRIES = 3  # how often Ray starts a task again whose worker or node has died
CONNECT_SECONDS = 10


def connect(address: str, experiment: str) -> None:
    """Connect to the Ray cluster at `address`; `auto`: the one that this machine belongs to.

    Raises InputError if there is none, or if its nodes can't share the tracking store.
    """
    own = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), str(Path.cwd()), own]))
    try:
        if address != AUTO:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error})") from None
    try:
        with interruption.deferred():
            ray.init(
                address,
                # The study shows each run's progress.
                runtime_env={"env_vars": {"PYTHONPATH": path, "TQDM_DISABLE": "1"}},
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
            interruption.install()  # Ray has set a handler of its own
    except (OSError, ImportError, RayError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"cluster={address} can't be used: {reason} It takes a started cluster with the same"
            " versions of Python and Ray, and its token (docs/clusters.md)"
        ) from None
    nodes = living_nodes()
    if len(nodes) > 1:
        _check_shared(len(nodes), experiment)


def _check_shared(nodes: int, experiment: str) -> None:
    """Raise InputError if the store or the artifacts are files of this machine."""
    known = mlflow.get_experiment_by_name(experiment) or mlflow.get_experiment("0")
    files = [known.artifact_location] if local_path(known.artifact_location) else []
    if not mlflow.get_tracking_uri().startswith(("http", "postgresql", "mysql", "mssql")):
        files = [shown_uri()]
    if files:
        raise InputError(
            f"{files[0]} can't be reached from the cluster's {nodes} nodes; start `mlflow server"
            " --host 0.0.0.0` on one of them, and set MLFLOW_TRACKING_URI=http://<its address>:5000"
            " (docs/clusters.md)"
        )


def cluster_engine(
    config: Config, cells: int, data: ImageDataset, asked_jobs: int, gpu_share: float
) -> Engine:
    """Train on the connected cluster, with `asked_jobs` runs at once (0: all that it has room for).

    Raises InputError, naming the nodes that would not train the same as this machine.
    """
    nodes, memory = living_nodes(), JOB_MEMORY + data.nbytes
    device = config.device
    if device == AUTO:
        device = "cuda" if any(node.gpus for node in nodes) else "cpu"
    nodes = [n for n in nodes if n.memory >= memory and (n.gpus or device == "cpu")]
    if not nodes:
        needed = f"{memory / GIB:.1f} GiB of memory{' and a GPU' * (device == 'cuda')}"
        raise InputError(f"no node of the cluster has what a run needs: {needed}")
    cpus = sum(node.cpus for node in nodes)
    if device == "cuda":
        limits = [on_gpus(sum(node.gpus for node in nodes), gpu_share)]
        threads = min(node.cpus // on_gpus(node.gpus, gpu_share)[0] for node in nodes)
    else:
        gpu_share = 0.0
        threads = min(cpus // min(asked_jobs or cells, cpus), *(node.cpus for node in nodes))
        limits = [
            (sum(node.cpus // threads for node in nodes), f"{cpus} CPUs, {threads} for each"),
            (
                sum(node.memory // memory for node in nodes),
                f"the nodes' memory, {memory / GIB:.1f} GiB for each",
            ),
        ]
    threads = max(1, threads)
    precisions = examine(nodes, replace(config, device=device), data, gpu_share)
    precision = precisions.pop() if len(precisions) == 1 else "fp32"  # some lack bf16
    jobs = smallest(limits, asked_jobs, cells)
    resources = {"num_cpus": threads, "num_gpus": gpu_share, "memory": memory}
    return Engine(
        device,
        precision,
        jobs._replace(reason=f"{jobs.reason}, on {len(nodes)} node{'s' * (len(nodes) > 1)}"),
        [threads] * cells,
        partial(
            _train,
            # Unless a number is asked for, Ray gets all tasks: a cluster may grow for them.
            at_once=asked_jobs or cells,
            resources=resources,
            settings={"device": device, "precision": precision},
        ),
    )


def _train(
    tasks: Sequence[Task],
    parent: Run,
    _time_epoch: TimeEpoch,
    at_once: int,
    resources: dict[str, Any],
    settings: dict[str, Any],
) -> Events:
    """Train the cells of the study `parent` as tasks of the cluster; yield their events.

    Raises StoreError, which would affect the other cells too. Before that, and on a signal, every
    task ends its run as KILLED.
    """
    # They last as long as the study: Ray might also place them on a node that dies.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    events, alive = (
        Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2)
    )
    place = ray_worker.this_place()
    survivor = ray.remote(ray_worker.Survivor).options(lifetime="detached", num_cpus=0).remote()
    survivor.end_runs.remote(alive, parent, place)
    train = ray.remote(ray_worker.train).options(
        **resources,
        max_retries=MAX_RETRIES,
        retry_exceptions=[ray_worker.StoppedError],
    )
    waiting, left = deque(range(len(tasks))), set(range(len(tasks)))
    running: dict[Any, int] = {}
    try:
        news = events.actor.get.remote()
        while left:
            while waiting and len(running) < at_once:
                number = waiting.popleft()
                task = tasks[number]._replace(cell=replace(tasks[number].cell, **settings))
                running[train.remote(number, task, parent, events, place)] = number
            buffer.sample_again()
            ready, _ = ray.wait([news, *running], timeout=LOOK_SECONDS)
            for ref in ready:
                if ref == news:
                    number, event = ray.get(news)
                    news = events.actor.get.remote()
                else:
                    number = running.pop(ref)
                    event = _failure(ref)
                    if event is None:  # its last event is among the news
                        continue
                    ray_worker.end(ray_worker.earlier_tries(parent, tasks[number].cell))
                if isinstance(event, StoreError):
                    raise event
                if number in left or isinstance(event, str):
                    left -= set() if isinstance(event, Progress | str) else {number}
                    yield tasks[number].cell, event
    finally:
        for ref in running:
            ray.cancel(ref)
        if running:
            ray.wait(list(running), num_returns=len(running))
        ray.kill(survivor)
        for queue in (events, alive):
            queue.shutdown(force=True)


def _failure(ref: Any) -> MachineError | None:
    """Why a task has failed, after all tries; None if it has not."""
    try:
        ray.get(ref)
    except RayTaskError as error:
        if not isinstance(error, ray_worker.StoppedError):
            return MachineError(first_line(error.cause))
        reason = "its worker was stopped"
    except RayError as error:
        reason = f"its worker or node died ({first_line(error)})"
    else:
        return None
    return MachineError(f"{reason}, in each of {1 + MAX_RETRIES} tries")
