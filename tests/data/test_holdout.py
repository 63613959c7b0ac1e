"""Choices are made on images held out of the training split, and the test split is read once."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, Answer, drawn_data, run, runs_in

from pipeline import CNNNetwork
from pipeline.runs.provenance import RESULT_CODE
from pipeline.store.tags import unpack
from pipeline.training.batches import ValidationBatches


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_a_tenth_of_each_class_is_held_out_the_same_in_every_run() -> None:
    whole, data = drawn_data(), drawn_data(validation="holdout")
    assert (len(data.training), len(data.validation)) == (9000, 1000)
    assert torch.bincount(data.validation.labels).tolist() == [10] * 100
    assert data.test is not None
    assert data.test.digest == whole.validation.digest
    training, held_out = rows(data.training.images), rows(data.validation.images)
    assert not training & held_out
    assert training | held_out == rows(whole.training.images)
    # It must not change: results of different versions would be of different images.
    assert data.validation.digest.startswith("8c94f986cafab639")
    assert len({data.digest, whole.digest}) == 2


def test_another_seed_holds_out_other_images_of_each_class() -> None:
    data, other = (drawn_data(validation="holdout", holdout_seed=seed) for seed in (0, 1))
    again = drawn_data(validation="holdout", holdout_seed=1)
    assert other.digest == again.digest != data.digest
    assert torch.bincount(other.validation.labels).tolist() == [10] * 100
    assert other.test is not None
    assert data.test is not None
    assert other.test.digest == data.test.digest
    # About a tenth of those that are held out by one seed are also by another.
    assert 40 < len(rows(data.validation.images) & rows(other.validation.images)) < 180


def test_the_test_split_is_read_once_after_the_last_epoch(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    held_out = ["--validation", "holdout", "--holdout-seed", "3"]
    answer = pipeline("train", "--variant", "bn", *SMALL, *held_out)
    assert answer.status == 0, answer.err
    (found,) = runs_in(tmp_path, "train")
    assert found.data.params["holdout_seed"] == "3"
    assert unpack(found)["validation_scheme"] == "hold-out of the training split"
    client = mlflow.MlflowClient()
    steps = {
        name: [metric.step for metric in client.get_metric_history(found.info.run_id, name)]
        for name in ("val_accuracy", "test_accuracy", "test_loss")
    }
    assert steps == {"val_accuracy": [1, 2], "test_accuracy": [2], "test_loss": [2]}
    inputs = client.get_run(found.info.run_id).inputs
    assert inputs is not None
    contexts = {tag.value: i.dataset.digest for i in inputs.dataset_inputs for tag in i.tags}
    whole = drawn_data(train_images=600)
    assert contexts["test"] == whole.validation.digest[:32]
    assert contexts.keys() == {"training", "validation", "test"}

    path = client.download_artifacts(found.info.run_id, "checkpoint.pt")
    network = CNNNetwork.from_checkpoint(path).eval()
    data = drawn_data(train_images=600, validation="holdout", holdout_seed=3)
    assert data.test is not None
    for split, metric in ((data.validation, "val_accuracy"), (data.test, "test_accuracy")):
        with torch.no_grad():
            right = [
                (network(images).argmax(1) == labels).sum().item()
                for images, labels in ValidationBatches(split, 1000, torch.device("cpu"))
            ]
        assert found.data.metrics[metric] == pytest.approx(sum(right) / len(split), abs=0.001)

    run_id = found.info.run_id
    answer = pipeline("train", "--resume", run_id, "--holdout-seed", "4", "--validation", "holdout")
    line = f"run {run_id} has holdout_seed 3, not 4; it continues only with the same settings"
    assert (answer.status, answer.error_lines) == (2, [f"error: {line}"])


def test_a_study_of_several_learning_rates_holds_out_by_itself(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    tiny = ["--dataset", "synthetic", "--train-images", "200", "--epochs", "1", "--seeds", "1"]
    command = ["ablate", *tiny, "--variants", "base,bn", "--lr", "0.001,0.003"]
    answer = pipeline(*command)
    assert answer.status == 0, answer.err
    names = {run.info.run_name for run in runs_in(tmp_path, "train")}
    assert names == {f"{v}-seed0{lr}" for v in ("base", "bn") for lr in ("", "-lr0.003")}
    (parent,) = runs_in(tmp_path, "study")
    assert parent.info.run_name == (
        "cnn on synthetic, 1 seed, 2 learning rates, 200 training images, holdout"
    )
    assert {r.data.params["validation"] for r in runs_in(tmp_path, "train")} == {"holdout"}
    assert "BatchNorm" in answer.out
    assert "test accuracy" in answer.out
    # Who repeats it trains nothing, and finds the runs under the same names.
    again = pipeline(*command)
    assert again.status == 0, again.err
    assert {run.info.run_name for run in runs_in(tmp_path, "train")} == names
    assert len(runs_in(tmp_path, "train")) == len(names)
    repeated = runs_in(tmp_path, "study")[0]
    table = pd.read_csv(
        mlflow.MlflowClient().download_artifacts(repeated.info.run_id, "results.csv")
    )
    assert set(table["run"]) == names


UNLISTED = {  # they decide no number
    "pipeline.errors",
    "pipeline.news",
    "pipeline.machine",
    "pipeline.config",  # each setting is recorded
    "pipeline.ablation.checks",
    "pipeline.ablation.inputs",
    "pipeline.ablation.recording",
    "pipeline.ablation.source",
    "pipeline.ablation.syntax",
    "pipeline.ablation.watching",
    "pipeline.data.checks",
}


def test_the_code_that_decides_a_result_is_what_training_imports(tmp_path: Path) -> None:
    code = (
        "import sys, pipeline.training.loop\n"
        "print(*sorted(m for m in sys.modules if 'pipeline.' in m))"
    )
    imported = run(tmp_path, "python", "-c", code).out.split()
    folder = ROOT / "pipeline"
    listed = {path for pattern in RESULT_CODE for path in folder.glob(pattern)}
    for name in imported:
        path = ROOT / name.replace(".", "/")
        if path.is_dir() or name in UNLISTED:
            continue
        assert path.with_suffix(".py") in listed, name
    assert folder / "training" / "device.py" in listed
    # What only reads images is left out: they have a digest.
    assert not {path.stem for path in listed} & {"sources", "download", "cifar100", "wording"}
