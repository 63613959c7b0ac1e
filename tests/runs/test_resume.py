"""A run that is stopped at any moment continues to the result that it would have had."""

import hashlib
import signal
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import (
    SMALL,
    WHOLE,
    Answer,
    broken_epoch,
    run_killed,
    run_project,
    runs_in,
    status_in_the_end,
)
from mlflow.entities import Run

from pipeline.runs.queries import check_ours
from pipeline.store import liveness
from pipeline.training.network import CNNNetwork

EPOCHS = 4
TRAIN = ["train", "--variant", "dropout", *WHOLE, "--batch-size", "100", "--epochs", str(EPOCHS)]
GO_ON = ["train", "--resume", "RUN"]
LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
# In the order in which a run comes by them; `name:n` is the n-th time in that process. An epoch has
# five batches; what an earlier process has logged is not logged again.
MOMENTS = [
    "tables made",
    "run begun",
    "run described",
    "in a batch:3",
    "in validation",
    "metrics sent",
    "state written",
    "state renamed",
    "in a batch:8",
    "in validation",
    "state written",
    "state renamed",
    "figure",
    "weights",
    "model named",
    "model begun",
    "model exported",
    "model stored",
    "model ready",
    "version",
    "alias",
    "alias:2",
    "ending",
]
# The same for signals that wait until a call to the store is over, and what it does is done.
WAITED_FOR = [
    *MOMENTS[: MOMENTS.index("state renamed")],
    *MOMENTS[MOMENTS.index("in a batch:8") : MOMENTS.index("weights")],
    "model begun",
    "version",
    "ending",
]
# Lines of SQLAlchemy that a process runs while it stores metrics; some leave a transaction open if
# they are the last ones.
WRITES = (3150, 7150)
FEW = ["tables made", "in a batch:8", "state written", "model named", "model stored", "alias"]


