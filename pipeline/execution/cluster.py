"""Train the runs of a study on a Ray cluster, where each is a task.

Ray decides where a task runs, and starts it again elsewhere if its worker or node dies. The run
then continues after its last checkpoint.
"""

import logging
import os
import shlex
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from functools import partial
from typing import Any

import mlflow
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import interruption
from pipeline.ablation.definition import Ablation
from pipeline.ablation.source import PACKAGE
from pipeline.config import AUTO
from pipeline.errors import InputError, MachineError, StoreError, plural
from pipeline.execution import ray_worker
from pipeline.execution.nodes import Node, examine, examine_programs, living_nodes, usable_nodes
from pipeline.execution.parallelism import Limit, job_memory, on_gpus, smallest
from pipeline.execution.tasks import LOOK_SECONDS, Engine, Events, Task
from pipeline.machine import GIB
from pipeline.runs.programs.environment import RAY_KILLS
from pipeline.runs.queries import children_of
from pipeline.runs.record import StudyRecord
from pipeline.store.address import shown_uri
from pipeline.store.outages.failures import first_line
from pipeline.training.spec import RunSpec
from pipeline.upstream import local_path

MAX_RETRIES = 3  # how many times Ray restarts a task whose worker or node has died
CONNECT_SECONDS = 20
CLIENT = "ray://"  # begins the address of a cluster that this machine is not part of


class LostError(MachineError):
    """Ray could not complete a task."""


