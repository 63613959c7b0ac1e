"""What an ablation may state of a program, and what it is told otherwise."""

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import run

from pipeline import Ablation, Outcome
from pipeline.ablation.checks import check_ablation
from pipeline.ablation.command import fill, template_of
from pipeline.ablation.loading import load_ablation
from pipeline.data import synthetic
from pipeline.errors import InputError
from pipeline.runs.programs.commands import command_of, printable_command

COMMAND = "python train.py --depth {depth} --seed {seed}"
VARIANTS = {"stumps": {"depth": 1}, "deep": {"depth": 6}}
RMSE = Outcome("test_rmse", better="lower")
AWKWARD = ["two words", 'it\'s "quoted"', "a;b & c | d", "$HOME `id`", "C:\\new\\", "100 % %PATH%"]
AWKWARD += ["line\nline", "{depth} {{}}", "-x", "", "é…", "*", "~"]


@pytest.fixture(autouse=True)
def train_py(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()


def stated(**changes: Any) -> Ablation:
    given: dict[str, Any] = {"program": COMMAND, "variants": VARIANTS, "outcome": RMSE, "name": "x"}
    return Ablation(**{**given, **changes})


def refused(**changes: Any) -> str:
    with pytest.raises(InputError) as error:
        check_ablation(stated(**changes))
    return str(error.value)


def test_the_statement_of_the_documentation_is_loaded_with_its_file_without_data(
    tmp_path: Path,
) -> None:
    (tmp_path / "boosting.py").write_text(
        "from pipeline import Ablation, Outcome\n"
        f"ablation = Ablation(program={COMMAND!r}, variants={VARIANTS!r},\n"
        "    outcome=Outcome('test_rmse', better='lower'))"
    )
    ablation = load_ablation("boosting.py")
    assert ablation.is_program
    assert ablation.outcomes == (RMSE,)
    assert ablation.name == "boosting"
    assert ablation.values("deep") == {"depth": 6}
    assert command_of(ablation, "deep", 3, "")[1:] == ["train.py", "--depth", "6", "--seed", "3"]
    assert command_of(ablation, "deep", 3, "")[0] == sys.executable
    assert printable_command(ablation, "deep", 3) == "python train.py --depth 6 --seed 3"


def test_a_network_has_what_is_usual_unless_another_is_given() -> None:
    data = {"synthetic": synthetic.generate}
    ablation = Ablation(dict, {"a": {}}, data, augmentation=None)
    assert not ablation.is_program
    assert ablation.criterion.__name__ == "CrossEntropyLoss"
    assert ablation.optimizer.__name__ == "adam"
    assert ablation.augmentation is None
    assert Ablation(dict, {"a": {}}, data).augmentation is not None


def test_a_program_is_stated_checked_and_run_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline import Ablation, Outcome\n"
        "from pipeline.ablation.checks import check_ablation\n"
        f"check_ablation(Ablation(program={COMMAND!r}, variants={VARIANTS!r},"
        " outcome=Outcome('x'), name='x'))\n"
        "import pipeline.runs.programs.run\n"
        "sys.exit('torch' in sys.modules)"
    )
    answer = run(tmp_path, "python", "-c", code)
    assert (answer.status, answer.err) == (0, "")


@pytest.mark.parametrize(
    "program", ["{seed} --x={value} '{value} y'", ["{seed}", "--x={value}", "{value} y"]]
)
def test_values_are_filled_in_after_the_command_is_divided(program: str | list[str]) -> None:
    template = template_of(stated(program=program))
    for value in AWKWARD:
        assert fill(template, {"value": value}, 7) == ["7", f"--x={value}", f"{value} y"]


def test_what_a_shell_would_take_for_its_own_is_an_argument_if_it_is_quoted() -> None:
    assert template_of(stated(program=r"""x '>a' "&\" |" b"<" \;""")) == [
        *["x", ">a"],
        '&" |',
        "b<",
        ";",
    ]
    assert template_of(stated(program=["x", "|", "&&"])) == ["x", "|", "&&"]


def test_values_are_written_as_python_does_and_doubled_braces_are_braces() -> None:
    template = template_of(stated(program="x {a} {b} {c} '{{\"d\": {d}}}' {seed}"))
    settings = {"a": True, "b": None, "c": 1e-7, "d": 10**20}
    filled = ["x", "True", "None", "1e-07", '{"d": 100000000000000000000}', "0"]
    assert fill(template, settings, 0) == filled


async def _async(settings: object, seed: int) -> None:
    """A function that only awaiting calls."""


