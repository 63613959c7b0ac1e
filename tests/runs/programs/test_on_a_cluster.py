"""Programs as tasks of a Ray cluster, without one."""

import os
from typing import Any

import pytest

from pipeline import Ablation, Outcome
from pipeline.config import Config
from pipeline.execution.tasks import ProgramTask
from pipeline.runs.programs import study
from pipeline.runs.record import ProgramRecord, StudyRecord

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")


@pytest.mark.parametrize(
    ("exit_status", "failure", "is_made_again"),
    [
        ("0", "", False),
        ("", "", True),  # MLflow has ended it, in the middle of the program
        ("0", "the program ended well but logged no `x`", True),
    ],
)
def test_after_a_worker_has_died_only_a_whole_run_counts(
    monkeypatch: pytest.MonkeyPatch, exit_status: str, failure: str, is_made_again: bool
) -> None:
    from pipeline.execution import ray_worker

    stated: Any = {"ablation": "x", "variant": "a", "seed": 0, "settings": {}, "statement": ""}
    ended: Any = {"status": "FINISHED", "exit_status": exit_status, "failure": failure}
    found = ProgramRecord(run_id="found", **stated, **ended)
    again = ProgramRecord(run_id="again", **stated)
    monkeypatch.setattr(study, "tries_of", lambda *_: [found])
    monkeypatch.setattr(ray_worker, "end", list)
    monkeypatch.setattr(ProgramTask, "make", lambda *_: again)
    given: Any = (StudyRecord, ray_worker.this_place(), ray_worker.versions(), frozenset())
    task = ProgramTask(Config(variant="a"), 1)
    made = ray_worker._train_or_continue(task, ray_worker.Assignment(*given), print)
    assert made is (again if is_made_again else found)


def test_a_program_gets_the_python_variables_of_the_study_not_those_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.execution.ray_worker import this_place

    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    place = this_place()
    monkeypatch.setenv("PYTHONPATH", "/checkout:/mine")
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb.set_trace")
    place.enter()
    assert (os.environ["PYTHONPATH"], os.environ["PYTHONBREAKPOINT"]) == ("/mine", "")


@pytest.mark.parametrize(
    ("nodes", "cells", "share", "threads", "number"),
    [
        ([(64, 0), (4, 1)], 4, 0.25, 1, 4),  # the processors of a node without a GPU don't count
        ([(8, 2)], 10, 1.0, 4, 2),
        ([(8, 0)], 2, 1.0, 4, 2),
    ],
)
def test_programs_share_the_processors_of_the_nodes_that_run_them(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[tuple[int, int]],
    cells: int,
    share: float,
    threads: int,
    number: int,
) -> None:
    from pipeline.execution import cluster
    from pipeline.execution.nodes import Node

    found = [Node("", "n", cpus, gpus, 2**30) for cpus, gpus in nodes]
    monkeypatch.setattr(cluster, "usable_nodes", lambda: found)
    monkeypatch.setattr(cluster, "examine_programs", lambda *_: None)
    ablation = Ablation(program="python {seed}", variants={"a": {}}, outcome=Outcome("x"))
    engine = cluster.cluster_programs(ablation, ["a"], cells, 0, share)
    assert (engine.threads[0], engine.jobs.number) == (threads, number)
