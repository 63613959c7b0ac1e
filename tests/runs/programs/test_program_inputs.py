"""What the numbers of a program depend on, so that only equal runs are reused."""

import os
import time
from pathlib import Path

import pytest
from driven import carry_out, of_command, of_file, place, run_of

from pipeline.ablation.inputs import Inputs, digest_of, input_differences
from pipeline.runs.programs.inputs import program_inputs, program_statement
from pipeline.store.artifacts import read_artifact


def found(tmp_path: Path, program: object = "python train.py {seed}", **given: object) -> Inputs:
    ablation = of_command(tmp_path, "", program=program, **given)
    place(tmp_path, train="import features\nimport sklearn.linear_model, yaml, absent_one")
    return program_inputs(ablation, next(iter(ablation.variants)))


def test_the_code_that_a_script_can_reach_counts_with_the_versions_of_packages(
    tmp_path: Path,
) -> None:
    programs = place(
        tmp_path,
        features="def f():\n    from random import g\n    import torch, json",
        random="import helpers.deep",  # beside a script it hides Python's own
        unrelated="",
    )
    (programs / "helpers").mkdir()
    (programs / "helpers" / "__init__.py").touch()
    (programs / "helpers" / "deep.py").write_text("x = 1  # a remark")
    inputs = found(tmp_path)
    code = {"train.py", "features.py", "random.py", "helpers/__init__.py", "helpers/deep.py"}
    assert set(inputs.files) == inputs.certain == code
    assert set(inputs.packages) == {"scikit-learn", "PyYAML", "torch", "absent_one"}
    assert inputs.packages["absent_one"] == "(not installed)"
    (programs / "helpers" / "deep.py").write_text("x = 1  # another remark")
    assert digest_of(found(tmp_path)) == digest_of(inputs)
    (programs / "helpers" / "deep.py").write_text("x = 2")
    assert input_differences(inputs, found(tmp_path)) == "helpers/deep.py has changed since"


@pytest.mark.parametrize(
    ("program", "files"),
    [
        ("python -u -W ignore train.py {seed}", {"train.py", "features.py"}),
        ("python -m train {seed}", {"train.py", "features.py"}),
        ("python -Bum train {seed}", {"train.py", "features.py"}),
        ("python -mtrain -W {seed}", {"train.py", "features.py"}),
        ("python -Xdev -BW ignore -- train.py {seed}", {"train.py", "features.py"}),
        ("python -m package.inner {seed}", {"package/__init__.py", "package/inner.py", "b.yaml"}),
        ("python package {seed}", {"package/__main__.py", "package/features.py"}),
        ("torchrun --nproc 2 train.py {seed}", {"train.py", "features.py"}),
        ("sh run.sh {seed}", {"run.sh", "inner.sh", "train.py", "features.py"}),
        ("make {seed}", {"Makefile", "train.py", "features.py"}),
        ("python wrap.py {seed}", {"wrap.py", "package/inner.py", "b.yaml"}),
        ("python train.py --conf={conf} {seed}", {"train.py", "features.py", "a.yaml"}),
        ("python ../outside.py {seed}", {"outside.py", "beside.py"}),
        ('python -c "import features; print({seed})"', set()),
    ],
)
def test_the_code_of_a_command_is_found_whatever_launches_it(
    tmp_path: Path, program: str, files: set[str]
) -> None:
    programs = place(tmp_path, features="")
    (tmp_path / "outside.py").write_text("import beside")
    (tmp_path / "beside.py").touch()
    (programs / "package").mkdir()
    (programs / "package" / "__init__.py").touch()
    (programs / "package" / "inner.py").write_text("open('b.yaml')")
    (programs / "package" / "__main__.py").write_text("import features")
    (programs / "package" / "features.py").touch()
    (programs / "run.sh").write_text("set -e\n./inner.sh '$1'\n")
    (programs / "inner.sh").write_text("exec python train.py --seed=$1")
    (programs / "Makefile").write_text("all:\n\tpython ./train.py")
    (programs / "b.yaml").touch()
    (programs / "wrap.py").write_text("subprocess.run([sys.executable, 'package/inner.py'])")
    (programs / "a.yaml").touch()
    inputs = found(tmp_path, program, variants={"a": {"conf": "a.yaml"}})
    assert set(inputs.files) == files


