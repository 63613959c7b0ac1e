"""Values given to `mlflow run` reach no shell, and a wrong one is reported in one line."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import yaml
from conftest import BIN, ROOT, Answer, project_address, runs_in

from pipeline.config import MAX_NAME
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import check_ours

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = sorted(PROJECT["entry_points"].keys() - {"main"})  # main is train
# Some of each.
COMPOUND = (
    "$(touch injected)`touch injected`; touch injected #\"' \n\t\u202e👩‍🔬e\u0301 %s{}../../etc"
)
HOSTILE = {
    "compound": COMPOUND,
    "substitution": "$(touch injected)",
    "backticks": "`touch injected`",
    "next command": "x; touch injected #",
    "and": "x && touch injected || touch injected & touch injected",
    "redirection": "x > injected | tee injected",
    "single quote": "'; touch injected; '",
    "double quote": '"; touch injected; "',
    "quotes": '\' " \' ""',
    "spaces": "  two  words ",
    "line breaks": "one\ntouch injected\r\n\ntwo",
    "tab": "a\tb",
    "terminal codes": "\x1b[2J\x1b]0;title\x07\x08",
    "right to left": "\u202eatad\u202c שלום",
    "emoji": "👩‍🔬🏳️‍🌈",
    "combining": "e\u0301\u0327 é Å",
    "upwards": "../../etc",
    "absolute": "/etc/passwd",
    "short option": "-x",
    "option": "--help",
    "end of options": "--",
    "empty": "",
    "blank": " ",
    "formats": "%s%n{}{0}{variant}${HOME}",
    "variable": "$HOME ${PATH} ~ *",
    "backslashes": "\\\\ \\n \\$(touch injected)",
    "long": "x" * 10_000,
}
SMALL = {"dataset": "synthetic", "train_images": "100", "epochs": "1"}
# The first of them decides.
TOGETHER = {
    "train": ("dataset", "data_dir"),
    "ablate": ("name", "data_dir"),
    "evaluate": ("model", "data_dir"),
    "predict": ("output", "images"),
}
USUAL: dict[str, dict[str, str]] = {
    "train": SMALL,
    "ablate": {**SMALL, "variants": "base", "seeds": "1"},
    "evaluate": {"model": "nowhere"},
    "predict": {"model": "nowhere", "images": str(ROOT / "README.md")},
}


def is_injected(folder: Path) -> bool:
    """Whether a shell has obeyed: that of `mlflow run` runs in the checkout."""
    return any((place / "injected").exists() for place in (ROOT, ROOT.parent, folder))


def cases(entry_point: str) -> list[tuple[str, ...]]:
    """The parameters of an entry point, each alone, and data_dir beside another."""
    together = TOGETHER[entry_point]
    names = PROJECT["entry_points"][entry_point]["parameters"]
    return [together, *((name,) for name in names if name not in together)]


def is_allowed(parameter: str, value: str) -> bool:
    """Whether it is the name of a study, which may be almost anything."""
    return parameter == "name" and bool(value.strip()) and len(value) <= MAX_NAME


def read_config(run_id: str) -> dict[str, str]:
    """The settings as the project itself has stored them."""
    record = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/record.json"))
    return dict(record["parameters"])


@pytest.fixture
def project(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str, dict[str, str]], Answer]:
    """`mlflow run`, shell and all, without the seconds that starting MLflow takes."""
    monkeypatch.setenv("PATH", str(BIN), prepend=":")

    def command(entry_point: str, parameters: dict[str, str]) -> Answer:
        capfd.readouterr()
        status = 0
        try:
            mlflow.projects.run(  # type: ignore[no-untyped-call]
                project_address(), entry_point, parameters=parameters, env_manager="local"
            )
        except mlflow.exceptions.ExecutionException:
            status = 1
        out, err = capfd.readouterr()
        return Answer(status, out, err)

    return command


def check(
    project: Callable[[str, dict[str, str]], Answer],
    folder: Path,
    entry_point: str,
    parameters: tuple[str, ...],
    value: str,
) -> None:
    """Give the value to parameters; it must do nothing but what it may."""
    before = {run.info.run_id for run in runs_in(folder)}
    answer = project(entry_point, USUAL[entry_point] | dict.fromkeys(parameters, value))
    assert not is_injected(folder)
    assert "Traceback" not in answer.err
    new = [run for run in runs_in(folder) if run.info.run_id not in before]
    if is_allowed(parameters[0], value):
        assert answer.status == 0, answer.err
        assert {run.info.status for run in new} == {"FINISHED"}
        (own,) = (run for run in new if "mlflow.parentRunId" not in run.data.tags)
        assert own.info.run_name == own.data.tags["study"] == value
        assert {read_config(own.info.run_id)[name] for name in parameters} == {value}
    else:
        assert answer.status != 0
        (line,) = answer.error_lines
        assert line.isprintable()
        # It says `--batch-size` or `batch_size`, and `variant` of one of `variants`. A file that is
        # there may be an image.
        name = "model" if parameters[0] == "images" and Path(value).is_absolute() else parameters[0]
        assert name.replace("_", "-").rstrip("s") in line.replace("_", "-")
        assert [run.info.status for run in new] == ["FAILED"]


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_no_parameter_reaches_a_shell(
    entry_point: str,
    project: Callable[[str, dict[str, str]], Answer],
    tmp_path: Path,
    tally: Callable[[str, int], None],
) -> None:
    """All of them at once, which is one command line; the first that is looked at is told."""
    declared = PROJECT["entry_points"][entry_point]["parameters"]
    names = [name for name, about in declared.items() if about["type"] == "string"]
    first = {"train": "device", "ablate": "lr", "evaluate": "model", "predict": "output"}[
        entry_point
    ]
    names.sort(key=lambda name: name != first)
    check(project, tmp_path, entry_point, tuple(names), COMPOUND)
    tally("hostile values through mlflow run", len(names))


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_no_value_of_any_parameter_reaches_a_shell(
    entry_point: str,
    value: str,
    project: Callable[[str, dict[str, str]], Answer],
    tmp_path: Path,
    tally: Callable[[str, int], None],
) -> None:
    for parameters in cases(entry_point):
        check(project, tmp_path, entry_point, parameters, value)
    tally("hostile values through mlflow run", sum(map(len, cases(entry_point))))


@pytest.mark.thorough
def test_a_name_and_a_folder_may_be_anything_and_are_kept_to_the_letter(
    project: Callable[[str, dict[str, str]], Answer],
    tmp_path: Path,
    tally: Callable[[str, int], None],
) -> None:
    hostile = {"name": COMPOUND, "data_dir": COMPOUND}
    answer = project("ablate", {**USUAL["ablate"], **hostile})
    assert answer.status == 0, answer.err
    assert not is_injected(tmp_path)
    (parent,), (child,) = runs_in(tmp_path, "study"), runs_in(tmp_path, "train")
    assert parent.info.run_name == parent.data.tags["study"] == COMPOUND
    assert child.data.params["data_dir"] == COMPOUND
    for name in hostile:
        assert read_config(parent.info.run_id)[name] == COMPOUND
        # MLflow logs what it has quoted for the shell.
        assert shlex.split(parent.data.params[name]) == [COMPOUND]

    hostile = {"model": "models:/synthetic-cnn@champion", "data_dir": COMPOUND}
    answer = project("evaluate", hostile)
    assert answer.status == 0, answer.err
    assert not is_injected(tmp_path)
    (evaluation,) = runs_in(tmp_path, "evaluate")
    assert read_config(evaluation.info.run_id)["data_dir"] == COMPOUND
    assert {run.info.status for run in runs_in(tmp_path)} == {"FINISHED"}

    # As the folder of CIFAR-100 it is looked at, and is none.
    answer = project("train", {"data_dir": COMPOUND})
    assert not is_injected(tmp_path)
    (line,) = answer.error_lines
    assert "data_dir" in line
    assert "is not a folder" in line
    assert runs_in(tmp_path)[0].info.status == "FAILED"
    tally("hostile values through mlflow run", 4)


@pytest.mark.thorough
def test_numbers_as_mlflow_logs_them_are_read_back(
    project: Callable[[str, dict[str, str]], Answer],
    pipeline: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    """`mlflow run` logs a value as it was typed, in quotes if a shell would need them."""
    typed = {**SMALL, "epochs": "1.0", "lr": " 1e-2", "seed": "7 "}
    answer = project("train", typed)
    assert answer.status == 0, answer.err
    (found,) = runs_in(tmp_path)
    assert found.data.params["lr"] == "' 1e-2'"
    config = check_ours(found).config
    assert (config.epochs, config.lr, config.seed) == (1, 0.01, 7)
    (line,) = pipeline("compare").err.splitlines()
    assert "base-seed7-lr0.01" in line


def test_a_name_that_no_database_would_take_is_cut() -> None:
    with track("evaluate-" + "x" * MAX_NAME, {}, {}) as made:
        pass
    name = mlflow.get_run(made.info.run_id).info.run_name
    assert name == "evaluate-" + "x" * (MAX_NAME - len("evaluate-"))
