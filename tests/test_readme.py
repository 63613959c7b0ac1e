"""The Python code in README and docs runs as it stands; commands, files and pages exist."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from conftest import (
    ROOT,
    Answer,
    Study,
    drawn_data,
    free_port,
    project_address,
    run,
    run_forked,
    runs_in,
    start,
)
from numpy.typing import NDArray
from PIL import Image

from pipeline import read_picture

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = {
    page.name: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES
}
(LOAD, PICTURES, NOTEBOOK), (OWN,) = CODE["README.md"], CODE["your-own-ablation.md"]
(REQUEST, REBUILD), (TUTORIAL,) = CODE["models.md"], CODE["tutorial.md"]
(MADE_UP, STORE, TABLE), (SCRIPT, STATED, FUNCTION) = CODE["compare.md"], CODE["any-program.md"]


def draw_turned(path: Path) -> None:
    """Save a picture that is no square, and that has to be turned."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(path, exif=exif)


@pytest.mark.parametrize("block", [LOAD, REBUILD], ids=["load", "rebuild"])
def test_the_code_that_loads_a_model(study: Study, block: str) -> None:
    draw_turned(study.folder / "picture.png")
    code = block.replace("cifar100-cnn", "synthetic-cnn")
    answer = run_forked(study.folder, "python", "-c", f"{code}\nprint('end')")
    assert answer.status == 0, answer.err
    *shown, last = answer.out.splitlines()
    assert last == "end"
    if block is LOAD:
        name, probability = shown[-1].split()
        assert name in drawn_data().class_names
        options = ["--model", "models:/synthetic-cnn@bn", "--top", "1", "--output", "o.jsonl"]
        predicted = run_forked(study.folder, "pipeline", "predict", "picture.png", *options)
        assert predicted.status == 0, predicted.err
        (guess,) = json.loads((study.folder / "o.jsonl").read_text())["predictions"]
        assert (guess["class"], np.float32(guess["probability"])) == (name, np.float32(probability))


STAND_IN = """
import torchvision.datasets as datasets
def stand_in(root, train, transform, download):
    return datasets.FakeData(64, (3, 32, 32), 100, transform)
datasets.CIFAR100 = stand_in
"""


def test_the_tutorials_own_loop(tmp_path: Path) -> None:
    answer = run(tmp_path, "python", "-c", STAND_IN + TUTORIAL)
    assert answer.status == 0, answer.err
    for line in ("Epoch 1 (T)", "Epoch 1 (V)", "Epoch 2 (T)", "Epoch 2 (V)"):
        assert line in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_ablation_of_ones_own_from_an_empty_file_to_a_report(tmp_path: Path) -> None:
    (tmp_path / "digits_cnn.py").write_text(OWN)
    text = (ROOT / "docs" / "your-own-ablation.md").read_text()
    commands = re.findall(r"^(?:mlflow run|python -m pipeline (?!ui)).*$", text, re.MULTILINE)
    assert len(commands) == 4

    def type_it(command: str) -> Answer:
        """A study of two seeds takes less than half of the time."""
        words = command.removeprefix("python -m ").replace(" . ", f" {project_address()} ").split()
        if "ablate" in words:
            words += ["--seeds", "2"] if words[0] == "pipeline" else ["-P", "seeds=2"]
        return run_forked(tmp_path, *words)

    preview, study, single, evaluation = map(type_it, commands)
    for answer in (preview, study, single, evaluation):
        assert answer.status == 0, answer.err
    assert "6 runs to train, about " in preview.out
    assert "plain-seed0-lr0.003: to train" in preview.out
    assert len(runs_in(tmp_path, "train")) == 6 + 1  # the preview stored nothing
    for subject in ("BatchNorm", "idth 64 instead of 16"):
        assert re.search(f"{subject} .*validation accuracy", study.out), subject
    assert "models:/digits-digits_cnn@norm" in study.out
    (report,) = tmp_path.glob("mlruns/0/*/artifacts/report.md")
    assert not re.search("cifar|dropout|100 classes", report.read_text(), re.IGNORECASE)
    assert "wide-seed0-lr0.003" in single.out
    assert "accuracy" in evaluation.out