def connect(address: str, experiment: str) -> None:
    """Connect to the Ray cluster at `address`; `auto`: the one that this machine belongs to.

    Raises InputError if there is none, or if its nodes can't reach the tracking store.
    """
    # Not the current folder, which would come before Python's own modules (`Place.enter`).
    path = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    # The study shows each run's progress.
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "TQDM_DISABLE": "1"}
    variables[RAY_KILLS] = "0"
    environment: dict[str, Any] = {"env_vars": variables}
    if " " in sys.executable and not address.startswith(CLIENT):
        # Ray starts such workers by a shell, and does not quote the path.
        environment["py_executable"] = shlex.quote(sys.executable)
    if address != AUTO:
        _check_answers(address)
    try:
        ray.init(
            address,
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
        interruption.install()  # Ray has set a handler of its own
        nodes = living_nodes()
    except (OSError, ImportError, RayError, RuntimeError, ValueError) as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise InputError(
            f"cluster={address} can't be used: {reason.rstrip('.')}; it takes a cluster that has"
            " been started, the same versions of Python and Ray, and its token (docs/clusters.md)"
        ) from None
    if len(nodes) > 1 or address.startswith(CLIENT):
        _check_shared(experiment)


def _check_answers(address: str) -> None:
    """Raise InputError unless a Ray cluster answers; Ray itself would try for minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        if not address.startswith(CLIENT):
            command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check"]
            subprocess.run(
                [*command, "--address", address],
                check=True,
                capture_output=True,
                timeout=CONNECT_SECONDS,
            )
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error})") from None
    except subprocess.SubprocessError:
        raise InputError(
            f"no Ray cluster answers at {address}, or it refuses this machine's token; the port of"
            f" `ray start` is 6379, and {CLIENT}HOST:10001 connects from outside (docs/clusters.md)"
        ) from None


def _check_shared(experiment: str) -> None:
    """Raise InputError if the store or the artifacts are files of this machine."""
    uri = mlflow.get_tracking_uri()
    known = mlflow.get_experiment_by_name(experiment) or mlflow.get_experiment("0")
    files = [known.artifact_location] if local_path(known.artifact_location) else []
    if uri.startswith("sqlite") or local_path(uri):
        files = [shown_uri()]
    if files:
        raise InputError(
            f"the cluster's other nodes can't reach {files[0]}; start `mlflow server --host"
            " 0.0.0.0`, and set MLFLOW_TRACKING_URI=http://<its address>:5000 (docs/clusters.md)"
        )


def cluster_engine(run: RunSpec, cells: int, asked_jobs: int, gpu_share: float) -> Engine:
    """Train on the connected cluster, with `asked_jobs` runs at once (0: all that it has room for).

    Raises InputError, naming the nodes that would not train the same as this machine.
    """
    nodes, memory, device = usable_nodes(), job_memory(run.data.nbytes), run.config.device
    if device == "mps":
        raise InputError("device is mps, which Ray does not know; leave cluster out, or the device")
    if device == AUTO:
        device = "cuda" if any(node.gpus for node in nodes) else "cpu"
    nodes = [n for n in nodes if n.memory >= memory and (n.gpus or device == "cpu")]
    if not nodes:
        needed = f"{memory / GIB:.1f} GiB of memory{' and a GPU' * (device == 'cuda')}"
        raise InputError(f"no node of the cluster has what a run needs: {needed}")
    gpus = gpu_share if device == "cuda" else 0
    threads, limits = _share(nodes, asked_jobs or cells, gpus)
    limits.append(
        (
            sum(node.memory // memory for node in nodes),
            f"the nodes' memory, {memory / GIB:.1f} GiB for each run",
        )
    )
    jobs = smallest(limits, asked_jobs, cells)
    precisions = examine(nodes, run, device)
    precision = precisions.pop() if len(precisions) == 1 else "fp32"  # some lack bf16
    return Engine(
        device,
        precision,
        jobs._replace(reason=f"{jobs.reason}, on {plural(len(nodes), 'node')}"),
        [threads] * cells,
        partial(
            train_on_cluster,
            # Unless a number is asked for, Ray gets all tasks: a cluster may grow for them.
            at_once=asked_jobs or cells,
            resources={"num_cpus": threads, "num_gpus": gpus, "memory": memory},
            settings={"device": device, "precision": precision},
            guard=nodes[-1].node_id,
        ),
    )


def cluster_programs(
    ablation: Ablation, variants: Sequence[str], cells: int, asked_jobs: int, gpu_share: float
) -> Engine:
    """Run programs on the connected cluster; how much memory one takes is not known.

    Raises InputError, naming the nodes that would not run the same as this machine.
    """
    nodes = usable_nodes()
    if not nodes:
        raise InputError("no node of the cluster has processors to run programs with")
    with_gpus = [node for node in nodes if node.gpus]
    nodes, gpus = with_gpus or nodes, gpu_share if with_gpus else 0
    threads, limits = _share(nodes, asked_jobs or cells, gpus)
    jobs = smallest(limits, asked_jobs, cells)
    examine_programs(nodes, ablation, variants)
    return Engine(
        "",
        "",
        jobs._replace(reason=f"{jobs.reason}, on {plural(len(nodes), 'node')}"),
        [threads] * cells,
        partial(
            train_on_cluster,
            at_once=asked_jobs or cells,
            resources={"num_cpus": threads, "num_gpus": gpus},
            settings={},
            guard=nodes[-1].node_id,
        ),
    )


def _share(nodes: Sequence[Node], at_once: int, gpus: float) -> tuple[int, list[Limit]]:
    """The threads of a run that takes this part of a GPU, and how many there can be at once."""
    cpus = sum(node.cpus for node in nodes)
    threads = min(cpus // min(at_once, cpus), *(node.cpus for node in nodes))
    limits = []
    if gpus:
        threads = min(node.cpus // on_gpus(node.gpus, gpus)[0] for node in nodes)
        limits.append(on_gpus(sum(node.gpus for node in nodes), gpus))
    threads = max(1, threads)
    fitting = sum(node.cpus // threads for node in nodes)
    return threads, [*limits, (fitting, f"{cpus} CPUs, {threads} for each run")]


def train_on_cluster(
    tasks: Sequence[Task],
    parent: StudyRecord,
    at_once: int,
    resources: dict[str, Any],
    settings: dict[str, Any],
    guard: str,
) -> Events:
    """Train the cells of the study `parent` as tasks of the cluster; yield their events.

    On a signal, every task ends its run as KILLED; if this process is killed, an actor on the node
    `guard` ends them. Raises StoreError, which would affect the other cells too.
    """
    before = frozenset(children_of(parent.experiment_id, parent.run_id))
    study = ray_worker.Assignment(parent, ray_worker.this_place(), ray_worker.versions(), before)
    # They last as long as the study: Ray might also place them on a node that dies.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    events, alive = (
        Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2)
    )
    outliving: dict[str, Any] = {"lifetime": "detached", "max_restarts": -1, "max_task_retries": -1}
    outliving["scheduling_strategy"] = NodeAffinitySchedulingStrategy(guard, soft=True)
    survivor = ray.remote(ray_worker.Survivor).options(num_cpus=0, **outliving).remote()
    survivor.end_runs.remote(alive, study)
    train = ray.remote(ray_worker.train).options(
        **resources, max_retries=MAX_RETRIES, retry_exceptions=[ray_worker.StoppedError]
    )
    waiting = deque(range(len(tasks)))
    running: dict[Any, int] = {}
    try:
        news = events.actor.get.remote().future()
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.popleft()
                task = tasks[number].on(settings)
                running[train.remote(number, task, study, events).future()] = number
            # Not `ray.wait`, which drops what a signal's handler raises, and goes on waiting.
            done: set[Any] = wait([news, *running], LOOK_SECONDS, FIRST_COMPLETED).done
            for future in done:
                if future == news:
                    number, event = ray.get(news.object_ref)
                    news = events.actor.get.remote().future()
                    if number not in running.values() and not isinstance(event, str):
                        continue  # the run has ended meanwhile
                else:
                    number = running.pop(future)
                    event = _outcome(future.object_ref)
                    if isinstance(event, LostError):
                        ray_worker.end(one.run_id for one in tasks[number].tries(parent, before))
                if isinstance(event, StoreError):
                    raise event
                yield tasks[number].cell, event
    except RayError as error:
        raise MachineError(f"the Ray cluster has failed ({first_line(error)})") from None
    finally:
        with suppress(RayError):
            for future in running:
                ray.cancel(future.object_ref)
            wait(running)
            ray.kill(survivor)
            for queue in (events, alive):
                queue.shutdown(force=True)


def _outcome(ref: Any) -> Any:
    """What a task has returned, or why it has not."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if not isinstance(error, ray_worker.StoppedError):
            return LostError(first_line(error.cause))
        reason = "its worker was stopped"
    except RayError as error:
        reason = f"its worker or node died ({first_line(error)})"
    return LostError(f"{reason}, in each of {1 + MAX_RETRIES} tries")
