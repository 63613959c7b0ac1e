"""An ablation of one's own is one file: what it may say, and what is said about a wrong one."""

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import ROOT, Answer, broken_epoch, run_project, runs_in, states_of_all_epochs
from mine import SGD, TRAIN, write

from pipeline import CNNNetwork
from pipeline.ablation.loading import absolute, load_ablation
from pipeline.ablation.source import source_files
from pipeline.runs.queries import check_ours
from pipeline.store.tags import unpack
from pipeline.training.state import DIGEST_BYTES


def test_any_network_and_data_are_trained_registered_loaded_and_evaluated(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)
    answer = pipeline(*TRAIN, "--variant", "wide")
    assert answer.status == 0, answer.err
    assert "wide-seed0 on noise" in answer.out
    assert "models:/noise-mine@wide" in answer.out
    (trained,) = runs_in(tmp_path)
    tags = unpack(trained)
    assert json.loads(tags["settings"]) == {"width": 16, "activation": "relu"}
    assert tags["fast_path"] == (
        "none, because of this network's layers: PyTorch's own operators, images in default order,"
        f" {tags['precision']}"
    )
    assert tags["augmentation"] == "flip, crop with 1 pixel of padding"
    assert tags["dataset"] == "noise"
    assert (
        tags["images"] == "90 training and 30 validation images, 9x6 pixels, 1 channel, 3 classes"
    )
    file = mlflow.artifacts.load_text(f"runs:/{trained.info.run_id}/ablation/mine.py")
    assert file == (tmp_path / "mine.py").read_text()
    # Of the shapes that both have; its range depends on the width.
    assert json.loads(tags["other_weights"]) == {"plain": ["fc.bias", 1]}
    model = mlflow.pyfunc.load_model("models:/noise-mine@wide")
    assert model.metadata.metadata["class_names"] == ["dark", "dim", "light"]
    probabilities = model.predict(np.zeros((5, 6, 9, 1), np.uint8))
    assert probabilities.shape == (5, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)

    answer = pipeline("evaluate", "--model", "models:/noise-mine@wide")
    assert answer.status == 0, answer.err
    measured = dict(re.findall(r"^  (\w+) +([\d.]+)(?: %)?$", answer.out, re.MULTILINE))
    other = pipeline("evaluate", "--model", "models:/noise-mine@wide", "--dataset", "signal")
    assert other.status == 2
    assert "unknown dataset 'signal'; it must be one of noise" in other.error_lines[0]
    # Neither superclasses nor more than five classes.
    assert measured.keys() == {"loss", "accuracy", "calibration_error"}
    accuracy = trained.data.metrics["val_accuracy"]
    assert float(measured["accuracy"]) == pytest.approx(100 * accuracy, abs=0.05)


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


@pytest.mark.filterwarnings("error:Detected call of")  # torch's, if the trial steps out of order
def test_settings_reach_what_takes_them_and_a_schedule_is_followed(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, *SGD)
    answer = pipeline(*TRAIN, "--epochs", "3", "--lr", "0.01")
    assert answer.status == 0, answer.err
    (trained,) = runs_in(tmp_path)
    history = mlflow.MlflowClient().get_metric_history(trained.info.run_id, "lr")
    assert [metric.value for metric in history] == [0.01, 0.005, 0.0025]
    assert unpack(trained)["optimizer"] == "SGD"
    assert unpack(trained)["augmentation"] == "crop with 1 pixel of padding"
    state = load_state(trained.info.run_id)
    assert state["optimizer"]["param_groups"][0]["momentum"] == 0.5
    more = pipeline("train", "--resume", trained.info.run_id, "--epochs", "4")
    assert more.status == 2
    assert "has a learning-rate schedule over 3 epochs" in more.error_lines[0]


