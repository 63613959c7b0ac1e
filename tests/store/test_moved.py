"""A store that was moved, copied, emptied, or may only be read, is never silently wrong."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mine
import mlflow
import pytest
from conftest import TINY, WHOLE, Answer, forget_stores, run_in_process, runs_in
from PIL import Image

from pipeline.errors import InputError, percent
from pipeline.reproduction.code import ablation_of
from pipeline.runs.queries import check_ours
from pipeline.runs.results import RESULT_FILE
from pipeline.store.initialization import check_store
from pipeline.store.liveness import this_process
from pipeline.store.moving import relocation

STUDY = ["ablate", *WHOLE, "--variants", "base,bn", "--seeds", "1", "--jobs", "1"]
MODEL = "models:/synthetic-cnn@bn"
EVALUATE = ("evaluate", "--model")
ONE_RUN = ("--epochs", "1", "--batch-size", "32", "--seeds", "1", "--jobs", "1")
Pipeline = Callable[..., Answer]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study was made; tests copy it, or hide it."""
    folder = tmp_path_factory.mktemp("made") / "projA"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
        assert run_in_process(patch, *STUDY) == 0
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project copied to another folder, in which the test works."""
    folder = tmp_path / "B 'ü' #1"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def moved(project: Path, copied: Path) -> Iterator[Path]:
    """The project moved to another folder, in which the test works."""
    hidden = project.with_name("hidden")
    project.rename(hidden)
    yield copied
    assert not project.exists()  # nothing was made there
    hidden.rename(project)


@pytest.fixture
def emptied(copied: Path, pipeline: Pipeline) -> Path:
    """The project in a folder of its own, without its artifacts."""
    assert pipeline("relocate").status == 0
    shutil.rmtree(copied / "mlruns")
    return copied


def content(folder: Path) -> dict[str, int]:
    """Every file in a folder, and its size."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def addresses(database: Path) -> list[str]:
    """Every address of artifacts in a database."""
    with closing(sqlite3.connect(database)) as connection:
        return [
            address
            for table, column, condition in relocation.ADDRESSES
            for (address,) in connection.execute(f"SELECT {column} FROM {table} WHERE {condition}")
            if address
        ]