def histories(folder: Path, run: Run, names: tuple[str, ...] = LEARNED) -> dict[str, Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


def weights(folder: Path, run: Run) -> dict[str, torch.Tensor]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    path = client.download_artifacts(run.info.run_id, "checkpoint.pt")
    return CNNNetwork.from_checkpoint(path).state_dict()


def assert_whole(folder: Path, run: Run, like: Run, like_in: Path) -> None:
    """Every metric of every epoch once, and all to the last bit as in the other run."""
    assert run.info.status == "FINISHED"
    assert not {"failure", "mlflow.note.content"} & run.data.tags.keys()
    steps = histories(folder, run, (*LEARNED, "lr", "epoch_seconds", "images_per_second"))
    epochs = list(range(1, EPOCHS + 1))
    assert all([step for step, _ in history] == epochs for history in steps.values())
    assert histories(folder, run) == histories(like_in, like)
    ours, theirs = weights(folder, run), weights(like_in, like)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    versions = [v for v in client.search_model_versions() if v.run_id == run.info.run_id]
    (version,) = versions
    assert {"dropout", "champion"} <= set(
        client.get_model_version(version.name, version.version).aliases
    )
    (model,) = client.search_logged_models(["0"])
    assert str(model.status) == "READY"
    files = [path.name for path in (folder / "mlruns" / "0" / run.info.run_id).rglob("*")]
    assert "training_state.pt" in files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, float]:
    """A run that is never interrupted: its folder, the run, its duration in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    (answer,) = run_killed(folder, [{"arguments": TRAIN}])
    assert answer["status"] == 0, answer["err"]
    (run,) = runs_in(folder, "train")
    return folder, run, answer["seconds"]


def go_through(
    folder: Path, moments: list[str | float], number: int, whole: tuple[Path, Run, float]
) -> int:
    """Kill a run at each of the moments, continue it every time, and compare its end.

    Returns how often it was killed: one may end before its moment comes.
    """
    again = {"arguments": GO_ON, "otherwise": TRAIN, "signal": number}
    jobs: list[dict[str, Any]] = [{**again, "at": moment} for moment in moments]
    *killed, last = run_killed(folder, [*jobs, again])
    assert last["status"] == 0, last["err"]
    died = [answer for answer in killed if answer["status"] == 128 + number]
    # What is killed with -9 says RUNNING until the next one looks; all others tell the truth.
    # (It may have ended just before.)
    left = {"RUNNING", "KILLED", "FINISHED"} if number == signal.SIGKILL else {"KILLED"}
    assert all(set(answer["runs"]) <= left for answer in died), killed
    assert all(answer["status"] in (0, 128 + number) for answer in killed), killed
    if number != signal.SIGKILL:
        for answer in died:
            line = answer["err"].splitlines()[-1]
            assert line.startswith(
                f"error: stopped by {signal.Signals(number).name}; continue by: "
            )
    runs = runs_in(folder)
    (run,) = [run for run in runs if run.info.status == "FINISHED"]
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs)
    assert_whole(folder, run, whole[1], whole[0])
    return len(died)


def test_a_run_that_is_killed_at_any_moment_continues_to_the_same_result(
    tmp_path: Path, whole: tuple[Path, Run, float], tally: Callable[[str, int], None]
) -> None:
    died = go_through(tmp_path, [*FEW], signal.SIGKILL, whole)
    assert died == len(FEW)
    tally("SIGKILL survived", died)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)]
)
def test_a_run_that_is_asked_to_stop_also_while_it_writes_to_the_database_says_how_to_continue(
    tmp_path: Path, whole: tuple[Path, Run, float], number: int, tally: Callable[[str, int], None]
) -> None:
    moments: list[str | float] = ["in a batch:8", *(f"in a write:{line}" for line in WRITES)]
    died = go_through(tmp_path, moments, number, whole)
    assert died == len(moments)
    tally(f"{signal.Signals(number).name} survived", died)


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_every_moment(
    tmp_path: Path, whole: tuple[Path, Run, float], number: int, tally: Callable[[str, int], None]
) -> None:
    moments: list[str | float] = [*(MOMENTS if number == signal.SIGKILL else WAITED_FOR)]
    died = go_through(tmp_path, moments, number, whole)
    assert died == len(moments)
    tally(f"{signal.Signals(number).name} survived", died)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_random_moments(
    tmp_path: Path, whole: tuple[Path, Run, float], tally: Callable[[str, int], None]
) -> None:
    died, attempts, random = 0, 0, np.random.default_rng(0)
    while died < 20:
        attempts += 1
        folder = tmp_path / str(attempts)
        folder.mkdir()
        # A continued run takes less time, and may end before its moment comes; then it is not
        # counted.
        moments = [float(moment) for moment in random.uniform(0.05, 0.6, 4) * whole[2]]
        died += go_through(folder, [*moments], signal.SIGKILL, whole)
    tally("SIGKILL at a random moment survived", died)


def test_two_processes_do_not_continue_one_run_at_the_same_time(
    tmp_path: Path, whole: tuple[Path, Run, float]
) -> None:
    kill = {"arguments": TRAIN, "at": "in a batch:8", "signal": signal.SIGKILL}
    go_on = {"arguments": GO_ON, "together": True}
    _, *both = run_killed(tmp_path, [kill, go_on, go_on])
    refused, done = sorted(both, key=lambda answer: -answer["status"])
    assert (refused["status"], done["status"]) == (2, 0), refused["err"] + done["err"]
    (line,) = refused["err"].splitlines()
    (run,) = runs_in(tmp_path)
    said = ("is being continued by another process", "is still running, as process")
    assert f"run {run.info.run_id} " in line
    assert any(words in line for words in said)
    assert_whole(tmp_path, run, whole[1], whole[0])


def test_a_continued_run_is_never_taken_for_the_dead_one_that_it_was(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = trained(pipeline)
    client, start_run = mlflow.MlflowClient(), mlflow.start_run
    client.set_tag(run_id, liveness.PROCESS, "999999999 0.00 0.00")

    def start_run_slowly(**arguments: Any) -> Any:
        client.update_run(run_id, "RUNNING")  # as MLflow does first, before it stores the tags
        liveness.mark_dead_runs()  # as another process may at this moment
        assert mlflow.get_run(run_id).info.status == "RUNNING"
        return start_run(**arguments)

    monkeypatch.setattr(mlflow, "start_run", start_run_slowly)
    answer = pipeline("train", "--resume", run_id, "--epochs", "3")
    assert answer.status == 0, answer.err


def trained(pipeline: Callable[..., Answer], *arguments: str) -> str:
    """Train a small network in this process; return the run's id."""
    assert pipeline("train", *SMALL, *arguments).status == 0
    return str(mlflow.last_active_run().info.run_id)  # type: ignore[union-attr]


