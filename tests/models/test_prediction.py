"""`predict` classifies files, folders, patterns and standard input, and says what it can't read."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Answer, Study, drawn_data, run_project, runs_in
from PIL import Image

from pipeline.errors import percent

MODEL = "models:/synthetic-cnn@bn"


@pytest.fixture
def photos(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty drawn pictures, in a folder for each class, in a folder with a store of a model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/mlflow.db")
    data = drawn_data()
    for number in range(30):
        folder = tmp_path / "my photos" / data.class_names[data.validation.labels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(data.validation.images[number].numpy())
        picture.save(folder / f"{number:02}.png")
    return tmp_path / "my photos"


@pytest.fixture
def expected(study: Study, photos: Path) -> dict[str, tuple[str, np.ndarray]]:
    """For each file's name the class and the probabilities that the model itself gives."""
    model = mlflow.pyfunc.load_model(MODEL)
    probabilities = model.predict(drawn_data().validation.images[:30].numpy())
    names = drawn_data().class_names
    return {f"{n:02}.png": (names[row.argmax()], row) for n, row in enumerate(probabilities)}


def test_the_table_shows_what_the_model_says_of_each_file(
    pipeline: Callable[..., Answer],
    photos: Path,
    expected: dict[str, tuple[str, np.ndarray]],
) -> None:
    answer = pipeline("predict", "--model", MODEL[len("models:/") :], "my photos", "--recursive")
    assert answer.status == 0, answer.err
    heading, *rows, accuracy = answer.out.splitlines()
    assert heading.split() == ["file", "class", "probability", "next"]
    assert len(rows) == 30
    right = 0
    for row in rows:
        path, rest = row.split(".png")
        label, file = Path(path).parts[1:]
        name, probabilities = expected[f"{file}.png"]
        assert rest.strip().startswith(f"{name} ")
        assert f" {percent(probabilities.max())}  " in rest
        others = np.sort(probabilities)[::-1][1:5]
        assert all(f" {percent(one)}" in rest for one in others)
        right += name == label
    assert accuracy == (
        f"accuracy {percent(right / 30)}, of 30 pictures in folders named after a class"
    )


def test_files_patterns_folders_and_duplicates(
    pipeline: Callable[..., Answer], photos: Path
) -> None:
    one = next(photos.glob("*/*.png"))
    inner = str(one.relative_to(photos.parent))

    def files(*images: str) -> list[str]:
        answer = pipeline("predict", "--model", MODEL, "--output", "o.jsonl", "--", *images)
        assert answer.status == 0, answer.err
        lines = Path("o.jsonl").read_text().splitlines()
        return [json.loads(line)["file"] for line in lines]

    assert files(inner, str(one), f"my photos/{one.parent.name}/{one.stem}.*") == [inner]
    assert len(files("my photos/*/*.png")) == 30
    assert len(files("my photos/**/*.png")) == 30
    assert len(files(str(photos / "**" / "*.png"))) == 30
    assert set(files(str(one.parent))) == {str(path) for path in one.parent.iterdir()}
    (photos / "odd[1].png").write_bytes(one.read_bytes())
    (photos / ".hidden").write_text("not a picture")
    assert files("my photos/odd[1].png") == ["my photos/odd[1].png"]
    assert files("my photos") == [str(Path("my photos/odd[1].png"))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_links_in_a_circle_pipes_and_names_of_nothing(
    pipeline: Callable[..., Answer], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = next(photos.glob("*/*.png"))
    folder = photos / "odd"
    folder.mkdir()
    (folder / "one\n.png").write_bytes(one.read_bytes())
    (folder / "circle").symlink_to(folder)
    (folder / "dangling.png").symlink_to(folder / "none")
    os.mkfifo(folder / "pipe.png")
    answer = pipeline("predict", "--model", MODEL, "my photos/odd/**/*.png", "my photos/odd")
    assert answer.status == 1
    _, only = answer.out.splitlines()
    assert only.split("  ")[0].endswith("one\\n.png")
    assert answer.err.count("not read: ") == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"none.jpg\n")))
    answer = pipeline("predict", "--model", MODEL, "-")
    assert answer.status == 1
    assert answer.err == "not read: none.jpg: there is no such file\n"
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in pipeline("predict", "--model", MODEL, "-").err