def rewrite(database: Path, old: str, new: str) -> None:
    """Let a database have been made elsewhere."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column, condition in relocation.ADDRESSES:
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {condition}",
                (old, new),
            )


def picture() -> str:
    """The name of a picture to classify."""
    Image.new("RGB", (32, 32), "red").save("picture.png")
    return "picture.png"


def test_every_command_says_that_the_store_was_moved_and_makes_nothing(
    moved: Path, project: Path, pipeline: Pipeline
) -> None:
    (run, *_) = runs_in(moved, "train")
    for command in (
        STUDY,
        [*STUDY, "--dry-run"],
        ["train", *TINY],
        ["train", "--resume", run.info.run_id],
        ["compare"],
        ["reproduce", run.info.run_id],
        ["evaluate", "--model", MODEL],
        ["predict", "--model", MODEL, picture()],
        ["serve", "--model", MODEL],
    ):
        before = content(moved)
        answer = pipeline(*command)
        assert answer.status == 2, command
        (line,) = answer.err.splitlines()
        assert f"its artifacts are in {moved}, but it says {project}" in line
        assert line.endswith("adjust it by: python -m pipeline relocate")
        assert content(moved) == before


def test_relocate_makes_a_moved_store_whole(
    moved: Path, project: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = moved.rename(moved.with_name("B, 50%20 off? it's [Ü] #1"))
    monkeypatch.chdir(moved)
    (moved / "mlflow.db.before-relocate-1").write_text("mine")
    copy = moved / "mlflow.db.before-relocate-2"
    before = addresses(moved / "mlflow.db")
    answer = pipeline("relocate")
    assert (answer.status, answer.err) == (0, "")
    assert f"{project} is {moved} now" in answer.out
    assert "8 addresses rewritten" in answer.out
    assert "2 registered models load" in answer.out
    assert (moved / "mlflow.db.before-relocate-1").read_text() == "mine"
    assert addresses(copy) == before
    # No column is forgotten, whatever MLflow adds. Origins of data are left as they were.
    with closing(sqlite3.connect(moved / "mlflow.db")) as connection:
        dump = "\n".join(line for line in connection.iterdump() if '"datasets"' not in line)
    assert str(project) not in dump
    again = pipeline("relocate")
    assert again.status == 0
    assert "nothing to rewrite" in again.out
    assert len(list(moved.glob("*.before-relocate-*"))) == 2

    study = pipeline(*STUDY)
    assert study.status == 0, study.err
    assert "2 of 2 runs are finished already and are reused" in study.out
    predicted = pipeline("predict", "--model", MODEL, picture())
    assert predicted.status == 0, predicted.err
    assert {path.name for path in moved.parent.iterdir()} == {moved.name}


def test_the_file_of_ones_own_ablation_is_used_where_it_is_now(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study(ablation: str) -> Answer:
        return pipeline("ablate", "--ablation", ablation, "--variants", "plain,wide", *ONE_RUN)

    old, new = tmp_path / "projA", tmp_path / "projB"
    old.mkdir()
    (old / "d.txt").write_text("90")
    here = "(__import__('pathlib').Path(__file__).parent / 'd.txt')"
    mine.write(old, ("images[:90]", f"images[:int({here}.read_text())]"))
    monkeypatch.chdir(old)
    assert study("mine.py").status == 0
    old.rename(new)
    monkeypatch.chdir(new)
    old.mkdir()
    (old / "mine.py").write_text("raise SystemError('of another project')")
    assert pipeline("relocate").status == 0
    answer = pipeline(*EVALUATE, "models:/noise-mine@wide")
    assert answer.status == 0, answer.err

    (new / "sub").mkdir()
    for name in ("mine.py", "d.txt"):
        (new / name).rename(new / "sub" / name)
    answer = study("sub/mine.py")
    assert answer.status == 0, answer.err
    assert "2 of 2 runs are finished already and are reused" in answer.out
    assert "models:/noise-mine@wide" in answer.out
    (run, *_) = runs_in(new, "train")
    for command in (
        (*EVALUATE, "models:/noise-mine@wide"),
        ("compare",),
        ("train", "--resume", run.info.run_id, "--epochs", "2"),
    ):
        answer = pipeline(*command)
        assert answer.status == 2, command
        (line,) = answer.err.splitlines()
        file = new / "mine.py"
        assert f"{str(file)!r}: there is no such file; name its place now with --ablation" in line


def test_a_copy_leaves_the_original_alone(copied: Path, project: Path, pipeline: Pipeline) -> None:
    before = content(project)
    answer = pipeline(*STUDY)
    assert answer.status == 2
    assert f"its artifacts are in {copied}, but it says {project}" in answer.err
    assert pipeline("relocate").status == 0
    assert pipeline(*STUDY).status == 0
    assert content(project) == before
    check_in(project)  # which is not moved


def check_in(folder: Path) -> None:
    """Check the store in a folder as a command does that is typed there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        forget_stores()
        check_store()


@pytest.mark.parametrize("old", ["file:///C:/Users/J%20D/projA", "file:///home/ann/a%20b", "/x/é"])
def test_addresses_of_other_systems_are_rewritten_in_their_own_form(
    old: str, copied: Path, project: Path, pipeline: Pipeline
) -> None:
    rewrite(copied / "mlflow.db", str(project), old)
    assert pipeline("compare").status == 2
    answer = pipeline("relocate")
    assert answer.status == 0, answer.err
    found = [address for address in addresses(copied / "mlflow.db") if "models:/" not in address]
    assert all(address.startswith("file:") == old.startswith("file:") for address in found)
    assert pipeline("predict", "--model", MODEL, picture()).status == 0