def test_more_epochs_may_be_asked_for_and_end_as_if_asked_for_at_once(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    shorter = trained(pipeline, "--variant", "bn")
    answer = pipeline("train", "--resume", shorter)
    assert answer.status == 0
    assert f"run {shorter} is finished, with 2 epochs; for more:" in answer.out
    assert len(runs_in(tmp_path)) == 1
    answer = pipeline("train", "--resume", shorter, "--epochs", "3")
    assert answer.status == 0, answer.err
    assert "bn-seed0 continues after 2 of 3 epochs" in answer.out
    assert "models:/synthetic-cnn/2" in answer.out  # the shorter one's model stays version 1
    longer = trained(pipeline, "--variant", "bn", "--epochs", "3")
    first, second = (mlflow.get_run(run_id) for run_id in (shorter, longer))
    assert len(histories(tmp_path, first)["val_loss"]) == 3
    assert histories(tmp_path, first) == histories(tmp_path, second)
    assert check_ours(first).config == check_ours(second).config


def test_a_run_whose_origin_can_not_be_read_goes_on_without_it(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    run_id, client = trained(pipeline), mlflow.MlflowClient()
    foreign = client.create_run("0", tags={"kind": "train"}).info.run_id
    client.set_tag(run_id, "continued_from", foreign)
    answer = pipeline("train", "--resume", run_id, "--epochs", "3")
    assert answer.status == 0, answer.err
    assert f"note: run {foreign}, with which this one began: it does not say" in answer.err
    assert len(histories(tmp_path, mlflow.get_run(run_id))["val_loss"]) == 3


def test_where_epochs_are_short_not_every_one_has_a_checkpoint_but_a_failed_run_has_its_metrics(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    expected = histories(tmp_path, mlflow.get_run(trained(pipeline, "--epochs", "5")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.store.uploads.SHARE", 1e9)
        ended = trained(pipeline, "--epochs", "4")
        with broken_epoch(3):
            assert pipeline("train", *SMALL, "--epochs", "5").status == 1
    failed = runs_in(tmp_path)[0]
    assert [step for step, _ in histories(tmp_path, failed)["val_loss"]] == [1, 2, 3]
    for run_id, complete in ((failed.info.run_id, 1), (ended, 4)):
        answer = pipeline("train", "--resume", run_id, "--epochs", "5")
        assert answer.status == 0, answer.err
        assert f"continues after {complete} of 5 epochs" in answer.out
        assert histories(tmp_path, mlflow.get_run(run_id)) == expected


def test_what_a_kill_would_cost_is_said_in_seconds(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.store.uploads.SHARE", 1e9)
        longest = trained(pipeline, "--epochs", "1")
    shortest = trained(pipeline, "--epochs", "2")
    said = [
        mlflow.get_run(run_id).data.tags["pipeline.repeated_if_killed"]
        for run_id in (longest, shortest)
    ]
    assert said[0] == "about 300 s and an epoch"
    assert int(said[1].split()[1]) < 300


def test_a_run_of_a_study_starts_again_for_more_epochs_and_ends_the_same(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    study = ["ablate", *SMALL, "--epochs", "1", "--variants", "bn", "--seeds", "1", "--jobs", "1"]
    assert pipeline(*study).status == 0
    (shorter,) = runs_in(tmp_path, "train")
    answer = pipeline("train", "--resume", shorter.info.run_id, "--epochs", "2")
    assert answer.status == 0, answer.err
    assert "bn-seed0 continues after 0 of 2 epochs" in answer.out
    longer = mlflow.get_run(trained(pipeline, "--variant", "bn"))
    assert histories(tmp_path, shorter) == histories(tmp_path, longer)


def test_a_changed_setting_is_refused_by_name_and_the_run_stays_what_it_was(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    run_id = trained(pipeline, "--batch-size", "100")
    for given, said in (
        (["--lr", "0.01"], "has lr 0.001, not 0.01"),
        (["--epochs", "1"], "has epochs 2, not 1"),
        (["--variant", "bn", "--seed", "3"], "has variant base, not bn, seed 0, not 3"),
        # A default that is typed is meant.
        (["--batch-size", "256"], "has batch_size 100, not 256"),
    ):
        answer = pipeline("train", "--resume", run_id, *given)
        assert (answer.status, len(answer.err.splitlines())) == (2, 1)
        assert f"run {run_id} {said}" in answer.err
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FINISHED"


def test_other_code_or_data_is_refused(
    pipeline: Callable[..., Answer],
) -> None:
    run_id = trained(pipeline)
    more = ["train", "--resume", run_id, "--epochs", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runs.provenance.code_digest", lambda _: "f" * 64)
        answer = pipeline(*more)
    assert answer.status == 2
    assert "began with code_digest" in answer.err
    mlflow.MlflowClient().set_tag(run_id, "data_digest", "0" * 64)
    answer = pipeline(*more)
    assert answer.status == 2
    assert "began with data_digest 0000" in answer.err


def test_what_can_not_be_continued_says_so(pipeline: Callable[..., Answer], tmp_path: Path) -> None:
    answer = pipeline("train", "--resume", "0" * 32)
    assert answer.status == 2
    assert "is not the id of a run" in answer.err
    client = mlflow.MlflowClient()
    foreign = client.create_run("0").info.run_id
    answer = pipeline("train", "--resume", foreign)
    assert answer.status == 2
    assert "is not a training run" in answer.err
    # Killed after the run's creation, before its settings were stored.
    for key, value in {"kind": "train", **liveness.this_process()}.items():
        client.set_tag(foreign, key, value)
    client.set_terminated(foreign, "KILLED")
    answer = pipeline("train", "--resume", foreign)
    assert answer.status == 2
    assert "is not of this project, or was edited: it does not say its ablation" in answer.err


def test_a_damaged_or_foreign_state_is_not_used(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    run_id = trained(pipeline)
    before = histories(tmp_path, mlflow.get_run(run_id))
    (path,) = (tmp_path / "mlruns").rglob("training_state.pt")
    whole = path.read_bytes()
    saved = BytesIO()
    torch.save({"history": [], "network": Malicious(), "optimizer": {}}, saved)
    disguised = hashlib.sha256(saved.getvalue()).digest() + saved.getvalue()
    nothing = hashlib.sha256(b"").digest()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged, harmful = "is damaged", "holds more than numbers and lists of them"
    contents = {bytes(flipped): damaged, whole[:-1]: damaged, nothing: harmful, disguised: harmful}
    for epochs, (content, reason) in enumerate(contents.items(), start=3):
        path.write_bytes(content)
        answer = pipeline("train", "--resume", run_id, "--epochs", str(epochs))
        assert answer.status == 0, answer.err
        assert f"continues after 0 of {epochs} epochs" in answer.out
        assert f"the state of run {run_id} {reason}, and not used" in answer.err
    assert not (tmp_path / "executed").exists()
    after = histories(tmp_path, mlflow.get_run(run_id))
    assert all(after[name][:2] == before[name] for name in before)
    assert all([step for step, _ in steps] == [1, 2, 3, 4, 5, 6] for steps in after.values())


def test_mlflow_run_continues_the_run_that_it_is_given(
    tmp_path: Path, whole: tuple[Path, Run, float]
) -> None:
    kill = {"arguments": TRAIN, "at": "in a batch:8", "signal": signal.SIGKILL}
    run_killed(tmp_path, [kill])
    (run,) = runs_in(tmp_path)
    run_id = run.info.run_id
    answer = run_project(tmp_path, "--run-id", run_id)
    assert answer.status == 0, answer.err
    assert "continues after 1 of 4 epochs" in answer.out
    (run,) = runs_in(tmp_path)
    assert_whole(tmp_path, run, whole[1], whole[0])


@pytest.mark.thorough
def test_mlflow_run_continues_beyond_the_epochs_of_a_finished_run_if_asked_for_more(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    run_id = trained(pipeline, "--variant", "bn")
    answer = run_project(tmp_path, "--run-id", run_id, "-P", "epochs=3")
    assert answer.status == 0, answer.err
    assert "bn-seed0 continues after 2 of 3 epochs" in answer.out
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in histories(tmp_path, run)["val_loss"]] == [1, 2, 3]


@pytest.mark.thorough
def test_mlflow_run_leaves_a_run_that_it_refuses_as_it_was(tmp_path: Path) -> None:
    kill = {"arguments": TRAIN, "at": "in a batch:8", "signal": signal.SIGKILL}
    run_killed(tmp_path, [kill])
    (run,) = runs_in(tmp_path)
    refused = run_project(tmp_path, "--run-id", run.info.run_id, "-Plr=0.5")
    assert f"run {run.info.run_id} has lr 0.001, not 0.5" in refused.err
    assert status_in_the_end(tmp_path, "KILLED") == "KILLED"  # not FAILED, which MLflow sets


@pytest.mark.thorough
def test_mlflow_run_can_not_continue_a_run_of_another_kind(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    run_id = trained(pipeline, "--variant", "dropout")
    for entry_point, said in (("ablate", "is not a study"), ("evaluate", "creates its own run")):
        model = ["-Pmodel=models:/synthetic-cnn@dropout"] if entry_point == "evaluate" else []
        answer = run_project(tmp_path, "-e", entry_point, "--run-id", run_id, *model)
        assert said in answer.err
        assert status_in_the_end(tmp_path, "FINISHED") == "FINISHED"
