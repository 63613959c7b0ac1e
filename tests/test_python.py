"""The functions for Python do what the commands do, return what they print, and print nothing."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mine
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from conftest import ROOT, WHOLE, Answer, environment, forget_stores, runs_in
from PIL import Image

import pipeline as project
from pipeline import ablate, compare, evaluate, predict, reproduce, train
from pipeline.cli import app
from pipeline.errors import InputError, PartialError
from pipeline.training.device import restoring_torch

Commands = Callable[..., Answer]
SMALL: dict[str, Any] = {"ablation": str(ROOT / "tests" / "small.py"), "epochs": 1}


@pytest.fixture(autouse=True)
def _in_this_process(pipeline: Commands, capfd: pytest.CaptureFixture[str]) -> None:
    """Studies train here, as in the tests of commands; nothing must be printed."""
    forget_stores()
    capfd.readouterr()


def test_what_is_trained_is_returned_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = train(**SMALL, variant="bn", seed=1)
    assert run.registered
    assert run.registered.uri == "models:/synthetic-cnn/1"
    (found,) = runs_in(tmp_path)
    assert (run.run_id, run.status) == (found.info.run_id, "FINISHED")
    assert run.history[-1].val_accuracy == found.data.metrics["val_accuracy"]
    assert (run.identity.variant, run.identity.seed) == ("bn", 1)

    study = ablate(**SMALL, variants=["base", "bn"], seeds=[0, 1])
    assert not isinstance(study, list)
    assert set(study.runs["run"]) == {f"{v}-seed{s}" for v in ("base", "bn") for s in (0, 1)}
    assert study.runs["reused"].sum() == 1  # bn, seed 1
    (effect,) = study.effects[study.effects["metric"] == "val_accuracy"].to_dict("records")
    assert (effect["treatment"], effect["control"], effect["seeds"]) == ("bn", "base", 2)
    assert len(study.curves) == 4
    assert study.report.startswith("<!doctype html>")
    assert "<iframe" in study._repr_html_()

    for same in (compare(last=4), compare(study.runs["run_id"])):
        assert list(same.effects["difference"]) == list(study.effects["difference"])
    evaluated = evaluate("synthetic-cnn@bn", ablation=SMALL["ablation"])
    assert evaluated.metrics["accuracy"] == pytest.approx(
        study.runs.set_index("model").loc["models:/synthetic-cnn/3", "val_accuracy"], abs=1e-3
    )
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    (tmp_path / "two.png").write_text("no picture")
    table = predict("synthetic-cnn@bn", [str(tmp_path / "one.png"), "two.png"], top=2)
    assert list(table["file"]) == [str(tmp_path / "one.png"), "two.png"]
    assert table["probability"][0] >= table["probability_2"][0]
    assert table["error"][1]
    planned = ablate(**SMALL, variants="base,bn", seeds=3, dry_run=True)
    assert isinstance(planned, list)
    assert "2 runs to train" in planned[-1]
    said = capfd.readouterr()
    bars = [line for line in said.err.replace("\n", "\r").split("\r") if line]
    assert said.out == ""
    assert all("it/s]" in bar or "00:00" in bar for bar in bars), bars


def test_what_is_wrong_is_raised(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong, function in (
        ({"variant": "nope"}, train),
        ({"epochs": 0}, train),
        ({"keep_state": "maybe"}, train),
        ({"variants": ["base", "base"]}, ablate),
        ({"seeds": []}, ablate),
        ({"seeds": [0, 0.5]}, ablate),
        ({"lr": [0.001, -1]}, ablate),
        ({"runs": ["none"]}, compare),
    ):
        with pytest.raises(InputError):
            function(**wrong)
    with pytest.raises(InputError):
        reproduce("0" * 32)
    assert runs_in(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (train, {"lr": "0.1"}, "lr is '0.1'; it must be a number"),
        (train, {"epochs": "2"}, "epochs is '2'; it must be a whole number of at least 1"),
        (train, {"device": 0}, "unknown device 0; it must be one of auto, cpu"),
        (train, {"variant": None}, "variant is None; it must be UTF-8 text without NUL"),
        (train, {"ablation": 3}, "ablation is 3; it must be UTF-8 text"),
        (train, {"keep_state": 1}, "unknown keep_state 1"),
        (ablate, {"margin": "wide", "seeds": "auto"}, "margin is 'wide'; it must be a number, or"),
        (ablate, {"max_seeds": "9", "seeds": "auto"}, "max_seeds is '9'; it must be a whole"),
        (ablate, {"gpu_share": "1"}, "gpu_share is '1'; it must be a number"),
        (ablate, {"cluster": 1}, "cluster is 1; it must be UTF-8 text"),
        (ablate, {"name": 7}, "name is 7; it must be UTF-8 text"),
        (evaluate, {"model": 5}, "model is 5; it must be UTF-8 text"),
        (predict, {"model": "m", "images": [1]}, "images is 1; it must be UTF-8 text"),
        (reproduce, {"run_id": 1}, "run_id is 1; it must be UTF-8 text"),
        (compare, {"runs": [1]}, "a run is 1; it must be UTF-8 text"),
        (compare, {"runs": 5}, "a run is 5; it must be UTF-8 text"),
        (compare, {"runs": pd.Series(dtype=str)}, "runs is empty; name two or more"),
        (predict, {"model": "m", "images": np.zeros((2, 8, 8, 3))}, "images is array([[[0., 0.,"),
        (train, {"seed": np.zeros((9, 9))}, "seed is array([[0., 0., 0.,"),
        (train, {"epochs": 10**30}, f"epochs is {10**30}; it must be at most 1000000000"),
        (train, {"epochs": 10**5000}, "epochs is a value of type int; it must be at most"),
        (ablate, {"gpu_share": 10**400}, "gpu_share is inf; it must be 0.01 to 1"),
        (ablate, {"margin": 10**400, "seeds": "auto"}, "margin is inf; it must be above 0"),
        (train, {"lr": 10**400}, "lr is inf; it must be a finite number"),
    ],
)
def test_a_value_of_another_type_is_an_input_error(
    function: Callable[..., Any], wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        function(**wrong)
    assert str(refused.value).startswith(message)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250
    assert runs_in(tmp_path) == []


@pytest.mark.parametrize("several", [tuple, iter, np.array, pd.Series])
def test_several_values_may_be_a_list_of_any_kind(several: Callable[..., Any]) -> None:
    asked = {"variants": several(["base", "bn"]), "seeds": several([3, 0])}
    lines = ablate(**SMALL, **asked, lr=several([0.01, 0.001]), dry_run=True)
    assert isinstance(lines, list)
    assert "8 runs to train" in lines[-1]


def test_the_numbers_of_a_study_may_be_numpys() -> None:
    margin: Any = {"margin": np.float32(5), "max_seeds": np.int64(6), "gpu_share": np.float64(0.5)}
    jobs: Any = {"jobs": np.int8(1)}
    lines = ablate(**SMALL, variants="base,bn", seeds="auto", **margin, **jobs, dry_run=True)
    assert isinstance(lines, list)
    assert "10 runs to train" in lines[-1]


def test_paths_and_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    mine.write(tmp_path)
    own: dict[str, Any] = {"ablation": tmp_path / "mine.py", "data_dir": tmp_path}
    settings: dict[str, Any] = {"lr": np.float32(0.5), "seed": np.uint8(3)}
    run = train(**own, **settings, epochs=np.int64(1))  # type: ignore[arg-type]
    assert (run.identity.epochs, run.identity.lr, run.identity.seed) == (1, 0.5, 3)
    assert run.registered
    model: Any = Path(mlflow.artifacts.download_artifacts(run.registered.uri))
    evaluated = evaluate(model=model, **own)
    assert evaluated.metrics["accuracy"] == pytest.approx(run.history[-1].val_accuracy)


def test_what_an_edited_ablation_imports_is_imported_anew(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text("WIDTH = int(open('width.txt').read())\n")
    (tmp_path / "width.txt").write_text("4")
    own: dict[str, Any] = {"ablation": tmp_path / "mine.py", "epochs": 1}
    mine.write(
        tmp_path,
        ("import torch\n", "import sizes\nimport torch\n"),
        ("width=8", "width=sizes.WIDTH"),
    )
    first = train(**own)
    again = train(**own)
    assert again.identity == first.identity
    assert again.inputs_digest == first.inputs_digest
    (tmp_path / "width.txt").write_text("12")
    read = train(**own)
    (tmp_path / "sizes.py").write_text("WIDTH = 20\n")
    edited = train(**own)
    sizes = [first.num_parameters, read.num_parameters, edited.num_parameters]
    assert sizes == sorted(set(sizes))
    assert edited.identity.code_digest != first.identity.code_digest

    other = tmp_path / "other"
    other.mkdir()
    (other / "sizes.py").write_text("WIDTH = 40\n")
    (other / "mine.py").write_text(own["ablation"].read_text())
    assert train(ablation=str(other / "mine.py"), epochs=1).num_parameters > edited.num_parameters


def test_torch_is_left_as_it_was() -> None:
    with restoring_torch():
        torch.set_num_threads(3)
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.deterministic = False
        train(**SMALL)
        ablate(**SMALL, variants="base,bn", seeds=2, dry_run=True)
        assert torch.get_num_threads() == 3
        assert torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.deterministic


def test_a_study_whose_runs_fail_in_part_has_a_report_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from conftest import broken_cell

    with (
        broken_cell("bn", 1, RuntimeError("no luck")),
        pytest.raises(PartialError, match="1 of 4 runs failed; bn-seed1: no luck") as failed,
    ):
        ablate(**SMALL, variants="base,bn", seeds=2)
    assert len(failed.value.report.runs) == 3


def test_a_run_is_continued_by_what_is_given(tmp_path: Path) -> None:
    first = train(**SMALL, variant="bn")
    again = train(resume=first.run_id)  # finished
    assert (again.run_id, again.history) == (first.run_id, first.history)
    assert first.registered
    assert again.registered
    assert again.registered.uri == first.registered.uri
    more = train(resume=first.run_id, epochs=2)
    assert (more.run_id, len(more.history)) == (first.run_id, 2)
    with pytest.raises(InputError, match=r"has lr 0\.001, not 0\.01"):
        train(resume=first.run_id, lr=0.01)
    with pytest.raises(InputError, match="has epochs 2, not 1"):
        train(resume=first.run_id, epochs=1)


def test_functions_and_commands_have_the_same_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in ("train", "ablate", "compare", "evaluate", "predict", "reproduce"):
        function = inspect.signature(getattr(project, name)).parameters
        options = {one.name: one for one in commands[name].params if one.name != "help"}
        options.pop("output", None)  # `predict` returns a table, which can be written
        assert function.keys() == options.keys(), name
        for option, parameter in function.items():
            if parameter.default is not inspect.Parameter.empty:
                assert options[option].default == parameter.default, (name, option)


def test_a_script_needs_no_guard_and_prints_nothing(tmp_path: Path) -> None:
    """Its study trains in processes of their own, which must not execute it again."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from pipeline import ablate\n"
        "open('begun', 'a').write('x')\n"
        f"study = ablate({SMALL['ablation']!r}, epochs=1, variants='base,bn', seeds=1)\n"
        "assert len(study.runs) == 2\n"
    )
    quiet = {**environment(tmp_path), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=quiet, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "begun").read_text() == "x"
    assert len(runs_in(tmp_path, "train")) == 2
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    # MLflow knows only that of the script, which is in no repository.
    commits = {run.data.tags.get("mlflow.source.git.commit") for run in runs_in(tmp_path)}
    assert commits == {commit}


def test_the_tutorials_pieces_are_there_too() -> None:
    assert {"CNNNetwork", "epoch", "training_transform"} <= set(project.__all__)
    assert all(getattr(project, name) for name in project.__all__)


def test_a_report_is_a_page_in_a_notebook(pipeline: Commands) -> None:
    assert pipeline("train", *WHOLE, "--variant", "bn").status == 0
    assert pipeline("train", *WHOLE, "--variant", "base").status == 0
    study = compare()
    assert isinstance(study.effects, pd.DataFrame)
    assert mlflow.get_run(study.run_id).data.tags["kind"] == "comparison"