def test_neither_links_nor_relative_and_foreign_addresses_raise_an_alarm(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(project)
    check_in(tmp_path / "link")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/link/mlflow.db")
    check_store()
    foreign = ("./arts", "file://machine/share/x", "C:\\Users\\x", "s3://bucket/x", "/gone/x", None)
    for number in range(len(foreign)):
        mlflow.create_experiment(f"e{number}")
    with closing(sqlite3.connect(project / "mlflow.db")) as connection, connection:
        values = [(address, f"e{number}") for number, address in enumerate(foreign)]
        connection.executemany("UPDATE experiments SET artifact_location=? WHERE name=?", values)
    (project / "mlruns" / "backup").mkdir()
    check_store()
    with closing(sqlite3.connect(project / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM experiments WHERE name LIKE 'e_'")
    # After the move the old path may lead to the new one.
    project.rename(tmp_path / "new")
    project.symlink_to(tmp_path / "new")
    try:
        check_in(tmp_path / "new")
    finally:
        project.unlink()
        (tmp_path / "new").rename(project)


def test_database_and_artifacts_may_be_apart(
    project: Path, tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, arts, work = (tmp_path / name for name in ("store", "arts", "work"))
    store.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copy(project / "mlflow.db", store / "runs.db")
    shutil.copytree(project / "mlruns", arts / "mlruns")
    rewrite(store / "runs.db", str(project), str(tmp_path / "old"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/runs.db")
    answer = pipeline(*STUDY)
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert f"{tmp_path}/old/mlruns/0, which is not there" in line
    assert "relocate --artifacts FOLDER" in line
    answer = pipeline("relocate")
    assert answer.status == 1
    assert "nothing to rewrite" in answer.out
    assert answer.err.startswith(f"missing: no folder {tmp_path}/old/mlruns/0/")
    for folder in (arts / "mlruns", arts):
        rewrite(store / "runs.db", str(arts), str(tmp_path / "old"))
        answer = pipeline("relocate", "--artifacts", str(folder))
        assert answer.status == 0, answer.err
    assert pipeline("predict", "--model", MODEL, picture()).status == 0
    # In the folder that holds them they are found without a name.
    rewrite(store / "runs.db", str(arts), str(tmp_path / "old"))
    monkeypatch.chdir(arts)
    assert "adjust it by" in pipeline("compare").err
    assert pipeline("relocate").status == 0
    assert not (tmp_path / "old").exists()


def test_a_database_that_was_copied_alone_writes_nothing_to_the_other_project(
    project: Path, tmp_path: Path, pipeline: Pipeline
) -> None:
    shutil.copy(project / "mlflow.db", tmp_path)
    before = content(project)
    for command in (STUDY, ["train", *TINY], ["compare"], ["evaluate", "--model", MODEL]):
        answer = pipeline(*command)
        assert answer.status == 2, command
        (line,) = answer.err.splitlines()
        assert f"belongs to {project}/mlflow.db" in line
        assert "MLFLOW_EXPERIMENT_NAME" in line
    assert pipeline("predict", "--model", MODEL, picture()).status == 0
    assert content(project) == before


def test_a_store_without_runs_may_be_moved_too(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    check_in(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    answer = pipeline("train", *TINY)
    assert answer.status == 2
    assert "relocate" in answer.err
    assert pipeline("relocate").status == 0
    assert pipeline("train", *TINY).status == 0
    assert {path.name for path in tmp_path.iterdir()} - {"state"} == {"b"}


def test_relocate_is_refused_where_it_can_not_help(
    copied: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*arguments: str) -> str:
        before = content(copied)
        answer = pipeline("relocate", *arguments)
        assert answer.status == 2
        assert content(copied) == before
        (line,) = answer.err.splitlines()
        return line

    assert "'nowhere', which is not a folder" in refused("--artifacts", "nowhere")
    for uri in ("http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/runs"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        line = refused()
        assert "is not a SQLite file" in line
        assert "secret" not in line
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert "there is no" in refused()
    (run, *_) = runs_in(copied, "train")
    forget_stores()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    client = mlflow.MlflowClient()
    for name, value in this_process().items():
        client.set_tag(run.info.run_id, name, value)
    client.update_run(run.info.run_id, status="RUNNING")
    assert f"run {run.info.run_id} is still running" in refused()


def test_runs_whose_files_are_gone_are_trained_again_and_get_the_aliases(
    emptied: Path, pipeline: Pipeline
) -> None:
    (run,) = (run for run in runs_in(emptied, "train") if run.data.tags["variant"] == "bn")
    for reference in (MODEL, "models:/synthetic-cnn/2", run.info.run_id):
        answer = pipeline("predict", "--model", reference, picture())
        assert answer.status == 2
        (line,) = answer.err.splitlines()
        assert f"the files of {reference} are missing" in line
    assert pipeline("evaluate", "--model", MODEL).status == 2
    (study_run,) = runs_in(emptied, "study")
    assert "its files are gone" in pipeline("reproduce", study_run.info.run_id).err
    record = check_ours(run)
    record = replace(record, config=replace(record.config, ablation="own.py"))
    with pytest.raises(InputError, match="its ablation's file is missing in"):
        ablation_of(record, emptied)
    # What was measured is in the database.
    assert pipeline("compare").status == 0

    preview = pipeline(*STUDY, "--dry-run")
    assert preview.out.count(": to train") == 2
    study = pipeline(*STUDY)
    assert study.status == 0, study.err
    (line,) = (line for line in study.err.splitlines() if "trained again" in line)
    assert f"{RESULT_FILE} is missing in" in line
    assert "reused" not in study.out
    client = mlflow.MlflowClient(f"sqlite:///{emptied}/mlflow.db")
    for alias in ("base", "bn", "champion"):
        assert int(client.get_model_version_by_alias("synthetic-cnn", alias).version) > 2
    assert pipeline("predict", "--model", MODEL, "picture.png").status == 0
    assert "2 of 2 runs are finished already and are reused" in pipeline(*STUDY).out


def test_a_run_without_the_files_of_its_model_is_not_finished(
    copied: Path, pipeline: Pipeline
) -> None:
    assert pipeline("relocate").status == 0
    for model in copied.glob("mlruns/0/models/*/artifacts/data/model.pt2"):
        model.unlink()
    study = pipeline(*STUDY)
    assert study.status == 0, study.err
    assert "files of its model are missing in" in study.err
    assert pipeline("predict", "--model", MODEL, picture()).status == 0


def test_a_finished_run_that_is_continued_gets_its_files_back(
    emptied: Path, pipeline: Pipeline
) -> None:
    (run, *_) = runs_in(emptied, "train")
    answer = pipeline("train", "--resume", run.info.run_id)
    assert answer.status == 0, answer.err
    assert "is finished, but trained again" in answer.err
    assert pipeline("predict", "--model", run.info.run_id, picture()).status == 0
    (now,) = (one for one in runs_in(emptied, "train") if one.info.run_id == run.info.run_id)
    learned = {name: value for name, value in run.data.metrics.items() if "loss" in name}
    assert learned.items() <= now.data.metrics.items()


def test_metrics_that_were_logged_by_hand_do_not_stop_a_study_or_a_comparison(
    emptied: Path, pipeline: Pipeline
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{emptied}/mlflow.db")
    base, bn = sorted(runs_in(emptied, "train"), key=lambda run: run.data.tags["variant"])
    for step in (0, 7, -1):
        client.log_metric(base.info.run_id, "note", 0.5, step=step)
        client.log_metric(base.info.run_id, "val_accuracy", 0.5, step=step)
    for file in emptied.rglob(RESULT_FILE):
        file.unlink()
    answer = pipeline("compare")
    assert answer.status == 0, answer.err
    first = client.get_metric_history(base.info.run_id, "val_accuracy")
    (measured,) = (metric.value for metric in first if metric.step == 1)
    (row,) = (line for line in answer.out.splitlines() if line.split()[:1] == ["base"])
    assert f" {percent(measured)} " in row

    client.log_metric(bn.info.run_id, "val_accuracy", 0.5, step=1)
    answer = pipeline("compare")
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert "it has logged two values of val_accuracy in epoch 1" in line
    study = pipeline(*STUDY)
    assert study.status == 0, study.err
    assert "trained again" in study.err


def test_a_store_that_may_only_be_read_is_reported_before_anything_is_trained(
    copied: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline("relocate").status == 0
    name = picture()
    (copied / "mlflow.db.lock").unlink()
    access = os.access
    (run, *_), (study,) = runs_in(copied, "train"), runs_in(copied, "study")
    for stopped in (run, study):
        mlflow.MlflowClient().update_run(stopped.info.run_id, status="KILLED")
    resume = ["train", "--resume", run.info.run_id]
    train, use = [STUDY, ["train", *TINY], resume], [["evaluate", "--model", MODEL], ["compare"]]
    models, own = copied / "mlruns/0/models", copied / "mlruns/0" / run.info.run_id / "artifacts"
    before = content(copied)
    for place, commands in (
        *((one, train + use) for one in (copied / "mlflow.db", copied, copied / "mlruns" / "0")),
        (models, train),
        (own, [resume]),
    ):

        def readable(path: Path, mode: int, place: Path = place) -> bool:
            return access(path, mode) and not (Path(path).absolute() == place and mode & os.W_OK)

        monkeypatch.setattr(os, "access", readable)
        for command in commands:
            answer = pipeline(*command)
            assert answer.status == 1, command
            (line,) = answer.err.splitlines()
            assert str(place) in line
            assert "make it writable" in line
        assert pipeline("predict", "--model", MODEL, name).status == 0
    assert content(copied) == before  # a lock could not be made there
    # A stopped run of another user's is not continued, and trained again.
    preview = pipeline(*STUDY, "--dry-run")
    assert f"{run.info.run_name}: to train again: {own} can't be written" in preview.out


def test_a_name_that_no_experiment_can_have(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, told in (("x" * 257, "256 at most"), ("x" * 501, "has 501"), ("\udcff", "UTF-8")):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        for command in (STUDY, ["train", *TINY], ["evaluate", "--model", MODEL]):
            answer = pipeline(*command)
            assert answer.status == 2
            (line,) = answer.err.splitlines()
            assert line.startswith("error: MLFLOW_EXPERIMENT_NAME")
            assert told in line
    assert [one.name for one in mlflow.search_experiments()] == ["Default"]