@pytest.mark.parametrize("what", ["a picture", "names of files"])
def test_standard_input(
    pipeline: Callable[..., Answer], photos: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(photos.glob("*/*.png"))[:2]
    names = "\n".join(map(str, files)).encode()
    given = files[0].read_bytes() if what == "a picture" else names + b"\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    answer = pipeline("predict", "--model", MODEL, "-")
    assert answer.status == 0, answer.err
    shown = answer.out.splitlines()[1:]
    if what == "a picture":
        assert len(shown) == 1
        assert shown[0].startswith("standard input  ")
    else:
        assert [line.split(".png")[0] for line in shown[:2]] == [str(f)[:-4] for f in files]


def test_what_can_not_be_read_is_listed_and_the_others_go_on(
    pipeline: Callable[..., Answer], photos: Path
) -> None:
    whole = next(photos.glob("*/*.png"))
    (photos / "cut.png").write_bytes(whole.read_bytes()[:200])
    (photos / "notes.txt").write_text("not a picture\n")
    (photos / "whole.jpg").write_bytes(whole.read_bytes())  # whatever it is called
    answer = pipeline("predict", "--model", MODEL, "my photos")
    assert answer.status == 1
    assert len(answer.out.splitlines()) == 2
    assert str(Path("my photos/whole.jpg")) in answer.out
    cut, notes = (line for line in answer.err.splitlines() if line.startswith("not read: "))
    assert cut.startswith(f"not read: {Path('my photos/cut.png')}: it is damaged")
    reason = "it is not an image of a kind that Pillow reads"
    assert notes == f"not read: {Path('my photos/notes.txt')}: {reason}"
    answer = pipeline("predict", "--model", MODEL, "my photos", "--output", "o.csv")
    assert answer.status == 1
    with Path("o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [True, True, False]
    assert rows[1]["error"] == reason
    assert rows[1]["class"] == ""
    answer = pipeline("predict", "--model", MODEL, "my photos/notes.txt")
    assert (answer.status, answer.out) == (1, "")


@pytest.mark.parametrize("top", [1, 3, 500])
def test_files_for_programs_hold_every_number(
    pipeline: Callable[..., Answer],
    photos: Path,
    expected: dict[str, tuple[str, np.ndarray]],
    top: int,
) -> None:
    command = ["predict", "--model", MODEL, "my photos", "--recursive", "--top", str(top)]
    assert pipeline(*command, "--output", "o.csv").status == 0
    assert pipeline(*command, "--output", "o.jsonl").status == 0
    with Path("o.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert len(table) == len(lines) == 30
    for row, line in zip(table, lines, strict=True):
        assert row["file"] == line["file"]
        path = Path(row["file"])
        name, probabilities = expected[path.name]
        assert row["label"] == line["label"] == path.parent.name
        assert row["class"] == line["predictions"][0]["class"] == name
        best = np.sort(probabilities)[::-1][:top]
        shares = [guess["probability"] for guess in line["predictions"]]
        assert shares == pytest.approx(best, abs=1e-6)
        columns = ["probability", *(f"probability_{n}" for n in range(2, len(best) + 1))]
        assert [float(row[column]) for column in columns] == shares


REFUSED = {
    "no file": (["none.png"], "no image at 'none.png': no file or folder is there, and none"),
    "no match": (["*.jpg"], "no image at '*.jpg': no file or folder is there, and none matches"),
    "no name": ([""], "no image at '': no file or folder is there"),
    "a long name": (["x" * 10_000], "no image at 'xxx"),
    "only folders": (["my photos"], "no image at 'my photos': the folder holds no files; --recur"),
    "top": (["my photos", "--top", "0"], "top is 0; it must be a whole number of at least 1"),
    "output": (["my photos", "--output", "o.txt"], "output is 'o.txt'; it must be a file that"),
    "output's folder": (["x", "--output", "no/o.csv"], "output is 'no/o.csv'; there is no folder"),
    "model": (["my photos/*/*", "--model", "models:/none@bn"], "no model at 'models:/none@bn'"),
    "nothing": ([], "Missing argument 'images'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_line(
    pipeline: Callable[..., Answer], photos: Path, what: str
) -> None:
    arguments, reason = REFUSED[what]
    answer = pipeline("predict", "--model", MODEL, *arguments)
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert answer.err.startswith(f"error: {reason}")
    assert not list(Path().glob("o.*"))


def test_mlflow_run_predicts_relative_to_where_it_was_typed(study: Study, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "my picture.png")
    (tmp_path / "mlflow.db").write_bytes((study.folder / "mlflow.db").read_bytes())
    images = ["-P", "images=*.png", "-P", f"model={MODEL}", "-P", "output=o.csv"]
    answer = run_project(tmp_path, "-e", "predict", *images)
    assert answer.status == 0, answer.err
    assert (tmp_path / "o.csv").read_text().splitlines()[1].startswith("my picture.png,")
    made = runs_in(tmp_path)[0].info
    assert (made.status, made.run_name) == ("FINISHED", "predict-synthetic-cnn@bn")
    assert f"/runs/{made.run_id}?" in answer.out  # a link
