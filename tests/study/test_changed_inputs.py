"""A study reuses runs only if what their networks read is as it was, and says what is not."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from conftest import Answer, broken_epoch, runs_in
from in_process import one_by_one

from pipeline.ablation import inputs
from pipeline.errors import InputError
from pipeline.execution.tasks import Events
from pipeline.reproduction.record import Measured
from pipeline.reproduction.repetition import check_same
from pipeline.runs.queries import check_ours
from pipeline.store.tags import unpack

FILE = """
import json
from pathlib import Path
import numpy as np
import torch
from torch import nn
from pipeline import Ablation
from pipeline.data.arrays import from_arrays

HERE = Path(__file__).parent

class Net(nn.Module):
    def __init__(self, num_classes, pretrained=False):
        super().__init__()
        self.fc = nn.Linear(16, num_classes)
        if pretrained:
            self.fc.load_state_dict(torch.load(HERE / "backbone.pt"))

    def forward(self, x):
        return self.fc(x.flatten(1))

def noise():
    images = np.arange(60 * 16, dtype=np.uint8).reshape(60, 4, 4)
    names = (HERE / "names.txt").read_text().split()
    return from_arrays(images[:40], np.arange(40) % 3, images[40:], np.arange(20) % 3, names)

ablation = Ablation(
    network=Net, variants={"plain": {}, "pretrained": {"pretrained": True}},
    datasets={"noise": noise}, augmentation=None,
)
"""
STUDY = ("ablate", "--ablation", "mine.py", "--seeds", "1", "--epochs", "1", "--register", "none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "names.txt").write_text("cat dgo emu")
    save_backbone(tmp_path, 0)
    return tmp_path


def save_backbone(folder: Path, value: float) -> None:
    linear = torch.nn.Linear(16, 3)
    torch.nn.init.constant_(linear.weight, value)
    torch.nn.init.zeros_(linear.bias)
    torch.save(linear.state_dict(), folder / "backbone.pt")


def trained(folder: Path) -> int:
    return len(runs_in(folder, "train"))


def test_a_changed_file_makes_those_runs_train_again_that_read_it(
    pipeline: Callable[..., Answer], folder: Path
) -> None:
    study = (*STUDY, "--jobs", "1")
    assert pipeline(*study).status == 0
    save_backbone(folder, 1)
    preview = pipeline(*study, "--dry-run")
    assert "plain-seed0: finished" in preview.out
    assert "pretrained-seed0: to train again: backbone.pt has changed since" in preview.out
    assert trained(folder) == 2
    answer = pipeline(*study)
    assert answer.status == 0, answer.err
    assert "1 earlier run not reused: backbone.pt has changed since" in answer.out
    assert "1 of 2 runs is finished already and is reused" in answer.out
    assert trained(folder) == 3
    # As it was: the first run is right again.
    save_backbone(folder, 0)
    # The folder may move, and an edit that computes the same does not matter.
    (folder / "mine.py").write_text(FILE.replace("HERE =", "# Beside this file.\nHERE ="))
    (folder / "moved").mkdir()
    for name in ("mine.py", "backbone.pt", "names.txt"):
        (folder / name).rename(folder / "moved" / name)
    moved = pipeline("ablate", "--ablation", "moved/mine.py", *study[3:], "--dry-run")
    assert "2 of 2 runs are finished already and are reused" in moved.out
    # A model answers with the names of its classes.
    (folder / "moved" / "names.txt").write_text("cat dog emu")
    named = pipeline("ablate", "--ablation", "moved/mine.py", *study[3:], "--dry-run")
    assert "plain-seed0: to train again: the names of its classes have changed since" in named.out


def test_a_run_made_by_train_is_reused_and_another_version_of_a_package_is_named(
    pipeline: Callable[..., Answer], folder: Path
) -> None:
    train = ("train", "--ablation", "mine.py", "--variant", "pretrained", "--epochs", "1")
    assert pipeline(*train).status == 0
    version = inputs.version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "version", lambda name: "1.0" if name == "numpy" else version(name))
        preview = pipeline(*STUDY, "--dry-run")
    said = f"pretrained-seed0: to train again: numpy 1.0 instead of {version('numpy')}\n"
    assert said in preview.out
    assert "pretrained-seed0: finished" in pipeline(*STUDY, "--dry-run").out
    # A change of the code is said as well, and `reuse=any` still takes any run.
    (folder / "mine.py").write_text(FILE.replace("arange(40) % 3", "arange(40) % 3 * 1"))
    save_backbone(folder, 1)
    preview = pipeline(*STUDY, "--dry-run")
    assert "pretrained-seed0: to train again: the code has changed since" in preview.out
    assert "pretrained-seed0: finished" in pipeline(*STUDY, "--reuse", "any", "--dry-run").out


def test_a_stopped_run_continues_only_with_the_same_files(
    pipeline: Callable[..., Answer], folder: Path
) -> None:
    train = ("train", "--ablation", "mine.py", "--variant", "pretrained", "--epochs", "3")
    with broken_epoch(2):
        assert pipeline(*train).status == 1
    (stopped,) = runs_in(folder)
    save_backbone(folder, 1)
    answer = pipeline("train", "--resume", stopped.info.run_id)
    assert answer.status == 2
    assert answer.error_lines == [
        f"error: run {stopped.info.run_id} can't be continued: backbone.pt has changed since; it"
        " continues only with the same"
    ]
    save_backbone(folder, 0)
    assert pipeline("train", "--resume", stopped.info.run_id).status == 0


def test_a_file_that_changes_while_a_study_runs_fails_its_runs(
    pipeline: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_in_a_worker(*arguments: Any, **options: Any) -> Events:
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: "a study")
        return one_by_one(*arguments, **options)

    monkeypatch.setattr("pipeline.execution.engine.in_parallel", as_in_a_worker)
    # A worker finds another file.
    change = (
        "import multiprocessing\nif multiprocessing.parent_process():"
        " (HERE / 'backbone.pt').write_bytes(b'')\n"
    )
    (folder / "mine.py").write_text(FILE.replace("class Net", f"{change}\nclass Net"))
    answer = pipeline(*STUDY, "--jobs", "2")
    assert answer.status == 1
    assert "pretrained-seed0: not as when the study began: backbone.pt has changed since" in (
        answer.out + answer.err
    )


def test_each_run_keeps_the_list_of_what_it_read_and_one_that_reads_nothing_keeps_none(
    pipeline: Callable[..., Answer], folder: Path
) -> None:
    for variant in ("plain", "pretrained"):
        train = ("train", "--ablation", "mine.py", "--variant", variant, "--epochs", "1")
        assert pipeline(*train).status == 0
        run, *_ = runs_in(folder, "train")
        recorded = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/inputs.json")
        assert recorded.keys() == {variant}
        assert list(recorded[variant]["files"]) == ["backbone.pt"] * (variant == "pretrained")
        assert recorded[variant]["packages"].keys() == {"numpy"}
        assert len(unpack(run)["inputs_digest"]) == 64
    tiny = ("--dataset", "synthetic", "--train-images", "100", "--epochs", "1")
    assert pipeline("train", *tiny).status == 0
    tutorial, *_ = runs_in(folder, "train")
    assert "inputs_digest" not in unpack(tutorial)
    files = mlflow.MlflowClient().list_artifacts(tutorial.info.run_id)
    assert "inputs.json" not in {file.path for file in files}


def test_a_repetition_that_reads_another_file_is_refused(
    pipeline: Callable[..., Answer], folder: Path
) -> None:
    train = ("train", "--ablation", "mine.py", "--variant", "pretrained", "--epochs", "1")
    assert pipeline(*train).status == 0
    (first,) = runs_in(folder)
    record = Measured(check_ours(first), {}, 1, ())
    check_same(record, first)
    save_backbone(folder, 1)
    assert pipeline(*train).status == 0
    again, _ = runs_in(folder)
    with pytest.raises(InputError, match=r"can.t be repeated: backbone\.pt has changed"):
        check_same(record, again)
