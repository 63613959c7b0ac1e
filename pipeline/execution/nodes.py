"""The nodes of a Ray cluster: what they have, and whether they would train the same as here."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.ablation.definition import Ablation
from pipeline.ablation.recording import inputs_of
from pipeline.errors import InputError, printable, shortlist
from pipeline.execution.ray_worker import this_place, versions
from pipeline.runs import provenance
from pipeline.runs.identity import differences
from pipeline.runs.programs.study import program_digest
from pipeline.training.spec import RunSpec

log = logging.getLogger(__name__)
A_LITTLE = 0.001  # of a GPU, to see it
PATIENCE_SECONDS = 30  # after which a node that has not answered is named


class Node(NamedTuple):
    """A living node of the cluster; memory is in bytes."""

    node_id: str
    name: str
    cpus: int
    gpus: int
    memory: int


def usable_nodes() -> list[Node]:
    """The nodes that have processors to train with."""
    return [
        Node(
            node["NodeID"],
            " ".join(dict.fromkeys([node["NodeManagerHostname"], node["NodeName"]])),
            *(int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")),
        )
        for node in living_nodes()
        if node["Resources"].get("CPU", 0) >= 1
    ]


def living_nodes() -> list[dict[str, Any]]:
    """All nodes, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def examine(nodes: Sequence[Node], run: RunSpec, device: str) -> set[str]:
    """Have every node load the data and say what it computes with; return their precisions.

    A node that lacks the data fetches it. Runs there whose processes are gone are ended.

    Raises InputError, naming the nodes that would not train the same as this machine.
    """
    settings = replace(run.config, device=device).as_dict()
    recorded = inputs_of(run.ablation.source, *run.ablation.variants).as_dict()
    code = provenance.code_digest(run.ablation)
    expected = {**versions(), "code": code, "data": run.data.digest}
    gpus = A_LITTLE if device == "cuda" else 0
    answers = _ask(nodes, "describe", [settings, recorded], expected, gpus)
    return {facts["precision"] for facts in answers}


def examine_programs(nodes: Sequence[Node], ablation: Ablation, variants: Sequence[str]) -> None:
    """Have every node say whether it has the same program.

    Raises InputError, naming the nodes that would not run the same as this machine.
    """
    expected = {**versions(), "program": program_digest(ablation, variants)}
    _ask(nodes, "describe_program", [ablation.source, list(variants)], expected)


def _ask(
    nodes: Sequence[Node],
    what: str,
    about: Sequence[Any],
    expected: Mapping[str, str],
    gpus: float = 0,
) -> list[dict[str, str]]:
    """Have a function of `ray_worker` answer on every node.

    Raises InputError, naming the nodes whose answers are not as expected.
    """

    # Ray sends the code of an inner function, so it also runs where this project is missing.
    def describe(about: Any, *place: Any) -> dict[str, str]:
        try:
            from pipeline.execution import ray_worker

            answer: dict[str, str] = getattr(ray_worker, what)(*about, ray_worker.Place(*place))
            return answer
        except Exception as error:
            return {"problem": str(error) or type(error).__name__}

    ask = ray.remote(describe)
    answers = [
        ask.options(
            num_cpus=0,
            num_gpus=gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        .remote(about, *this_place())
        .future()  # whose waiting, unlike Ray's, ends with what a signal's handler raises
        for node in nodes
    ]
    if missing := wait(answers, PATIENCE_SECONDS).not_done:
        names = shortlist(nodes[answers.index(answer)].name for answer in missing)
        log.info(f"waiting for {names}: loading the data, or busy")
    problems, found = [], []
    for node, answer in zip(nodes, answers, strict=True):
        facts = _facts(answer)
        problem = facts.get("problem") or differences(facts, expected) or facts.get("inputs")
        if problem:
            problems.append(f"{node.name}: {printable(problem.splitlines()[0])}")
        else:
            found.append(facts)
    if problems:
        raise InputError(
            f"{len(problems)} of {len(nodes)} nodes can't train the same as this machine:"
            f" {shortlist(problems, separator='; ')} (docs/clusters.md says what a node needs)"
        )
    return found


def _facts(answer: Future[dict[str, str]]) -> dict[str, str]:
    try:
        return answer.result()
    except RayError as error:  # the node has died meanwhile
        return {"problem": str(error) or type(error).__name__}