def test_mlflows_own_server_takes_the_request_and_still_cuts_floats_off(study: Study) -> None:
    draw_turned(study.folder / "picture.png")
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", "models:/synthetic-cnn@bn", "-p", str(port)]
    process = start(study.folder, *command, "--env-manager", "local")
    try:
        for _ in range(300):
            with suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            assert process.poll() is None
            time.sleep(0.2)
        code = f"{REQUEST.replace('5001', str(port))}\nnp.save('pixels.npy', pixels)"
        answer = run_forked(study.folder, "python", "-c", code)
        assert answer.out.splitlines() == ["100"], answer.err
        seen = read_picture(study.folder / "picture.png", (32, 32, 3))
        assert np.array_equal(np.load(study.folder / "pixels.npy"), seen)

        def first(images: NDArray[np.generic]) -> list[float]:
            address = f"http://127.0.0.1:{port}/invocations"
            told = requests.post(address, json={"inputs": images.tolist()}, timeout=60)
            assert told.status_code == 200
            return list(told.json()["predictions"][0])

        pixels = drawn_data().validation.images[:1].numpy()
        assert first(pixels / 255 * 0.99) == first(np.zeros_like(pixels)) != first(pixels)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def test_anybodys_runs_are_compared_as_the_page_shows(tmp_path: Path) -> None:
    answer = run_forked(tmp_path, "python", "-c", MADE_UP)
    assert answer.status == 0, answer.err
    page = (ROOT / "docs" / "compare.md").read_text().replace("\\\n", " ")
    examples = re.findall(r"^```\n\$ pipeline (compare .*)\n([^`]*)```", page, re.MULTILINE)
    assert len(examples) == 4
    for command, shown in examples:
        answer = run_forked(tmp_path, "pipeline", *shlex.split(command))
        assert answer.status == 0, answer.err
        said = answer.out.splitlines()
        assert [one for one in shown.splitlines() if one not in (*said, "…")] == [], command
    answer = run_forked(tmp_path, "python", "-c", f"{STORE}\n{TABLE}")
    assert answer.status == 0, answer.err
    assert "boosting" in answer.out
    assert "Model large instead of small raises accuracy by" in answer.out


def test_programs_of_the_page_are_those_of_an_example_and_run(tmp_path: Path) -> None:
    """tests/ablation/test_examples.py runs the example."""
    example = ROOT / "ablations" / "boosting"
    assert (example / "train.py").read_text().endswith(f'"""\n\n{SCRIPT}')
    assert (example / "boosting.py").read_text().endswith(f'"""\n\n{STATED}')
    (tmp_path / "ridge.py").write_text(FUNCTION)
    answer = run_forked(tmp_path, "pipeline", "ablate", "--ablation", "ridge.py", "--seeds", "1")
    assert answer.status == 0, answer.err
    assert "Alpha 1 instead of 0.01 raises cv_mse by" in answer.out


def test_every_snippet_is_run_by_a_test_here() -> None:
    others = {"python.md"}  # whose snippets tests/test_notebook.py runs
    assert sum(len(blocks) for page, blocks in CODE.items() if page not in others) == 13