def _no_seed(settings: object) -> None: ...


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"program": ""}, "give one of network, program and project; there is none"),
    "two": ({"project": "."}, "give one of network, program and project; there is program and"),
    "of networks": ({"datasets": {"a": print}}, "datasets is given, which a program does not have"),
    "None": ({"criterion": None}, "criterion is given, which a program does not have"),
    "of projects": ({"entry_point": "x"}, "entry_point is given, which a program does not have"),
    "no outcome": ({"outcome": ()}, "there is no outcome, which variants are compared by"),
    "a name": ({"outcome": "test_rmse"}, "outcome is 'test_rmse'; it must be as Outcome("),
    "twice": ({"outcome": [RMSE, RMSE]}, "name each metric once"),
    "missing": (
        {"variants": {"a": {"depth": 1}, "b": {}}},
        "variant 'b' has no setting 'depth', which program needs for {depth}",
    ),
    "no effect": (
        {"variants": {"a": {"depth": 1, "width": 2}}},
        "setting 'width' of variant 'a' has no effect; program has no {width}",
    ),
    "no seed": ({"program": "python train.py {depth}"}, "program has no {seed}, so that all"),
    "seed as setting": (
        {"variants": {"a": {"depth": 1, "seed": 2}}},
        "seed can't be a setting of variant 'a'",
    ),
    "equal": ({"variants": {"a": {"depth": 1}, "b": {"depth": 1}}}, "have the same settings"),
    "equal commands": (
        {"variants": {"a": {"depth": 1}, "b": {"depth": "1"}}},
        "variants 'a' and 'b' run the same command",
    ),
    "NUL": ({"variants": {"a": {"depth": "\0"}}}, "setting 'depth' of variant 'a' is '\\x00'"),
    "brace": ({"program": "x {depth {seed}"}, "{name} stands for a setting, and {{ and }} for"),
    "form": ({"program": "x {depth:3} {seed}"}, "program has '{depth:3}'; {name} stands for"),
    "quote": ({"program": "x '{depth} {seed}"}, "No closing quotation"),
    "and": ({"program": "x {depth} {seed} && y"}, "program has '&&', which a shell would take"),
    "pipe": ({"program": "x {depth} '{seed}'|tee"}, "program has '|', which a shell would take"),
    "number": ({"program": 3}, "program is 3; it must be a command or a function"),
    "list": ({"program": ["python", 3]}, "program is 3; it must be UTF-8 text"),
    "no script": ({"program": "python {depth}.py {seed}"}, "there is no 1.py in "),
    "no module": ({"program": "python -m nope {depth} {seed}"}, "there is no module 'nope' in"),
    "no program": ({"program": "nope {depth} {seed}"}, "there is no program 'nope' in PATH"),
    "no file": ({"program": "./nope {depth} {seed}"}, "there is no program './nope' in /"),
    "function": ({"program": _no_seed}, "program _no_seed can't be called with settings and a"),
    "async function": ({"program": _async}, "program _async is async; it must be a plain function"),
    "no project": ({"program": "", "project": "x"}, "there is no MLproject in "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused_in_one_line(case: str) -> None:
    changes, expected = REFUSED[case]
    message = refused(**changes)
    assert expected in message
    assert "\n" not in message


def test_a_network_is_told_what_belongs_to_programs() -> None:
    network: dict[str, Any] = {"program": "", "network": dict, "datasets": {"a": dict}}
    assert refused(**network) == "outcome is given, which a network does not have"
    assert refused(**network, outcome=(), adopt=True).startswith("adopt is given")


PROJECT = """
name: theirs
entry_points:
  main:
    parameters:
      depth: {type: int, default: 2}
      rate: float
      seed: int
    command: "python train.py {depth} {rate} {seed}"
  seedless: {command: "python train.py"}
"""


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (
            {"a": {"rate": 1, "width": 2}},
            "'width' of variant 'a' is no parameter of entry point 'main'",
        ),
        ({"a": {"depth": 2}}, "variant 'a' has no setting 'rate', which entry point 'main' needs"),
        ({"a": {"rate": 1}, "b": {"rate": 1, "depth": 2}}, "'a' and 'b' run the same command"),
    ],
)
def test_a_project_gets_the_parameters_that_it_declares(
    tmp_path: Path, variants: object, expected: str
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "MLproject").write_text(PROJECT)
    of_project: dict[str, Any] = {"program": "", "project": "theirs"}
    check_ablation(stated(**of_project, variants={"a": {"rate": 0.5}, "b": {"rate": 1}}))
    assert expected in refused(**of_project, variants=variants)
    assert "'seedless' of" in refused(**of_project, entry_point="seedless")
    assert "unknown entry_point 'mian'" in refused(**of_project, entry_point="mian")
    (tmp_path / "theirs" / "MLproject").write_text("entry_points: [")
    assert "can't be read" in refused(**of_project)


def test_the_command_is_found_from_the_folder_of_the_ablation(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    script = folder / "run it"
    script.write_text("#!/bin/sh\n")
    ablation = stated(program="'./run it' {depth} {seed}", source=str(folder / "mine.py"))
    with pytest.raises(InputError, match="that can be executed"):
        check_ablation(ablation)
    script.chmod(0o700)
    check_ablation(ablation)
    assert command_of(ablation, "deep", 0, "") == [str(script), "6", "0"]
    assert printable_command(ablation, "deep", 0) == "'./run it' 6 0"


def test_what_is_installed_beside_this_python_is_found_as_if_it_were_activated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ablation = stated(program="mlflow --depth {depth} {seed}")
    check_ablation(ablation)
    found = Path(command_of(ablation, "deep", 0, "")[0])
    assert (found.parent, found.stem) == (Path(sys.executable).parent, "mlflow")


def _train(settings: object, seed: int) -> None: ...


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"program": _train}, "_train({'depth': 'a b'}, 4)"),
        (
            {"program": "", "project": "../theirs"},
            "mlflow run ../theirs -e main -P 'depth=a b' -P seed=4",
        ),
    ],
)
def test_a_function_is_shown_as_its_call_and_a_project_as_what_to_type(
    how: dict[str, Any], expected: str
) -> None:
    ablation = stated(**how, variants={"a": {"depth": "a b"}})
    assert printable_command(ablation, "a", 4) == expected