def test_files_that_the_code_names_count_unless_the_run_has_written_them(tmp_path: Path) -> None:
    code = (
        "here = os.path.dirname(__file__)\n"
        "rate = float(open(os.path.join(here, 'rate.txt')).read())\n"
        "open('predictions.csv', 'w').write('x')\n"
        "log('test_rmse', rate)"
    )
    ablation = of_command(tmp_path, code)
    programs = tmp_path / "my programs"
    (programs / "rate.txt").write_text("0.5")
    (programs / "predictions.csv").write_text("of an earlier run")
    time.sleep(0.02)  # files have the time of the system's last tick
    first = carry_out(ablation)
    assert set(first.inputs.files) == {"train.py", "rate.txt"}
    assert set(first.inputs.guessed) == {"rate.txt"}
    assert run_of(first).data.tags["inputs_digest"] == digest_of(first.inputs)
    recorded = read_artifact(run_of(first).info.artifact_uri, "inputs.json")
    assert recorded
    assert b'"rate.txt"' in recorded
    now = program_inputs(ablation, "a")
    assert set(now.files) == {"train.py", "rate.txt", "predictions.csv"}
    assert input_differences(first.inputs, now) == ""
    (programs / "rate.txt").write_text("0.6")
    assert input_differences(first.inputs, program_inputs(ablation, "a")) == (
        "rate.txt has changed since"
    )


def test_of_a_project_every_file_counts_but_hidden_ones_and_results(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    kept = {"MLproject", "fit.py", "conf/a.yaml", "data/x.csv", "pkg/m.py"}
    left = {".git/x", ".env", "mlruns/0/x", "__pycache__/a.pyc", "venv/lib/y.py", "mlflow.db"}
    for name in kept | left | {"venv/pyvenv.cfg"}:
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).touch()
    (theirs / "MLproject").write_text(
        "entry_points: {main: {parameters: {seed: int}, command: 'python fit.py {seed}'}}"
    )
    (theirs / "fit.py").write_text("import pkg.m, sklearn")
    (tmp_path / "given.csv").touch()
    given: dict[str, object] = {"program": "", "project": "../theirs"}
    given["variants"] = {"a": {"data": "../given.csv"}}
    ablation = of_command(tmp_path, "", **given)
    inputs = program_inputs(ablation, "a")
    assert set(inputs.files) == kept | {"given.csv"}
    assert inputs.certain == {"MLproject", "fit.py", "pkg/m.py"}
    assert set(inputs.packages) == {"scikit-learn"}
    assert set(program_inputs(ablation, "a", started=0).files) == inputs.certain
    assert program_statement(ablation) == ["project", "main"]


def test_of_a_function_the_file_of_the_ablation_counts(tmp_path: Path) -> None:
    place(tmp_path, features_of_function="")
    ablation = of_file(
        tmp_path,
        "import features_of_function, numpy\n"
        "def train(settings, seed): ...\n"
        "ablation = Ablation(program=train, variants={'a': {}}, outcome=Outcome('x'))\n",
        "by_function",
    )
    inputs = program_inputs(ablation, "a")
    assert set(inputs.files) == {"by_function.py", "features_of_function.py"}
    assert set(inputs.packages) == {"numpy"}
    assert program_statement(ablation) == ["function", "train"]
    assert os.path.isabs(inputs.folder)  # noqa: PTH117


def test_the_statement_of_a_command_is_that_of_all_its_runs(tmp_path: Path) -> None:
    ablation = of_command(tmp_path, "", program="python  train.py '{a b}' {seed}")
    assert program_statement(ablation) == ["command", "python", "train.py", "{a b}", "{seed}"]
