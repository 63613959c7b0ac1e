"""A run whose process has died does not stay RUNNING; a live one is left alone."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import SMALL, Answer, run_killed, runs_in
from mlflow.entities import Metric
from mlflow.store.tracking.dbmodels.models import SqlTag
from sqlalchemy import event

from pipeline.models.export import log_network
from pipeline.store import liveness

TINY = ["--dataset", "synthetic", "--train-images", "100", "--batch-size", "50", "--epochs", "2"]
STUDY = ["ablate", *TINY, "--variants", "base,bn", "--seeds", "2", "--register", "none"]
NOBODY = "4194304 1.00 1.00"  # no process has this id: Linux counts to 4194303 at most


def running(process: str = "", host: str = "") -> str:
    """A run that says it is running, in this process or in another one."""
    client = mlflow.MlflowClient()
    described = {"kind": "train", **liveness.this_process()}
    described |= {liveness.PROCESS: process} if process else {}
    described |= {liveness.HOST: host} if host else {}
    run_id = str(client.create_run("0", tags=described).info.run_id)
    client.log_param(run_id, "variant", "base")
    return run_id


def commands(finished: list[str]) -> dict[str, list[str]]:
    """Each command that looks for dead runs."""
    return {
        "ablate": ["ablate", *TINY, "--variants", "base", "--seeds", "1"],
        "train --resume": ["train", "--resume", finished[0]],
        "compare": ["compare", *finished],
    }


def test_the_next_command_marks_a_run_whose_process_is_gone(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    finished = []
    for variant in ("base", "bn"):
        assert pipeline("train", *SMALL, "--variant", variant).status == 0
        finished.append(runs_in(tmp_path)[0].info.run_id)
    for command in commands(finished).values():
        dead = running(NOBODY)
        recycled = running(f"{os.getpid()} 1.00 1.00")  # another process has its id now
        alive = running()
        elsewhere = running(f"{NOBODY.split()[0]} {time.time()} 1.00", "another machine")
        # Who runs these can't be known any more.
        edited = [running("mine"), running(f"{os.getpid()} nan nan"), running("-1 1.00 1.00")]
        foreign = mlflow.MlflowClient().create_run("0").info.run_id  # not this project's
        assert pipeline(*command).status == 0
        for run_id in (dead, recycled):
            run = mlflow.get_run(run_id)
            assert run.info.status == "KILLED"
            assert "ended without reporting it" in run.data.tags["failure"]
            said = run.data.tags["mlflow.note.content"]
            assert said.endswith(f"continue by: `python -m pipeline train --resume {run_id}`")
        for run_id in (alive, elsewhere, *edited, foreign):
            assert mlflow.get_run(run_id).info.status == "RUNNING"
            mlflow.MlflowClient().delete_run(run_id)


def test_two_commands_may_mark_the_same_run_at_the_same_moment(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.outages.waiting.RETRY_SECONDS", 0.01)
    dead, elsewhere = running(NOBODY), sqlite3.connect("mlflow.db")

    def mark_elsewhere(_mapper: object, _connection: object, tag: SqlTag) -> None:
        # After MLflow has seen that there is no such tag, and before it adds it.
        with suppress(sqlite3.IntegrityError), elsewhere:
            row = (tag.key, "its process ended without reporting it", dead)
            elsewhere.execute("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", row)

    event.listen(SqlTag, "before_insert", mark_elsewhere)
    try:
        answer = pipeline("compare")
    finally:
        event.remove(SqlTag, "before_insert", mark_elsewhere)
        elsewhere.close()
    assert "has no finished training run to compare" in answer.err
    assert mlflow.get_run(dead).info.status == "KILLED"


def test_a_run_that_was_given_up_elsewhere_and_ends_well_says_only_that(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked_meanwhile(*arguments: Any, **options: Any) -> str:
        (run,) = runs_in(tmp_path)
        liveness.mark_dead(run)
        return log_network(*arguments, **options)

    monkeypatch.setattr("pipeline.runs.training_run.log_network", marked_meanwhile)
    assert pipeline("train", *TINY).status == 0
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FINISHED"
    assert "failure" not in run.data.tags


def test_a_run_on_another_machine_is_given_up_after_an_hour_of_silence(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    assert pipeline("train", *SMALL).status == 0
    finished = runs_in(tmp_path)[0].info.run_id
    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    begun = now - 3 * 3_600_000

    def elsewhere(last: int, host: str = "another machine") -> str:
        tags = {"kind": "train", liveness.HOST: host, liveness.PROCESS: NOBODY}
        run_id = str(client.create_run("0", start_time=begun, tags=tags).info.run_id)
        client.log_batch(run_id, [Metric("system/cpu", 1.0, moment, 0) for moment in (begun, last)])
        return run_id

    silent, alive = elsewhere(now - 3_700_000), elsewhere(now - 3_500_000)
    edited = elsewhere(now - 3_700_000, " ")
    pipeline("train", "--resume", finished)
    assert mlflow.get_run(silent).info.status == "KILLED"
    assert mlflow.get_run(edited).info.status == "KILLED"
    assert mlflow.get_run(silent).info.end_time == now - 3_700_000
    assert mlflow.get_run(alive).info.status == "RUNNING"
    refused = pipeline("train", "--resume", alive)
    assert refused.status == 2


def test_a_run_that_is_alive_is_not_continued(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    alive = running()
    answer = pipeline("train", "--resume", alive)
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert f"run {alive} is still running, as process {os.getpid()}" in line
    assert mlflow.get_run(alive).info.status == "RUNNING"


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
)
def test_a_study_that_is_killed_continues_every_cell_where_it_was(
    tmp_path: Path, number: int, tally: Callable[[str, int], None]
) -> None:
    # In the second child's second epoch.
    kill = {"arguments": STUDY, "at": "in a batch:7", "signal": number}
    killed, last = run_killed(tmp_path, [kill, {"arguments": STUDY}])
    assert killed["status"] == 128 + number
    assert last["status"] == 0, last["err"]
    children = runs_in(tmp_path, "train")
    # No cell was begun twice: four runs, though two processes worked on them.
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    assert "bn-seed0 continues after 1 of 2 epochs" in last["out"]
    last_parent, first_parent = runs_in(tmp_path, "study")
    assert first_parent.info.status == "KILLED"
    assert last_parent.info.status == "FINISHED"
    nested = {run.data.tags["mlflow.parentRunId"] for run in children}
    assert nested == {last_parent.info.run_id}
    tally(f"{signal.Signals(number).name} of a study survived", 1)
