"""`reproduce` trains a run again from its record, and finds out whether that is what it was."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import mlflow
import pandas as pd
import psutil
import pytest
from conftest import TINY, Answer, Study, copy_checkout, forget_detail, run, runs_in, start
from mlflow.entities import Run

from pipeline.errors import InputError
from pipeline.reproduction import reproduce as reproducing
from pipeline.reproduction.comparison import compare_values
from pipeline.reproduction.record import Values
from pipeline.reproduction.reproduce import records_of
from pipeline.store.moving.relocation import relocate

GIT = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
SHORT = ["--dataset", "synthetic", "--train-images", "300", "--epochs", "3", "--variant", "bn"]


class Made(NamedTuple):
    """A project in git, a folder with a run that it has made, and that run."""

    project: Path
    folder: Path
    run: Run

    def command(self, *arguments: str, threads: int = 1) -> list[str]:
        settings = [f"PYTHONPATH={self.project}", f"OMP_NUM_THREADS={threads}"]
        return ["env", *settings, "python", "-m", "pipeline", *arguments]

    def reproduce(self, *arguments: str, threads: int = 1) -> Answer:
        command = self.command("reproduce", self.run.info.run_id, *arguments, threads=threads)
        return run(self.folder, *command)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    @property
    def worktrees(self) -> list[str]:
        listed = [*GIT, "-C", str(self.project), "worktree", "list", "--porcelain"]
        lines = subprocess.check_output(listed, text=True).splitlines()
        return [line for line in lines if line.startswith("worktree ")]


def commit(project: Path, message: str) -> None:
    subprocess.run([*GIT, "add", "--all"], cwd=project, check=True)
    subprocess.run([*GIT, "commit", "--quiet", "--message", message], cwd=project, check=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A clean project with one commit, and a run of three epochs."""
    project = tmp_path_factory.mktemp("a project")
    copy_checkout(project)
    subprocess.run([*GIT, "init", "--quiet"], cwd=project, check=True)
    commit(project, "first")
    folder = tmp_path_factory.mktemp("runs")
    made = Made(project, folder, None)  # type: ignore[arg-type]
    answer = run(folder, *made.command("train", *SHORT))
    assert answer.status == 0, answer.err
    return made._replace(run=runs_in(folder)[0])


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """The same, with a copy of the store, which a test may change."""
    shutil.copy(original.folder / "mlflow.db", tmp_path)
    shutil.copytree(original.folder / "mlruns", tmp_path / "mlruns")
    relocate()
    return original._replace(folder=tmp_path)


def test_an_honest_run_is_identical_with_whatever_threads_are_there_now(made: Made) -> None:
    answer = made.reproduce(threads=2)
    assert answer.status == 0, answer.err
    first, differences, code, verdict, *links = answer.out.splitlines()
    assert first.startswith(f"bn-seed0 (run {made.run.info.run_id}): 3 epochs of synthetic")
    assert first.endswith(" on cpu, threads: 1")
    assert differences == "different here: nothing that was recorded"
    assert code.endswith(f" in {made.project}")
    assert verdict == "identical: 5 metrics of 3 epochs, bit for bit, and so are the weights"
    (new,) = runs_in(made.folder, "reproduce")
    assert new.info.status == "FINISHED"
    assert new.info.run_name == "reproduce-bn-seed0"
    assert f"/runs/{new.info.run_id}?" in links[1]
    assert new.data.tags["reproduced_run"] == made.run.info.run_id
    assert new.data.tags["reproduction"] == "identical"
    tags = made.client.get_run(made.run.info.run_id).data.tags
    assert tags["reproduction"] == "identical"
    assert tags["reproduction_run"] == new.info.run_id
    assert new.data.metrics["val_loss"] == made.run.data.metrics["val_loss"]
    table = pd.read_csv(made.client.download_artifacts(new.info.run_id, "reproduction.csv"))
    assert len(table) == 15
    assert table["same"].all()
    losses = made.client.get_metric_history(made.run.info.run_id, "train_loss")
    shown = table[table["metric"] == "train_loss"].sort_values("epoch")["recorded"]
    assert list(shown) == [loss.value for loss in losses]


def test_a_metric_that_was_changed_in_the_store_is_found(made: Made) -> None:
    run_id = made.run.info.run_id
    with sqlite3.connect(made.folder / "mlflow.db") as store:
        where = f"where run_uuid = '{run_id}' and key = 'val_accuracy'"
        store.execute(f"update metrics set value = 0.75 {where} and step = 2")
        store.execute(f"update latest_metrics set value = 0.875 {where}")
    store.close()
    made.client.log_metric(run_id, "train_loss", 1.0, step=1)  # a second value
    answer = made.reproduce()
    assert answer.status == 1
    first, worst, weights, reason = answer.out.splitlines()[-7:-3]
    assert first.startswith("differs, first in epoch 1: train_loss 1.0 and 4.")
    assert worst.startswith("3 of 15 values differ, by up to ")
    assert weights == "the weights are the same"
    assert reason.startswith("training was the same, as the weights show")
    (new,) = runs_in(made.folder, "reproduce")
    assert new.data.tags["reproduction"] == "differs"
    assert made.client.get_run(run_id).data.tags["reproduction"] == "differs"
    table = pd.read_csv(made.client.download_artifacts(new.info.run_id, "reproduction.csv"))
    other = table[~table["same"]].set_index(["metric", "epoch"])
    assert set(other.index) == {("train_loss", 1), ("val_accuracy", 2), ("val_accuracy", 3)}
    assert other.loc[("val_accuracy", 2), "recorded"] == "0.75"
    assert "0.875" in other.loc[("val_accuracy", 3), "recorded"]


