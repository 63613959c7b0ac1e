"""The nodes of a Ray cluster: what they have, and whether they would train the same as here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, printable
from pipeline.execution.ray_worker import this_place, versions
from pipeline.runs.provenance import PACKAGE

Facts = dict[str, str]


class Node(NamedTuple):
    """A living node of the cluster; memory is in bytes."""

    node_id: str
    name: str
    cpus: int
    gpus: int
    memory: int


def living_nodes() -> list[Node]:
    """The nodes that have processors to train with."""
    return [
        Node(
            node["NodeID"],
            _name(node),
            *(int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")),
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]


def _name(node: dict[str, Any]) -> str:
    return " ".join(dict.fromkeys([node["NodeManagerHostname"], node["NodeName"]]))


def examine(
    nodes: Sequence[Node], config: Config, data: ImageDataset, gpu_share: float
) -> set[str]:
    """Have every node load the data and say what it computes with; return their precisions.

    A node that lacks the data fetches it. Runs there whose processes are gone are ended.

    Raises InputError, naming the nodes that would not train the same as this machine.
    """

    # Ray sends the code of an inner function, so it also runs where this project is missing.
    def describe(settings: dict[str, str], *place: Any) -> Facts:
        try:
            from pipeline.execution import ray_worker

            return ray_worker.describe(settings, ray_worker.Place(*place))
        except Exception as error:
            return {"problem": str(error)}

    ask = ray.remote(describe)
    answers = [
        ask.options(
            num_cpus=0,
            num_gpus=gpu_share,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        ).remote(config.as_dict(), *this_place())
        for node in nodes
    ]
    expected, problems, precisions = versions(config, data), [], set()
    for node, answer in zip(nodes, answers, strict=True):
        facts = _answer(answer)
        if problem := facts.get("problem") or _differences(facts, expected):
            problems.append(f"{node.name}: {printable(problem.splitlines()[0])}")
        else:
            precisions.add(facts["precision"])
    if problems:
        raise InputError(
            f"{len(problems)} of the {len(nodes)} nodes would not train the same as this machine:"
            f" {'; '.join(problems)}; each needs the same version of this project in"
            f" {PACKAGE.parent}, its packages and the data (docs/clusters.md)"
        )
    return precisions


def _answer(answer: Any) -> Facts:
    try:
        return dict(ray.get(answer))
    except RayError as error:  # the node has died meanwhile
        return {"problem": str(error)}


def _differences(facts: Facts, expected: Facts) -> str:
    return ", ".join(
        f"{name} {facts[name][:16]} instead of {value[:16]}"
        for name, value in expected.items()
        if facts[name] != value
    )