def test_variants_are_trained_in_parallel_and_a_network_that_learns_nothing_is_named(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, ("return self.fc(", "return 0 * self.fc("))
    small = ("--variants", "plain,tanh", "--seeds", "1", "--epochs", "1")
    study = ("ablate", "--ablation", "mine.py", *small)
    answer = pipeline(*study, "--jobs", "2")
    assert answer.status == 0, answer.err
    assert "2 jobs: as asked for" in answer.out
    assert "warning" not in answer.out + answer.err
    for variant in ("plain", "tanh"):
        assert answer.out.count(f"\n1 of 1 run of {variant} has learned nothing: ") == 1
    assert "anh instead of relu" in answer.out
    again = pipeline(*study, "--dry-run")
    assert again.status == 0, again.err
    assert "ablation mine on noise: 90 training and 30 validation images, 9x6 pixels" in again.out
    assert "2 of 2 runs are finished already and are reused" in again.out
    assert len(runs_in(tmp_path)) == 3  # it stores nothing


def test_data_that_changes_while_a_study_runs_fails_its_runs(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    # Each process that loads the file finds other images.
    write(tmp_path, ("random = np.random.default_rng(0)", "random = np.random.default_rng()"))
    study = ("ablate", "--ablation", "mine.py", "--seeds", "1", "--epochs", "1", "--jobs", "2")
    answer = pipeline(*study)
    assert answer.status == 1
    assert "noise has changed since the study began" in answer.error_lines[0]
    assert [run_.data.tags["kind"] for run_ in runs_in(tmp_path)] == ["study"]


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
    with broken_epoch(3), states_of_all_epochs():
        assert pipeline(*arguments).status == 1
    stopped = runs_in(tmp_path)[0]
    assert stopped.info.status == "FAILED"
    answer = pipeline("train", "--resume", stopped.info.run_id)
    assert answer.status == 0, answer.err
    assert "continues after 2 of 4 epochs" in answer.out
    one, other = runs_in(tmp_path)
    for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
        assert one.data.metrics[name] == other.data.metrics[name], name


RATE_OF_SOME = """def some(optimizer, epochs, gamma=None):
    if gamma:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)

ablation = Ablation("""
VARIANTS_OF_TUTORIAL = (
    "'half': {'dropout': True}, 'drop': {'dropout': 0.3}, 'decay': {'gamma': 0.5}"
)
TUTORIAL = (  # its network, on 9x17 grey images of three classes
    ("network=Mine,", "network=CNNNetwork, schedule=some, words={'dropout': 'Dropout'},"),
    ("from pipeline import Ablation", "from pipeline import CNNNetwork, Ablation"),
    ("(120, 6, 9)", "(120, 9, 17)"),
    ("ablation = Ablation(", RATE_OF_SOME),
    ('"wide": {"width": 16}, "tanh": {"activation": "tanh"}', VARIANTS_OF_TUTORIAL),
)


def test_the_tutorials_network_fits_other_data_and_one_variant_has_a_schedule(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, *TUTORIAL)
    small = ("--ablation", "mine.py", "--epochs", "2", "--batch-size", "32")
    variants = ("--variants", "plain,half,drop,decay", "--seeds", "1")
    answer = pipeline("ablate", *small, *variants, "--keep-state", "yes", "--jobs", "1")
    assert answer.status == 0, answer.err
    assert "Dropout 0.3 " in answer.out
    runs = {run.info.run_name: run for run in runs_in(tmp_path, "train")}
    schedules = {name: unpack(run)["schedule"] for name, run in runs.items()}
    assert schedules.pop("decay-seed0") == "ExponentialLR"
    assert set(schedules.values()) == {"none"}
    client = mlflow.MlflowClient()
    for name, rates in (("plain-seed0", [0.001, 0.001]), ("decay-seed0", [0.001, 0.0005])):
        history = client.get_metric_history(runs[name].info.run_id, "lr")
        assert [metric.value for metric in history] == rates
    (report,) = tmp_path.rglob("report.md")
    assert "schedule none (plain, half, drop) or ExponentialLR (decay)" in report.read_text()
    planned = pipeline("ablate", *small, *variants, "--epochs", "3", "--dry-run").out
    assert f"plain-seed0: to go on after epoch 2 of {runs['plain-seed0'].info.run_id}" in planned
    assert "decay-seed0: to train again: trained for 2 epochs, and has a learning-rate" in planned
    more = pipeline("train", "--resume", runs["decay-seed0"].info.run_id, "--epochs", "3")
    assert "has a learning-rate schedule over 2 epochs" in more.error_lines[0]
    more = pipeline("train", "--resume", runs["drop-seed0"].info.run_id, "--epochs", "3")
    assert more.status == 0, more.err
    assert "drop-seed0 continues after 2 of 3 epochs" in more.out

    run = runs["half-seed0"]
    evaluated = pipeline("evaluate", "--model", run.info.run_id)
    assert evaluated.status == 0, evaluated.err
    path = client.download_artifacts(run.info.run_id, "checkpoint.pt")
    network = CNNNetwork.from_checkpoint(path).eval()
    assert network.fc1.in_features == 64 * 1 * 2
    assert network(torch.zeros(1, 1, 9, 17)).shape == (1, 3)


# What the file says, what is wrong with it, and words of the one line about it.
WRONG = {
    "no file": ([], "nowhere.py", ["nowhere.py", "no such file"]),
    "no module": ([], "no.such.module", ["ablation 'no.such.module'", "No module named 'no'"]),
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
        ["setting 'widht' of variant 'wide'", "nothing takes"],
    ),
    "value": (
        [('"wide": {"width": 16}', '"wide": {"width": [16]}')],
        "",
        ["setting 'width' of variant 'wide' is [16]", "string, a number"],
    ),
    "name": (
        [('"wide": {', '"w,w": {')],
        "",
        ["'w,w' is not a valid name"],
    ),
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
        ["Mine object found where a class or a function is expected"],
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
        ["fails on images", "shapes cannot be multiplied"],
    ),
    "NaN": ([("return self.fc(", "return float('nan') * self.fc(")], "", ["not finite"]),
    "random": (
        [("return self.fc(", "return torch.rand(1) * self.fc(")],
        "",
        ["other numbers at the second call"],
    ),
    "other images": (
        [("x = self.activation(", "x = x - x.mean(0, keepdim=True)\n        x = self.activation(")],
        "",
        ["in eval mode its answer to an image depends on the others"],
    ),
    "random behind a head of zeros": (
        [
            ("num_classes)\n\n", "num_classes); nn.init.zeros_(self.fc.weight)\n\n"),
            ("self.fc(", "self.fc(nn.functional.dropout("),
            ("-1))", "-1)))"),
        ],
        "",
        ["other numbers at the second call"],
    ),
    "a hook that stores for the first network alone": (
        [
            (
                "self.fc = ",
                "self.store = {}\n"
                "        self.conv.register_forward_hook(lambda m, i, o: self.store.update(x=o))\n"
                "        self.fc = ",
            ),
            (
                "        return self.fc(x.view",
                "        x = self.store['x']\n        return self.fc(x.view",
            ),
            ("num_classes)\n\n", "num_classes); nn.init.zeros_(self.fc.weight)\n\n"),
        ],
        "",
        ["can't be exported"],
    ),
    "other images behind a small factor": (
        [
            ("self.fc = ", "self.gamma = nn.Parameter(torch.full((1,), 1e-6)); self.fc = "),
            ("-1))", "-1) + self.gamma * x.mean())"),
        ],
        "",
        ["in eval mode its answer to an image depends on the others"],
    ),
    "an optimizer that is none": (
        [("network=Mine,", "network=Mine, optimizer=lambda parameters, lr: None,")],
        "",
        ["optimizer returns None; it must be a torch.optim.Optimizer"],
    ),
    "a condition on the batch": (
        [("x = self.activation(", "assert x.shape[0] <= 32\n        x = self.activation(")],
        "",
        ["can't be exported", "leave out conditions on the batch's size"],
    ),
    "other randomness": (
        [
            (
                "self.fc = ",
                "random = np.random.default_rng()\n"
                "        self.scale = nn.Parameter(torch.tensor(random.random())); self.fc = ",
            )
        ],
        "",
        ["scale differs with the same seed"],
    ),
    "batch size": (
        [("x.view(x.size(0), -1)", "x.reshape(2, -1)")],
        "",
        ["fails on images"],
    ),
    "not exportable": (
        [("return self.fc(", "x = x if x.sum().item() < 1e9 else -x; return self.fc(")],
        "",
        ["can't be exported as pt2"],
    ),
    "another suffix": ([], "mine.txt", ["mine.txt'", "must end in .py"]),
    "a suffix in capitals": ([], "mine.PY", ["mine.PY'", "must end in .py"]),
    "no name": ([], "./-.py", ["ablation '-' is not a valid name", "name=", "rename its file"]),
    "data that is auto": ([('"noise": noise', '"auto": noise')], "", ["data set 'auto'"]),
    "a name of Python's": (
        [("import torch\n", "import torch\nfrom queue import Width\n")],
        "",
        ["cannot import name 'Width' from 'queue'", "queue.py; rename the file"],
    ),
    "a name of Python's, by attribute": (
        [("import torch\n", "import torch, queue\nqueue.Width\n")],
        "",
        ["module 'queue' has no attribute 'Width'", "queue.py; rename the file"],
    ),
    "exits": ([("ablation = Ablation(", "exit(0)\nablation = Ablation(")], "", ["SystemExit: 0"]),
    "reserved, in capitals": ([('"wide": {', '"V2": {')], "", ["variant 'V2'", "reserved"]),
    "words of a number": (
        [("network=Mine,", 'network=Mine, words={"width": 3},')],
        "",
        ["words of 'width' must be a string"],
    ),
    "a comparison with itself": (
        [("network=Mine,", 'network=Mine, comparisons=[("wide", "wide")],')],
        "",
        ["('wide', 'wide') must be two different variants"],
    ),
    "variants in a list": (
        [("variants={", "variants=[{"), ('"tanh"}}', '"tanh"}}]')],
        "",
        ["variants must be a dictionary"],
    ),
    "lazy layers": (
        [("nn.Linear(width * 4 * 7, num_classes)", "nn.LazyLinear(num_classes)")],
        "",
        ["can't be built", "lazy layers"],
    ),
    "other precision": (
        [
            (
                "x = self.activation(",
                "torch.zeros(1).index_add_(0, torch.arange(1), self.conv(x)[0, 0, 0, :1])\n"
                "        x = self.activation(",
            )
        ],
        "",
        ["can't be trained"],
    ),
    "no scheduler": (
        [("network=Mine,", "network=Mine, schedule=lambda optimizer, epochs: None,")],
        "",
        ["schedule returns None for every variant", "a scheduler of torch for some"],
    ),
    "a schedule of another length": (
        [
            (
                "network=Mine,",
                "network=Mine, schedule=lambda optimizer, epochs:"
                " torch.optim.lr_scheduler.OneCycleLR(optimizer, 1, total_steps=epochs * 3),",
            )
        ],
        "",
        ["OneCycleLR for 3 steps, and takes 1: one after each epoch", "steps_per_epoch"],
    ),
    "a schedule that follows a rise": (
        [
            (
                "network=Mine,",
                "network=Mine, schedule=lambda optimizer, epochs:"
                " torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode='max'),",
            )
        ],
        "",
        ["ReduceLROnPlateau with mode 'max'; it follows the validation loss"],
    ),
    "a sum over several outputs": (
        [
            (
                "\nablation = Ablation(\n    network=Mine,",
                "\nclass Loss(nn.CrossEntropyLoss):\n    def forward(self, x, labels):\n"
                "        return super().forward(x[0], labels) + super().forward(x[1], labels)\n\n"
                "ablation = Ablation(\n    network=Mine, criterion=lambda: Loss(reduction='sum'),",
            ),
            ("return self.fc(", "return (lambda y: (y, y) if self.training else y)(self.fc("),
            ("-1))", "-1)))"),
        ],
        "",
        ["criterion returns a sum over the batch"],
    ),
    "a schedule per batch of another length": (
        [
            (
                "network=Mine,",
                "network=Mine, schedule=lambda optimizer, epochs, steps_per_epoch:"
                " torch.optim.lr_scheduler.OneCycleLR(optimizer, 1, total_steps=3),",
            )
        ],
        "",
        ["OneCycleLR for 3 steps, and takes 1: one after each batch"],
    ),
    "an optimizer with a closure": (
        [
            (
                "network=Mine,",
                "network=Mine, optimizer=lambda parameters, lr: torch.optim.LBFGS(parameters, lr),",
            )
        ],
        "",
        ["can't be trained", "the optimizer LBFGS needs a closure"],
    ),
    "nothing to train": (
        [
            (
                "width * 4 * 7, num_classes)",
                "width * 4 * 7, num_classes); self.requires_grad_(False)",
            )
        ],
        "",
        ["the network has no parameter to train"],
    ),
    "a sum as criterion": (
        [
            (
                "network=Mine,",
                "network=Mine, criterion=lambda: nn.CrossEntropyLoss(reduction='sum'),",
            )
        ],
        "",
        ["criterion returns a sum over the batch; it must return the mean"],
    ),
    "a criterion for each image": (
        [
            (
                "network=Mine,",
                "network=Mine, criterion=lambda: nn.CrossEntropyLoss(reduction='none'),",
            )
        ],
        "",
        ["criterion returns [2]; it must return one number"],
    ),
    "a function as criterion": (
        [("network=Mine,", "network=Mine, criterion=lambda: nn.functional.cross_entropy,")],
        "",
        ["criterion returns <function cross_entropy", "must be a torch.nn.Module"],
    ),
    "several outputs": (
        [
            ("return self.fc(", "return (lambda y: (y, y) if self.training else y)(self.fc("),
            ("-1))", "-1)))"),
        ],
        "",
        [
            "in training its network returns tuple, which the criterion CrossEntropyLoss does not",
        ],
    ),
    "logits that are not the first output": (
        [
            (
                "return self.fc(x.view(x.size(0), -1))",
                "h = x.view(x.size(0), -1)\n        y = self.fc(h)\n"
                "        return (h, y) if self.training else y",
            ),
        ],
        "",
        [
            "can't be trained: in training its network returns [2, 224] as the first of its tuple"
            " instead of the logits [2, 3]"
        ],
    ),
    "a fixed batch": (
        [("x.view(x.size(0), -1)", "x.reshape(len(x), -1)")],
        "",
        ["can't be exported", "it then takes 2 images only", "`len(x)`"],
    ),
    "a fixed batch, as a number": (
        [("x.view(x.size(0), -1)", "x.reshape(int(x.shape[0]), -1)")],
        "",
        ["can't be exported", "it then takes 2 images only", "`int(x.shape[0])`"],
    ),
    "no augmentation": (
        [("Augmentation(flip=flip, rotation=0, padding=1)", "None")],
        "",
        ["augmentation returns None; it must be an Augmentation"],
    ),
    "lr under another name": (
        [("network=Mine,", "network=Mine, optimizer=lambda p, rate=1: torch.optim.SGD(p, rate),")],
        "",
        ["can't be trained", "unexpected keyword argument 'lr'"],
    ),
    "criterion": (
        [("network=Mine,", "network=Mine, criterion=lambda: nn.MSELoss(),")],
        "",
        ["can't be trained"],
    ),
    "optimizer": (
        [("network=Mine,", "network=Mine, optimizer=lambda parameters, lr: 1 / 0,")],
        "",
        ["can't be trained", "ZeroDivisionError"],
    ),
    "schedule": (
        [("network=Mine,", "network=Mine, schedule=lambda optimizer: None,")],
        "",
        ["can't be trained", "TypeError"],
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
    for name in ("mine.txt", "mine.PY", "-.py", "queue.py"):
        shutil.copy(tmp_path / "mine.py", tmp_path / name)
    precise = ("--epochs", "1", "--precision", "bf16")
    answer = pipeline("train", "--ablation", reference or "mine.py", *precise)
    assert answer.status == 2, answer.err
    (line,) = answer.error_lines
    assert "Traceback" not in answer.err
    assert "/pipeline/" not in line  # the place of an error is in the user's file
    for word in words:
        assert word in line
    assert not runs_in(tmp_path)


def test_a_change_of_the_tutorials_network_is_trained_as_it_is_written(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    """The fast path computes the layers of `CNNNetwork`, whatever `forward` says."""
    (tmp_path / "mine.py").write_text(
        """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from pipeline import Ablation, CNNNetwork
from pipeline.data import synthetic

@dataclass
class Scale:
    factor: float

class Constant(CNNNetwork):
    def forward(self, x):
        return Scale(0.0).factor * super().forward(x)

def averaged():
    network = CNNNetwork()
    network.pool = nn.AvgPool2d(2)
    return network

ablation = Ablation(
    network=lambda kind="constant": Constant() if kind == "constant" else averaged(),
    variants={"constant": {}, "averaged": {"kind": "averaged"}},
    datasets={"synthetic": synthetic.generate},
)
"""
    )
    for variant in ("constant", "averaged"):
        answer = pipeline(*TRAIN, "--variant", variant, "--train-images", "100")
        assert answer.status == 0, answer.err
    averaged, constant = runs_in(tmp_path)
    assert constant.data.metrics["train_loss"] == pytest.approx(math.log(100), abs=1e-5)
    assert {unpack(r)["fast_path"][:31] for r in (averaged, constant)} == {
        "none, because of this network's"
    }


def test_a_transformer_whose_sizes_depend_on_the_batch_is_exported_and_loaded(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(
        tmp_path,
        ("self.fc = ", "self.attend = nn.TransformerEncoderLayer(28, 2, 32, batch_first=True)\n"
        "        self.fc = "),
        ("self.fc(x.view(x.size(0), -1))", "self.fc(self.attend(x.flatten(2)).flatten(1))"),
    )  # fmt: skip
    assert pipeline(*TRAIN).status == 0
    answer = pipeline("evaluate", "--model", "models:/noise-mine@plain")
    assert answer.status == 0, answer.err


def test_a_run_with_other_settings_is_not_reused_or_compared_under_its_old_name(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)
    study = ("ablate", "--ablation", "mine.py", "--variants", "plain,wide", "--seeds", "1")
    options = ("--epochs", "1", "--jobs", "1", "--reuse", "any")
    assert pipeline(*study, *options).status == 0
    write(tmp_path, ('"width": 16', '"width": 32'))
    compared = pipeline("compare")
    assert compared.status == 2
    assert "no variant wide with its settings now" in compared.error_lines[0]
    answer = pipeline(*study, *options)
    assert answer.status == 0, answer.err
    assert "1 of 2 runs is finished already and is reused" in answer.out
    widths = [
        json.loads(run_.data.tags["settings"])["width"] for run_ in runs_in(tmp_path, "train")
    ]
    assert sorted(widths) == [8, 16, 32]


def test_a_model_that_no_run_has_logged_can_be_evaluated(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path)
    assert pipeline(*TRAIN).status == 0
    (trained,) = runs_in(tmp_path)
    mlflow.MlflowClient().delete_run(trained.info.run_id)
    answer = pipeline("evaluate", "--model", "models:/noise-mine@plain", "--ablation", "mine.py")
    assert answer.status == 0, answer.err


def test_a_variant_whose_layers_an_inserted_one_renumbers_shares_the_initial_weights(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    layers = "nn.Linear(54, 54), *inserted[kind], nn.ReLU(), nn.Linear(54, 54)"
    layers = f"nn.Flatten(), {layers}, nn.Linear(54, num_classes)"
    write(
        tmp_path,
        (
            "\nablation = Ablation(\n    network=Mine,",
            "\ndef stack(num_classes, kind='plain'):\n"
            "    inserted = {'plain': [], 'drop': [nn.Dropout()], 'deep': [nn.Linear(54, 54)]}\n"
            f"    return nn.Sequential({layers})\n\nablation = Ablation(\n    network=stack,",
        ),
        ('"wide": {"width": 16}, "tanh": {"activation": "tanh"}', '"drop": {"kind": "drop"}'),
        ('"drop": {"kind": "drop"}', '"drop": {"kind": "drop"}, "deep": {"kind": "deep"}'),
    )
    study = ("ablate", "--ablation", "mine.py", "--seeds", "1", "--epochs", "1", "--jobs", "1")
    answer = pipeline(*study)
    assert answer.status == 0, answer.err
    runs = {run.data.tags["variant"]: run for run in runs_in(tmp_path, "train")}
    assert "other_weights" not in runs["drop"].data.tags
    assert "note: variant 'drop'" not in answer.err
    other = json.loads(runs["deep"].data.tags["other_weights"])
    assert list(other.values()) == [["2.weight", 4]]
    assert "note: variant 'deep': 2.weight and 3 more of its parameters" in answer.err
    (report,) = (tmp_path / "mlruns").rglob("report.md")
    assert "in deep, 2.weight and 3 more parameters do not start out" in report.read_text()
    assert "in drop, " not in report.read_text()


def test_a_parameter_that_training_does_not_reach_is_named(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(tmp_path, ("self.fc = ", "self.unused = nn.Linear(2, 2); self.fc = "))
    answer = pipeline(*TRAIN)
    assert answer.status == 0
    assert "does not reach unused.weight, unused.bias" in answer.err


def test_layers_and_parameters_in_a_plain_list_are_named(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(
        tmp_path,
        ("self.fc = ", "self.extra = {'a': [nn.Linear(7, 7)]}; self.fc = "),
        ("num_classes)\n\n", "num_classes); self.all = [self.conv, self.fc.weight]\n\n"),
        ("self.activation(self", "self.extra['a'][0](self"),
    )
    answer = pipeline(*TRAIN)
    assert answer.status == 0, answer.err
    assert "network.extra is not trained" in answer.err
    assert "use nn.ModuleList" in answer.err
    assert "network.all" not in answer.err


def test_an_optimizer_that_does_not_train_the_network_is_named(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    write(
        tmp_path,
        (
            "network=Mine,",
            "network=Mine, optimizer=lambda parameters, lr: torch.optim.SGD(parameters[:1], 0.5),",
        ),
    )
    answer = pipeline(*TRAIN)
    assert answer.status == 0, answer.err
    assert "the optimizer does not hold conv.bias, fc.weight, fc.bias" in answer.err
    assert "no group of the optimizer's parameters has the lr 0.001" in answer.err


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
    assert check_ours(trained).config.ablation == str(folder / "mine.py")
    assert trained.info.run_name == "tanh-seed0"


def test_a_module_is_named_with_dots_and_a_path_is_made_absolute(tmp_path: Path) -> None:
    assert absolute("auto", tmp_path) == "auto"
    assert absolute("ablations.residual", tmp_path) == "ablations.residual"
    assert absolute("mine.py", tmp_path) == str(tmp_path / "mine.py")
    assert absolute("../mine.py", tmp_path) == str(tmp_path / "../mine.py")
    (tmp_path / "mine.txt").touch()
    assert absolute("mine.txt", tmp_path) == str(tmp_path / "mine.txt")
    assert absolute("mine.net", tmp_path) == "mine.net"
    assert load_ablation("ablations.residual").name == "residual"
    assert load_ablation(str(ROOT / "ablations" / "residual.py")).name == "residual"


@pytest.mark.parametrize("name", ["v2", "latest", "auto"])
def test_a_file_and_a_data_set_may_have_a_name_that_only_aliases_of_models_may_not(
    name: str, tmp_path: Path
) -> None:
    write(tmp_path, ('"noise": noise', '"v1": noise'))
    (tmp_path / "mine.py").rename(tmp_path / f"{name}.py")
    ablation = load_ablation(str(tmp_path / f"{name}.py"))
    assert (ablation.name, *ablation.datasets) == (name, "v1")


def test_the_code_of_an_ablation_is_its_file_and_what_that_imports_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = "import numpy\nfrom pipeline import Ablation\nfrom parts.layers import Layer\n"
    for name, content in {
        "question.py": f"{imports}def f():\n    import late\n",
        "parts/__init__.py": "",
        "parts/layers.py": "from . import more\nfrom pathlib import Path\nLayer = 1\n",
        "parts/more.py": "",
        "parts/ablation.py": "from parts.layers import Layer\nfrom question import f\n",
        "late.py": "",
        "pipeline/__init__.py": "",
        "unused.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    def names(reference: str) -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in source_files(reference)}

    layers = {"parts/__init__.py", "parts/layers.py", "parts/more.py"}
    monkeypatch.syspath_prepend(tmp_path)  # as loading a file does with its folder
    assert names(f"{tmp_path}/question.py") == {"question.py", "late.py", *layers}
    assert names("parts.ablation") == {"parts/ablation.py", *layers}
