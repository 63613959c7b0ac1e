"""An ablation of one's own is one file: what it may say, and what is said about a wrong one."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import ROOT, Answer, run_project, runs_in

from pipeline.ablation.loading import absolute, load_ablation, source_files
from pipeline.errors import MachineError
from pipeline.training.state import DIGEST_BYTES

# 6x9 grey images of three classes, which are told apart by their brightness.
MINE = """
import numpy as np
import torch
from torch import nn
from pipeline import Ablation, Augmentation
from pipeline.data.arrays import from_arrays

def noise():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = random.integers(0, 86, (120, 6, 9), dtype=np.uint8) + labels[:, None, None] * 85
    images = images.astype(np.uint8)
    return from_arrays(images[:90], labels[:90], images[90:], labels[90:], ["dark", "dim", "light"])

class Mine(nn.Module):
    def __init__(self, num_classes, in_channels, width=8, activation="relu"):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]()
        self.fc = nn.Linear(width * 4 * 7, num_classes)

    def forward(self, x):
        x = self.activation(self.conv(x))
        return self.fc(x.view(x.size(0), -1))

ablation = Ablation(
    network=Mine,
    variants={"plain": {}, "wide": {"width": 16}, "tanh": {"activation": "tanh"}},
    datasets={"noise": noise},
    augmentation=lambda flip=True: Augmentation(flip=flip, rotation=0, padding=1),
)
"""
SGD = (
    (
        "network=Mine,",
        """network=Mine,
    optimizer=lambda parameters, lr, momentum=0.0: torch.optim.SGD(parameters, lr, momentum),
    schedule=lambda optimizer, epochs, gamma=1.0:
        torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma),""",
    ),
    (
        '"plain": {}',
        '"plain": {"momentum": 0.5, "gamma": 0.5, "flip": False, "label_smoothing": 0.2}',
    ),
)
TRAIN = ("train", "--ablation", "mine.py", "--epochs", "2", "--batch-size", "32")


def write(folder: Path, *changes: tuple[str, str]) -> None:
    """Write `mine.py`, with changes."""
    text = MINE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "mine.py").write_text(text)


def test_any_network_and_data_are_trained_registered_loaded_and_evaluated(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)
    answer = pipeline(*TRAIN, "--variant", "wide")
    assert answer.status == 0, answer.err
    assert "wide-seed0 on noise" in answer.out
    assert "models:/noise-mine@wide" in answer.out
    (trained,) = runs_in(tmp_path)
    tags = trained.data.tags
    assert json.loads(tags["settings"]) == {"width": 16, "activation": "relu"}
    assert tags["fast_path"] == "none: Mine is not CNNNetwork, which oneDNN's layout is for"
    assert tags["augmentation"] == "flip, crop with 1 pixel of padding"
    assert tags["dataset"] == "noise"
    model = mlflow.pyfunc.load_model("models:/noise-mine@wide")
    assert model.metadata.metadata["class_names"] == ["dark", "dim", "light"]
    probabilities = model.predict(np.zeros((5, 6, 9, 1), np.uint8))
    assert probabilities.shape == (5, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)

    answer = pipeline("evaluate", "--model", "models:/noise-mine@wide")
    assert answer.status == 0, answer.err
    measured = dict(re.findall(r"^  (\w+) +([\d.]+)$", answer.out, re.MULTILINE))
    # Neither superclasses nor more than five classes.
    assert measured.keys() == {"loss", "accuracy", "calibration_error"}
    accuracy = trained.data.metrics["val_accuracy"]
    assert float(measured["accuracy"]) == pytest.approx(accuracy, abs=1e-4)


def test_a_network_that_needs_contiguous_images_gets_them(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)  # with a `view`, which fails on images in channels_last order
    assert pipeline(*TRAIN).status == 0
    write(tmp_path, ("x.view(x.size(0), -1)", "torch.flatten(x, 1)"))
    assert pipeline(*TRAIN).status == 0
    one, other = runs_in(tmp_path)
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert one.data.metrics[name] == pytest.approx(other.data.metrics[name], rel=1e-3)


def test_settings_reach_what_takes_them_and_a_schedule_is_followed(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, *SGD)
    answer = pipeline(*TRAIN, "--epochs", "3", "--lr", "0.01")
    assert answer.status == 0, answer.err
    (trained,) = runs_in(tmp_path)
    history = mlflow.MlflowClient().get_metric_history(trained.info.run_id, "lr")
    assert [metric.value for metric in history] == [0.01, 0.005, 0.0025]
    assert trained.data.tags["optimizer"] == "SGD"
    assert trained.data.tags["augmentation"] == "crop with 1 pixel of padding"
    state = load_state(trained.info.run_id)
    assert state["optimizer"]["param_groups"][0]["momentum"] == 0.5
    # A uniform guess has a loss of ln(3) with any smoothing, a certain one more.
    plain = pipeline(*TRAIN, "--epochs", "3", "--variant", "wide")
    assert plain.status == 0
    more = pipeline("train", "--resume", trained.info.run_id, "--epochs", "4")
    assert more.status == 2
    assert "has a learning-rate schedule over 3 epochs" in more.error_lines[0]


def load_state(run_id: str) -> dict[str, Any]:
    """The state that a run left for continuing: a digest, then what torch saved."""
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="training_state.pt")
    content = io.BytesIO(Path(path).read_bytes()[DIGEST_BYTES:])
    state: dict[str, Any] = torch.load(content, weights_only=True)
    return state


def test_a_run_with_a_schedule_continues_to_the_same_bits(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, *SGD)
    arguments = (*TRAIN, "--epochs", "4", "--lr", "0.01")
    assert pipeline(*arguments).status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.loop.log_metrics", fail_in_the_third_epoch)
        assert pipeline(*arguments).status == 1
    stopped = runs_in(tmp_path)[0]
    assert stopped.info.status == "FAILED"
    answer = pipeline("train", "--resume", stopped.info.run_id)
    assert answer.status == 0, answer.err
    assert "continues after 2 of 4 epochs" in answer.out
    one, other = runs_in(tmp_path)
    for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
        assert one.data.metrics[name] == other.data.metrics[name], name


def fail_in_the_third_epoch(_: object, epoch: int) -> None:
    if epoch == 3:
        raise MachineError("stopped")


# What the file says, what is wrong with it, and words of the one line about it.
WRONG = {
    "no file": ([], "nowhere.py", ["nowhere.py", "no such file"]),
    "no module": ([], "no.such.module", ["module no.such.module", "No module named 'no'"]),
    "syntax": ([("def noise():", "def noise(:")], "", ["mine.py, line 8", "invalid syntax"]),
    "raises": (
        [("ablation = Ablation(", "1 / 0\nablation = Ablation(")],
        "",
        ["ZeroDivisionError", "mine.py, line 26"],
    ),
    "none": ([("ablation = Ablation(", "study = Ablation(")], "", ["defines no `ablation"]),
    "another": ([("ablation = Ablation(", "ablation = dict(")], "", ["defines no `ablation"]),
    "setting": (
        [('"wide": {"width": 16}', '"wide": {"widht": 16}')],
        "",
        ["variant 'wide'", "setting 'widht'", "taken by nothing"],
    ),
    "value": (
        [('"wide": {"width": 16}', '"wide": {"width": [16]}')],
        "",
        ["setting 'width' is [16]", "text, a number"],
    ),
    "name": ([('"wide": {', '"w,w": {')], "", ["variant 'w,w'", "letters, digits"]),
    "reserved name": ([('"wide": {', '"v2": {')], "", ["variant 'v2'", "reserved"]),
    "no variants": (
        [('{"plain": {}, "wide": {"width": 16}, "tanh": {"activation": "tanh"}}', "{}")],
        "",
        ["there is no variant"],
    ),
    "9 variants": (
        [('"tanh": {"activation"', '**{f"n{n}": {"width": n} for n in range(1, 7)}, "tanh": {"a"')],
        "",
        ["9 variants", "8 at most"],
    ),
    "words": ([("network=Mine,", 'network=Mine, words={"wdth": "w"},')], "", ["'wdth'"]),
    "compared": ([("network=Mine,", 'network=Mine, compared=["wied"],')], "", ["mean wide?"]),
    "comparison": (
        [("network=Mine,", 'network=Mine, comparisons=[("wide", "plian")],')],
        "",
        ["mean plain?"],
    ),
    "not callable": (
        [("network=Mine,", "network=Mine(3, 1),")],
        "",
        ["a Mine is given where a class or a function is expected"],
    ),
    "network raises": (
        [("super().__init__()", "super().__init__(); raise ValueError('no')")],
        "",
        ["variant 'plain'", "can't be built", "ValueError: no", "mine.py, line 17"],
    ),
    "classes": (
        [("width * 4 * 7, num_classes", "width * 4 * 7, 7")],
        "",
        ["returns [2, 7] instead of [2, 3]"],
    ),
    "shape": (
        [("self.fc(x.view(x.size(0), -1))", "self.fc(x.view(-1, 224))[None]")],
        "",
        ["returns [1, 2, 3] instead of [2, 3]"],
    ),
    "layers that do not fit": (
        [("width * 4 * 7", "width * 4 * 6")],
        "",
        ["does not compute", "shapes cannot be multiplied"],
    ),
    "not finite": ([("return self.fc(", "return 0 / 0. * self.fc(")], "", ["ZeroDivisionError"]),
    "NaN": ([("return self.fc(", "return float('nan') * self.fc(")], "", ["not finite"]),
    "random": (
        [("return self.fc(", "return torch.rand(1) * self.fc(")],
        "",
        ["other numbers at the second call"],
    ),
    "other randomness": (
        [("self.fc = ", "self.scale = nn.Parameter(torch.tensor(np.random.rand())); self.fc = ")],
        "",
        ["scale differs with the same seed"],
    ),
    "batch size": (
        [("x.view(x.size(0), -1)", "x.reshape(2, -1)")],
        "",
        ["does not compute"],
    ),
    "not exportable": (
        [("return self.fc(", "x = x if x.sum().item() < 1e9 else -x; return self.fc(")],
        "",
        ["can't be exported as pt2"],
    ),
    "criterion": (
        [("network=Mine,", "network=Mine, criterion=lambda: nn.MSELoss(),")],
        "",
        ["can't be trained"],
    ),
    "optimizer": (
        [("network=Mine,", "network=Mine, optimizer=lambda parameters: 1 / 0,")],
        "",
        ["recipe can't be set up", "ZeroDivisionError"],
    ),
    "schedule": (
        [("network=Mine,", "network=Mine, schedule=lambda optimizer: None,")],
        "",
        ["recipe can't be set up"],
    ),
    "augmentation": (
        [("padding=1", "padding=-1")],
        "",
        ["padding is -1"],
    ),
    "labels": ([("% 3\n", "% 3 + 1\n")], "", ["a training label is 3", "from 0 to 2"]),
    "an empty class": (
        [('"dim", "light"', '"dim", "light", "none"')],
        "",
        ["no training image is of class 'none'"],
    ),
    "float images": (
        [("images = images.astype(np.uint8)", "images = images / 255")],
        "",
        ["the training images are float64", "must be uint8"],
    ),
    "data raises": (
        [("random = np.random", "open('no.npz'); random = np.random")],
        "",
        ["noise can't be loaded", "FileNotFoundError", "no.npz"],
    ),
    "no data": ([("return from_arrays", "from_arrays")], "", ["noise", "NoneType"]),
}


@pytest.mark.parametrize(("changes", "reference", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_gets_one_line_and_leaves_no_run(
    changes: list[tuple[str, str]],
    reference: str,
    words: list[str],
    pipeline: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    write(tmp_path, *changes)
    answer = pipeline("train", "--ablation", reference or "mine.py", "--epochs", "1")
    assert answer.status == 2, answer.err
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert not runs_in(tmp_path)


def test_a_parameter_that_training_does_not_reach_is_named(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, ("self.fc = ", "self.unused = nn.Linear(2, 2); self.fc = "))
    answer = pipeline(*TRAIN)
    assert answer.status == 0
    assert "does not reach unused.weight, unused.bias" in answer.err


def test_a_batch_of_one_image_left_over_is_refused_where_it_fails(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    norm = ("self.fc = ", "self.norm = nn.BatchNorm1d(width * 28); self.fc = ")
    write(tmp_path, norm, ("self.fc(x.view(x.size(0), -1))", "self.fc(self.norm(x.flatten(1)))"))
    answer = pipeline(*TRAIN[:-1], "89")
    assert answer.status == 2
    assert "choose a batch_size that does not leave one image over" in answer.error_lines[0]


def test_a_relative_path_counts_from_where_it_was_typed_also_in_mlflow_run(tmp_path: Path) -> None:
    folder = tmp_path / "my studies"
    folder.mkdir()
    write(folder)
    small = ["-Pablation=mine.py", "-Pvariant=tanh", "-Pepochs=1"]
    answer = run_project(folder, *small)
    assert answer.status == 0, answer.err
    (trained,) = runs_in(folder)
    assert trained.data.tags["ablation_source"] == str(folder / "mine.py")
    assert trained.info.run_name == "tanh-seed0"


def test_a_module_is_named_with_dots_and_a_path_is_made_absolute(tmp_path: Path) -> None:
    assert absolute("auto", tmp_path) == "auto"
    assert absolute("ablations.residual", tmp_path) == "ablations.residual"
    assert absolute("mine.py", tmp_path) == str(tmp_path / "mine.py")
    assert absolute("../mine.py", tmp_path) == str(tmp_path / "../mine.py")
    assert load_ablation("ablations.residual").name == "residual"
    assert load_ablation(str(ROOT / "ablations" / "residual.py")).name == "residual"


def test_the_code_of_an_ablation_is_its_file_and_what_that_imports_from_its_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "parts").mkdir()
    for name, content in {
        "own.py": "import numpy\nfrom parts.layers import Layer\ndef f():\n    import late\n",
        "parts/__init__.py": "",
        "parts/layers.py": "from . import more\nfrom pathlib import Path\n",
        "parts/more.py": "",
        "late.py": "",
        "unused.py": "",
        "numpy2.py": "",
    }.items():
        (tmp_path / name).write_text(content)
    found = {path.relative_to(tmp_path).as_posix() for path in source_files(f"{tmp_path}/own.py")}
    assert found == {
        "own.py", "parts/__init__.py", "parts/layers.py", "parts/more.py", "late.py"
    }  # fmt: skip