def test_an_older_commit_is_repeated_in_a_worktree(made: Made, tmp_path: Path) -> None:
    project = tmp_path / "newer project"
    subprocess.run([*GIT, "clone", "--quiet", str(made.project), str(project)], check=True)
    module = project / "pipeline" / "randomness.py"
    module.write_text(module.read_text().replace("(seed, ", "(seed + 1, "))
    loop = project / "pipeline" / "training" / "loop.py"
    loop.write_text(loop.read_text().replace("lr=config.lr", "lr=config.lr / 2"))
    commit(project, "train otherwise")
    link = tmp_path / "link"  # by which the project may be reached
    link.symlink_to(project)
    newer = made._replace(project=link)
    answer = newer.reproduce("--epochs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[-4] == "identical: 5 metrics of 2 epochs, bit for bit"
    assert f" in {project}" not in answer.out
    assert len(newer.worktrees) == 1
    # If the tag lies, the numbers differ, and the digest of the code says so first.
    newest = subprocess.check_output([*GIT, "-C", str(project), "rev-parse", "HEAD"], text=True)
    made.client.set_tag(made.run.info.run_id, "mlflow.source.git.commit", newest.strip())
    answer = newer.reproduce()
    assert answer.status == 2
    assert "was made with code_digest" in answer.error_lines[0]


def _trains(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # git, which has just ended
        return "train" in process.cmdline()
    return False


def test_sigterm_leaves_no_process_no_worktree_and_no_run(made: Made, tmp_path: Path) -> None:
    (made.project / "ablations" / "left.py").write_text("")  # so that a worktree is needed
    try:
        process = start(tmp_path, *made.command("reproduce", made.run.info.run_id))
        deadline = time.monotonic() + 60
        children: list[psutil.Process] = []
        while not any(map(_trains, children)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
            children = psutil.Process(process.pid).children(recursive=True)
        assert len(made.worktrees) == 2
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        (made.project / "ablations" / "left.py").unlink()
    assert process.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1].startswith("error: stopped by SIGTERM")
    assert not any(child.is_running() for child in children)
    assert len(made.worktrees) == 1
    assert runs_in(tmp_path, "reproduce") == []


OWN = """
from torch import nn
from pipeline import Ablation
from pipeline.data import synthetic
from one.part import WIDTH
from two.part import DEPTH

def network(num_classes, width=WIDTH):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, width * DEPTH), nn.ReLU(),
                         nn.Linear(width * DEPTH, num_classes))

variants = {"narrow": {}, "wide": {"width": 24}}
ablation = Ablation(network, variants, {"synthetic": synthetic.generate})
"""


def test_an_ablation_whose_files_are_gone_is_repeated_from_the_runs_own(
    original: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    for folder, line in (("one", "WIDTH = 8"), ("two", "DEPTH = 2")):
        (code / folder).mkdir(parents=True)
        (code / folder / "part.py").write_text(line)
    (code / "own.py").write_text(OWN)
    made = original._replace(folder=tmp_path)
    arguments = [*TINY, "--ablation", str(code / "own.py"), "--variant", "wide"]
    answer = run(tmp_path, *made.command("train", *arguments))
    assert answer.status == 0, answer.err
    made = made._replace(run=runs_in(tmp_path)[0])
    files = made.client.list_artifacts(made.run.info.run_id, "ablation")
    assert [file.path for file in files] == ["ablation/one", "ablation/own.py", "ablation/two"]
    shutil.rmtree(code)
    (tmp_path / "mlruns" / "0" / made.run.info.run_id / "artifacts" / "checkpoint.pt").unlink()
    answer = made.reproduce()
    assert answer.status == 0, answer.err
    assert "not compared: the weights, since the run's checkpoint.pt is gone" in answer.out
    assert "identical: 5 metrics of 1 epoch, bit for bit\n" in answer.out
    # As if it needed more than the run keeps.
    shutil.rmtree(tmp_path / "mlruns" / "0" / made.run.info.run_id / "artifacts" / "ablation/two")
    monkeypatch.setattr(reproducing, "checkout_of", lambda *_: nullcontext(made.project))
    (record,) = records_of(made.run.info.run_id, None)
    with pytest.raises(InputError, match=r"No module named 'two'.*put it back") as failure:
        reproducing.reproduce(record, None, None)
    assert f"since {code}/own.py is gone or has changed" in str(failure.value)


def test_a_killed_run_is_compared_as_far_as_it_went_and_a_metric_of_ones_own_is_not(
    made: Made,
) -> None:
    run_id = made.run.info.run_id
    with sqlite3.connect(made.folder / "mlflow.db") as store:
        store.execute("delete from metrics where step > 2")
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            last = f"select value from metrics where key = '{name}' and step = 2"
            store.execute(f"update latest_metrics set value = ({last}) where key = '{name}'")
        for table in ("metrics", "latest_metrics"):  # as one that is logged only at the end
            store.execute(f"delete from {table} where key = 'lr'")
        store.execute("update runs set status = 'KILLED'")
    store.close()
    made.client.log_metric(run_id, "my_score", 0.5, step=7)
    answer = made.reproduce()
    assert answer.status == 0, answer.out
    other, verdict = answer.out.splitlines()[-5:-3]
    assert other == "not compared, since training does not log it: my_score"
    assert verdict == "identical: 4 metrics of 2 epochs, bit for bit"


def test_values_are_compared_bit_by_bit() -> None:
    nan, zero = float("nan").hex(), (0.0).hex()
    values: Values = {("loss", 1): {nan}, ("loss", 2): {zero}}
    assert compare_values(values, {("loss", 1): {nan}, ("loss", 2): {zero}}, 2).is_identical
    other = compare_values(values, {("loss", 1): {nan}, ("loss", 2): {(-0.0).hex()}}, 2)
    assert list(other.table["same"]) == [True, False]
    assert "loss 0.0 recorded, -0.0 repeated" in other.describe(())
    gone = compare_values({("loss", 1): {nan}}, values, 2)
    assert "differs, first in epoch 2: loss not recorded, 0.0 repeated" in gone.describe(())


def test_other_data_is_refused_by_its_digest(made: Made) -> None:
    made.client.set_tag(made.run.info.run_id, "data_digest", "0" * 64)
    answer = made.reproduce()
    assert answer.status == 2
    (line,) = answer.error_lines
    assert "was made with data_digest 0000000000000000, here it is " in line
    assert "--data-dir" in line
    assert len(runs_in(made.folder)) == 1


def drop_metrics(made: Made) -> None:
    with sqlite3.connect(made.folder / "mlflow.db") as store:
        for table in ("metrics", "latest_metrics"):
            store.execute(f"delete from {table}")
    store.close()


def tag(key: str, value: str) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        made.client.set_tag(made.run.info.run_id, key, value)

    return change


def drop_commit(made: Made) -> None:
    made.client.delete_tag(made.run.info.run_id, "mlflow.source.git.commit")


def drop_threads(made: Made) -> None:
    forget_detail(made.client, made.run.info.run_id, "threads")


REFUSED: dict[str, tuple[Callable[[Made], None], list[str], str]] = {
    "changed code": (tag("git_dirty", "true"), [], "had changes that are in no commit; only runs"),
    "no commit": (drop_commit, [], "does not name a commit; only runs of a git checkout can be"),
    "another commit": (tag("mlflow.source.git.commit", "0" * 40), [], "is not in"),
    "another kind": (tag("kind", "evaluate"), [], "is neither a training run nor a study"),
    "no threads": (drop_threads, [], "it does not say its threads"),
    "nothing measured": (drop_metrics, [], "has no complete epoch to compare with"),
    "too many epochs": (lambda _: None, ["--epochs", "4"], "epochs is 4; run"),
    "no epochs": (lambda _: None, ["--epochs", "0"], "epochs is 0; it must be a whole number of"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_run_that_can_not_be_repeated_is_refused_with_the_reason(
    pipeline: Callable[..., Answer], made: Made, what: str
) -> None:
    change, arguments, reason = REFUSED[what]
    change(made)
    answer = pipeline("reproduce", made.run.info.run_id, *arguments)
    assert answer.status == 2
    (line,) = answer.error_lines
    assert reason in line
    assert len(runs_in(made.folder)) == 1


def test_an_unknown_run_is_refused(pipeline: Callable[..., Answer]) -> None:
    answer = pipeline("reproduce", "0" * 32)
    assert answer.status == 2
    assert "is not the id of a run" in answer.error_lines[0]


def test_of_a_study_one_run_of_each_variant_is_repeated(study: Study, tmp_path: Path) -> None:
    shutil.copy(study.folder / "mlflow.db", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for one in study.runs.values():  # the checkout has changes while it is worked on
        client.set_tag(one.info.run_id, "git_dirty", "false")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    names = [record.run.config.run_name for record in records_of(study.parent.info.run_id, 3)]
    assert sorted(names) == ["base-seed0", "bn-seed0", "dropout-seed0"]


@pytest.mark.thorough
def test_a_study_is_repeated(original: Made, tmp_path: Path) -> None:
    made = original._replace(folder=tmp_path)
    study = ["ablate", "--variants", "base,bn", "--seeds", "2", "--jobs", "2", *TINY]
    assert run(tmp_path, *made.command(*study)).status == 0
    made = made._replace(run=runs_in(tmp_path, "study")[0])
    answer = made.reproduce()
    assert answer.status == 0, answer.err
    assert answer.out.count("identical: 5 metrics of 1 epoch, bit for bit, and so are") == 2
