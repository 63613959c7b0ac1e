"""Everything works in every folder, and leaves nothing elsewhere."""

import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
import numpy as np
import pytest
from conftest import (
    REAL_DATA,
    TINY,
    copy_checkout,
    forget_stores,
    needs_real_data,
    run,
    run_killed,
    runs_in,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROJECT_TINY = ["dataset=synthetic", "train_images=300", "epochs=1"]
NAMES = (
    "my project",
    "Übung 3, 日本",
    "issue #12",
    "50%20off",
    "-R&D; it's what? [a]{b} $HOME 100% `x`",
    'the "best" one',
    "x" * 200,
)
TRAIN = ["train", *TINY]
EVALUATE = ["evaluate", "--model", "models:/synthetic-cnn/1"]
EVERY_COMMAND = (  # but `ablate`, which the test of a clone runs
    TRAIN,
    ["train", *TINY, "--variant", "bn"],
    ["compare"],
    EVALUATE,
    ["train", "--resume", "RUN", "--epochs", "2"],
)


def succeed(
    folder: Path, *commands: list[str], variables: dict[str, str] | None = None
) -> list[str]:
    """Run commands in `folder`, each of which must succeed. Returns what they print."""
    job = {"otherwise": ["data"], "child_processes": True}
    jobs = [{"arguments": command, **job} for command in commands]
    answers = run_killed(folder, jobs, variables)
    for command, answer in zip(commands, answers, strict=True):
        assert answer["status"] == 0, (command, answer["err"])
    return [answer["out"] for answer in answers]


def hold_that_mlflow_finds_it(folder: Path) -> None:
    """Hold that the runs lie in `folder` and nowhere else, and that plain MLflow finds them."""
    found = unquote(folder.name)  # MLflow decodes the path of its artifacts, and finds them there
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, found}
    assert (folder.parent / found / "mlruns" / "0").is_dir()
    left = {path.name for path in folder.iterdir()} - {"mlruns"}
    assert left >= {"mlflow.db"}
    assert not [name for name in left if name.startswith("mlflow.db.new")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        forget_stores()
        model = mlflow.pyfunc.load_model("models:/synthetic-cnn/1")
        assert model.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 100)


def test_every_command_works_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "top" / "-my project (ü) #1; 50%20off? R&D's [a]{b}"
    folder.mkdir(parents=True)
    succeed(folder, *EVERY_COMMAND)
    hold_that_mlflow_finds_it(folder)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_every_command_works_in_folders_that_people_have(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "top" / name
    folder.mkdir(parents=True)
    study = ["ablate", *TINY, "--variants", "base,bn", "--seeds", "1", "--jobs", "2"]
    succeed(folder, *EVERY_COMMAND, study)
    hold_that_mlflow_finds_it(folder)


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(
    # MLflow 3.17 can't keep runs where both quotes are, nor find artifacts behind a backslash or
    # a character below 32; a `:` can't be part of a PATH.
    st.text(
        st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters='/\\:"\0'),
        min_size=1,
        max_size=60,
    ).filter(lambda name: name not in (".", "..") and unquote(name) not in (".", ".."))
)
@example("%23")
@example("a+b|c<d>*")
def test_a_model_is_trained_and_evaluated_in_a_folder_of_whatever_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / name
        if "/" in unquote(name):
            return
        folder.mkdir()
        succeed(folder, TRAIN, EVALUATE)
        hold_that_mlflow_finds_it(folder)


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_store_may_be_named_by_an_address_whatever_its_folder_is_called(
    is_absolute: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "issue #12"
    store = (tmp_path if is_absolute else folder) / "Läufe #1? 50%20off"
    folder.mkdir()
    address = f"sqlite:///{quote(str(store) if is_absolute else store.name)}/runs[1].db"
    succeed(folder, TRAIN, variables={"MLFLOW_TRACKING_URI": address})
    assert {path.name for path in store.iterdir()} == {"runs[1].db", "runs[1].db.lock"}
    assert (folder / "mlruns" / "0").is_dir()


@pytest.mark.parametrize("is_outside", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_relative_store_is_found_from_the_folder_of_the_project(
    is_outside: bool, tmp_path: Path
) -> None:
    clone, folder = tmp_path / "clone", tmp_path / "work"
    copy_checkout(clone)
    folder.mkdir()
    project = ["env", "MLFLOW_TRACKING_URI=sqlite:///runs.db", "mlflow", "run", str(clone)]
    command = [*project, "--env-manager", "local", *(f"-P{option}" for option in PROJECT_TINY)]
    answer = run(folder if is_outside else clone, *command)
    if is_outside:
        assert answer.status == 1
        (line,) = answer.error_lines
        assert "give MLFLOW_TRACKING_URI the whole path" in line
    else:
        assert answer.status == 0, answer.err
    assert (clone / "runs.db").exists() != is_outside


@needs_real_data
def test_home_caches_and_data_may_lie_in_folders_of_any_name(tmp_path: Path) -> None:
    work, odd = tmp_path / "work", tmp_path / "-my project (ü) #1; 50%20off? R&D's [a]{b}"
    home, data = odd / "home", odd / "data"
    work.mkdir()
    home.mkdir(parents=True)
    data.symlink_to(REAL_DATA)
    variables = {"HOME": str(home), "XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}
    real = ["train", "--dataset", "cifar100", "--train-images", "300", "--epochs", "1"]
    succeed(work, [*real, "--data-dir", str(data)], variables=variables)
    assert list(home.rglob("arrays/*"))
    succeed(
        work, [*real, "--variant", "bn"], variables={**variables, "PIPELINE_DATA_DIR": str(data)}
    )
    assert {path.name for path in work.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlruns"}
    assert {path.name for path in tmp_path.iterdir()} == {work.name, odd.name}


def test_a_clone_works_where_it_lies_by_mlflow_run(tmp_path: Path) -> None:
    clone = tmp_path / "my project (ü) #1"
    copy_checkout(clone)
    project = ["mlflow", "run", ".", "--env-manager", "local"]
    options = ["variants=base,bn", "seeds=1", *PROJECT_TINY]
    answer = run(clone, *project, "-e", "ablate", *(f"-P{option}" for option in options))
    assert answer.status == 0, answer.err
    assert {run.info.status for run in runs_in(clone)} == {"FINISHED"}