def test_own_pictures_of_any_size_as_in_the_readme(tmp_path: Path) -> None:
    (tmp_path / "pets.py").write_text(PICTURES)
    for number, name in enumerate(("bird", "cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for count in range(5):
            size = (20 + 30 * count, 90 - 10 * number)
            picture = Image.new("RGB" if count else "L", size, 60 * number)
            picture.save(tmp_path / "photos" / name / f"{count}.{'png' if count else 'jpg'}")
    (tmp_path / "new.png").write_bytes((tmp_path / "photos" / "cat" / "1.png").read_bytes())
    commands = re.findall(
        r"`python -m (pipeline \S+ --(?:ablation|model) \S*pets[^`]*)`", README.read_text()
    )
    study, predict = (
        command.replace(" 20", " 1 --seeds 1").replace(".jpg", ".png") for command in commands
    )
    answer = run_forked(tmp_path, *study.split())
    assert answer.status == 0, answer.err
    assert answer.err.startswith("note: 12 images at batch_size=16 are 1 training step per epoch;")
    assert "12 training and 3 validation images, 32x32 pixels, 3 channels, 3 classes" in answer.out
    answer = run_forked(tmp_path, *predict.split())
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[1].split()[1] in ("bird", "cat", "dog")
    # What the command has trained is used again.
    code = NOTEBOOK.replace("epochs=20", "epochs=1, seeds=1").rstrip()
    code = code.replace("ablate(", "print(ablate(", 1)
    code = code.replace("# trains", ".runs['reused'].all())  #")
    answer = run_forked(tmp_path, "python", "-c", code)
    assert (answer.status, answer.out) == (0, "True\n"), answer.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    for entry_point in re.findall(r"mlflow run .*?-e (\w+)", text):
        assert entry_point in entry_points
    for command in re.findall(r"mlflow run \S+ (?:-[^`\n]+\n?[^`\n]*)", text):
        assert "--env-manager" in command, f"{command}: fails without conda"
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)|^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", targets, re.MULTILINE), target
    for path in re.findall(r"`((?:pipeline|docs|tests|benchmarks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for path, anchor in re.findall(r"\]\(([^):#]*)(?:#([\w-]+))?\)", text):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            names = [
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            ]
            assert anchor in names, (path, anchor)


def test_readme_is_short_and_leads_to_every_page() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", README.read_text()))
    assert linked >= {page.relative_to(ROOT).as_posix() for page in PAGES[1:]}


def test_the_map_shows_every_module() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    modules = {path.name for path in (ROOT / "pipeline").rglob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree)) == modules


@pytest.mark.parametrize("changed", ["requirements.txt", "pyproject.toml"])
def test_make_installs_once_and_again_only_when_what_is_installed_changes(
    tmp_path: Path, changed: str
) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()

    def to_do() -> str:
        command = ["make", "--dry-run", ".venv/installed"]
        return subprocess.check_output(command, cwd=tmp_path, text=True)

    assert "pip install" not in to_do()
    stamp = (tmp_path / ".venv" / "installed").stat().st_mtime
    os.utime(tmp_path / changed, (stamp + 5, stamp + 5))
    assert re.search("pip install .*-r requirements.txt", to_do())
    assert re.search("pip install .*--editable .", to_do())


@pytest.mark.parametrize("status", [0, 1])
def test_make_shows_the_large_packages_as_they_come(tmp_path: Path, status: int) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / "python"  # whose `-m venv` makes an environment of itself
    python.write_text(f"""#!/bin/sh
    case "$*" in
        "-m venv .venv") mkdir -p .venv/bin && cp python .venv/bin ;;
        *"pip install"*"-r requirements.txt")
            echo "Collecting torch==2.14.1"
            echo "  Downloading torch-2.14.1-cp311.whl (888.1 MB)"
            echo "  Downloading six-1.17.0-py3-none-any.whl (11 kB)"
            echo "Installing collected packages: six, torch"
            exit {status} ;;
    esac
    """)
    python.chmod(0o755)
    answer = run(tmp_path, "make", ".venv/installed", f"PYTHON={python}")
    assert (answer.status == 0) == (status == 0) == (tmp_path / ".venv" / "installed").exists()
    shown = [line for line in answer.out.splitlines() if line.startswith("  ")]
    assert shown == ["  Downloading torch-2.14.1-cp311.whl (888.1 MB)", "  Installing all"]


def test_make_tells_that_python_is_too_old(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    answer = run(tmp_path, "make", "ablation", f"PYTHON={old}")
    assert answer.status == 2
    assert f"{old} is not Python 3.11 to 3.14" in answer.out + answer.err
    assert not (tmp_path / ".venv").exists()
