"""MLproject, the command line and the environments say the same."""

import inspect
import itertools
import os
import re
import signal
import site
import subprocess
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, copy_checkout, free_port, run, runs_in, start

from pipeline import cli
from pipeline.config import APPLICATION, Config
from pipeline.runs.queries import check_ours
from pipeline.store.tags import unpack

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
SMALL_PROJECT = ["-Pdataset=synthetic", "-Ptrain_images=600", "-Pepochs=1"]


@pytest.mark.parametrize("entry_point", sorted(PROJECT["entry_points"]))
def test_every_parameter_is_in_its_command_and_is_an_option_with_that_default(
    entry_point: str,
) -> None:
    declared = PROJECT["entry_points"][entry_point]
    command = "train" if entry_point == "main" else entry_point
    assert declared["command"].startswith(f"python -m pipeline {command} ")
    passed = dict(re.findall(r"--([a-z-]+) \{([a-z_]+)\}", declared["command"]))
    passed |= {name: name for name in re.findall(r"-- \{([a-z_]+)\}", declared["command"])}
    assert {option.replace("-", "_") for option in passed} == declared["parameters"].keys()
    assert all(option.replace("-", "_") == name for option, name in passed.items())
    options = dict(inspect.signature(getattr(cli, command)).parameters)
    if command == "train":
        # `mlflow run` has an option of its own for that: --run-id.
        del options["resume"]
    options.pop("dry_run", None)  # only prints
    options.pop("recursive", None)  # a pattern with ** does the same
    assert options.keys() == declared["parameters"].keys()
    for name, parameter in declared["parameters"].items():
        default = options[name].default
        assert parameter.get("default", inspect.Parameter.empty) == default, name


def test_main_and_train_are_the_same_and_set_all_that_there_is_to_set() -> None:
    assert PROJECT["entry_points"]["main"] == PROJECT["entry_points"]["train"]
    declared = PROJECT["entry_points"]["train"]["parameters"].keys()
    others = {"register", "keep_state"}  # which decide no number
    assert declared == Config().as_dict().keys() | others


def test_an_option_may_be_written_with_underscores_as_in_mlproject(tmp_path: Path) -> None:
    answer = run(tmp_path, "python", "-m", "pipeline", "train", "--batch_size", "0")
    assert answer.error_lines == ["error: batch_size is 0; it must be a whole number of at least 1"]


def test_help_answers_at_once_since_it_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.__main__ import main; sys.argv = ['pipeline', '--help']\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'mlflow', 'numpy') if m in sys.modules])"
    )
    assert run(tmp_path, "python", "-c", code).out.splitlines()[-1] == "[]"


def test_the_version_and_completions_import_no_torch(tmp_path: Path) -> None:
    command = ["python", "-X", "importtime", "-m", "pipeline"]
    answer = run(tmp_path, *command, "--version")
    assert answer.status == 0
    (line,) = answer.out.splitlines()
    assert re.fullmatch(
        r"mlflow-ablation \d+\.\d+\.\d+ \(commit [0-9a-f]{7,40}(-dirty)?\), torch \d\S+,"
        r" mlflow \d\S+, Python 3\.\d+\.\d+",
        line,
    )
    assert not re.search(r"\| +(torch|mlflow|numpy)$", answer.err, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []

    # As docs/setup.md sets it up in ~/.bashrc.
    documented = re.search(
        r"^_python_m_pipeline.*?^complete[^\n]*$",
        (ROOT / "docs" / "setup.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert documented
    ask = "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _python_m_pipeline python; echo ${COMPREPLY[*]}"
    for words, expected in {
        "python -m pipeline tr": "train",
        "python -m pipeline train --device c": "cpu cuda",
        "python -m pipeline ablate --validation h": "holdout",
        "python -m venv tr": "",
    }.items():
        script = f"{documented[0]}\nCOMP_WORDS=({words}); {ask}"
        assert run(tmp_path, "bash", "-c", script).out.strip() == expected
    # typer asks which program has called it: bash, if it has something left to do.
    script = run(tmp_path, "bash", "-c", "python -m pipeline --show-completion; true").out
    assert script.endswith("complete -o default -F _pipeline_completion pipeline\n")


def test_the_product_has_one_name_everywhere() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert named["name"] == PROJECT["name"] == environment["name"] == APPLICATION


def test_make_installs_the_command_which_works_in_any_folder_and_yields_to_another_checkout(
    tmp_path: Path,
) -> None:
    venv.create(tmp_path / ".venv", symlinks=True)  # which takes the packages of this one
    (packages,) = (tmp_path / ".venv").glob("lib/*/site-packages")
    (packages / "all.pth").write_text("\n".join(site.getsitepackages()))
    installed, other, elsewhere = (tmp_path / name for name in ("installed", "other", "elsewhere"))
    for checkout, version in ((installed, "1.2.3"), (other, "4.5.6")):
        copy_checkout(checkout)
        about = (checkout / "pyproject.toml").read_text()
        numbered = re.sub("^version = .*$", f'version = "{version}"', about, flags=re.MULTILINE)
        (checkout / "pyproject.toml").write_text(numbered)
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(folder: Path, *command: str) -> str:
        return subprocess.check_output(command, cwd=folder, env=clean, text=True)

    steps = said(installed, "make", "--dry-run", "--always-make", ".venv/installed")
    (install,) = re.findall("^.*--editable.*$", steps, re.MULTILINE)
    python, *options = install.replace(".venv", str(tmp_path / ".venv")).split()
    said(installed, python, *options, "--no-index", "--ignore-installed")
    command = str(Path(python).with_name("pipeline"))
    for folder in (elsewhere, other):
        assert said(folder, command, "--version").startswith(f"{APPLICATION} 1.2.3, torch ")
    for folder, version in ((installed, "1.2.3"), (other, "4.5.6"), (elsewhere, "1.2.3")):
        answer = said(folder, python, "-m", "pipeline", "--version")
        assert answer.startswith(f"{APPLICATION} {version}, torch ")
    assert list(elsewhere.iterdir()) == []


def test_conda_yaml_installs_the_frozen_requirements_from_conda_forge_alone() -> None:
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, packages = environment["dependencies"]
    assert re.fullmatch(r"python=3\.1[1-4]", python)
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.txt"]}
    # Without this MLflow would go on using a conda environment of older pins.
    pins_hash = subprocess.check_output(
        ["git", "hash-object", "requirements.txt"], cwd=ROOT, text=True
    )
    assert f"# requirements.txt: {pins_hash}" in (ROOT / "conda.yaml").read_text()
    pins = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.lstrip().startswith("#")
    ]
    assert all(re.match(r"[a-z0-9._-]+==[^ ]+( ;.*)?$", pin) for pin in pins)


@pytest.fixture
def git_address(tmp_path: Path) -> Iterator[str]:
    """The checkout as it is, committed to a repository that a git server on loopback serves."""
    repository = tmp_path / "repository"
    copy_checkout(repository)
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    port = free_port()
    serve = ["git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    server = start(tmp_path, *serve, f"--base-path={tmp_path}")
    yield f"git://127.0.0.1:{port}/repository"
    os.killpg(server.pid, signal.SIGTERM)
    server.communicate()


def test_the_git_address_works_from_another_folder_in_an_environment_from_conda_yaml(
    tmp_path: Path, git_address: str
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    command = ["mlflow", "run", git_address, "--env-manager", "uv", "-P", "variant=bn"]
    # A rate that is typed in another way is no conflict, and a given name stays.
    given = ["--run-name", "bn-lr-3", "-P", "lr=1e-1"]
    answer = run(folder, *command, *given, *SMALL_PROJECT)
    assert answer.status == 0, answer.err
    (found,) = runs_in(folder)
    assert found.info.run_name == "bn-lr-3"
    assert found.data.params["lr"] == "1e-1"
    assert found.data.metrics["lr"] == 0.1
    assert found.info.status == "FINISHED"
    assert found.data.tags["mlflow.project.env"] == "uv"
    head = ["git", "-C", str(tmp_path / "repository"), "rev-parse", "HEAD"]
    commit = subprocess.check_output(head, text=True).strip()
    assert found.data.tags["mlflow.source.git.commit"] == commit
    assert unpack(found)["git_dirty"] == "false"
    assert list(folder.glob("mlruns/0/models/*/artifacts/MLmodel"))

    # A file of one's own, which the project does not have.
    (folder / "own.py").write_text((ROOT / "ablations" / "activations.py").read_text())
    own = ["-P", "ablation=own.py", "-P", "variant=gelu", "-P", "epochs=1"]
    answer = run(folder, "mlflow", "run", git_address, "--env-manager", "local", *own)
    assert answer.status == 0, answer.err
    assert check_ours(runs_in(folder)[0]).config.ablation == str(folder / "own.py")


# What only an ablation's file, `training` and `data` may name: variants, layers, data sets.
NAMES = (
    r"\b(bn|base_dropout|cifar\S*|synthetic|batch_?norm\w*|dropout\w*|conv\w*2d|relu|maxpool\w*)\b"
)
QUOTED = r"[\"'`](base|dropout)[\"'`]"
COUNTS = r"100 (different )?classes|ln\(?100|N, 100|32, 32|32x32"


def test_no_other_code_names_a_variant_a_layer_a_data_set_or_a_number_of_classes() -> None:
    named = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        name = path.relative_to(ROOT / "pipeline").as_posix()
        if name.startswith(("data/", "training/")):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(f"{NAMES}|{QUOTED}|{COUNTS}", line, re.IGNORECASE):
                named.append(f"{name}:{number}: {line.strip()}")
    assert named == []


def test_private_names_of_mlflow_torch_and_tqdm_stand_in_one_module() -> None:
    private = re.compile(
        r"from (mlflow|torch|tqdm)[\w.]* import [^\n]*\b_[a-z]"
        r"|\b(mlflow|torch|tqdm)(\.\w+)*\._[a-z]"
        r"|(from|import) mlflow\.(utils|store|tracking|system_metrics|projects)\b"
    )
    users = {p.name for p in (ROOT / "pipeline").rglob("*.py") if private.search(p.read_text())}
    assert users == {"upstream.py"}


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda p: p.stem)
def test_a_finding_can_be_run_and_says_what_was_guessed_and_seen(script: Path) -> None:
    assert os.access(script, os.X_OK)
    comments = itertools.takewhile(lambda line: line.startswith("#"), script.open())
    headings = [line.split(":")[0] for line in comments if re.match("# [A-Z ]+:", line)]
    assert headings == [f"# {one}" for one in ("GUESS", "REAL", "VERSIONS", "DATE", "OUTPUT SEEN")]
