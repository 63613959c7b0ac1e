"""What `mlflow run . -e ablate` leaves in the store: runs, models, pictures, and a table."""

import hashlib
import io
import json
import subprocess
import sys

import mlflow
import pandas as pd
import pytest
import torch
from conftest import ROOT, Study, environment, runs_in

from pipeline import CNNNetwork
from pipeline.config import Config
from pipeline.data import load
from pipeline.report import effects
from pipeline.results import RunResult

VARIANTS = ["base", "bn", "dropout"]


def test_it_ends_with_a_table_of_the_runs_and_the_way_to_the_interface(study: Study) -> None:
    for variant in VARIANTS:
        accuracy = study.children[variant].data.metrics["val_accuracy"]
        lines = study.answer.out.splitlines()
        (line,) = (row for row in lines if row.split()[:1] == [f"{variant}-seed0"])
        assert f"{accuracy:.1%}" in line
        assert "synthetic-cnn/" in line
    assert "599,684" in study.answer.out
    assert "599,908" in study.answer.out
    assert "mlflow ui" in study.answer.out
    assert "Results on synthetic" in study.answer.out


def test_the_built_in_data_tells_the_variants_apart_and_is_not_too_easy(study: Study) -> None:
    accuracy = {v: run.data.metrics["val_accuracy"] for v, run in study.children.items()}
    assert all(0.05 < value < 0.9 for value in accuracy.values())
    assert accuracy["bn"] - accuracy["base"] > 0.05


def test_every_variant_is_a_finished_child_run_of_its_own(study: Study) -> None:
    assert sorted(study.children) == VARIANTS
    assert study.parent.info.status == "FINISHED"
    for variant, run in study.children.items():
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"{variant}-seed0"
        assert run.data.tags["mlflow.parentRunId"] == study.parent.info.run_id
    assert len(runs_in(study.folder, "train")) == 3


def test_the_project_runs_own_parameters_stay_as_they_were_typed(study: Study) -> None:
    assert study.parent.data.params["lr"] == "1e-3"
    assert study.children["bn"].data.params["lr"] == "0.001"


def test_a_run_holds_every_setting_and_what_it_ran_on(study: Study) -> None:
    run = study.children["bn"]
    assert run.data.params == {
        "variant": "bn",
        "dataset": "synthetic",
        "data_dir": "auto",
        "epochs": "5",
        "batch_size": "256",
        "lr": "0.001",
        "seed": "0",
        "device": "auto",
        "precision": "auto",
        "train_images": "0",
        "validation": "test",
    }
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changes = subprocess.run(
        ["git", "-C", ROOT, "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    expected = {
        "variant": "bn",
        "dataset": "synthetic",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "mlflow.source.git.commit": commit,
        "git_dirty": "true" if changes else "false",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["precision"] in ("fp32", "bf16")


def test_every_epoch_is_a_step_of_every_metric(study: Study) -> None:
    for run in study.children.values():
        for name in (
            "train_loss",
            "train_accuracy",
            "val_loss",
            "val_accuracy",
            "lr",
            "epoch_seconds",
            "images_per_second",
        ):
            history = study.client.get_metric_history(run.info.run_id, name)
            assert [metric.step for metric in history] == [1, 2, 3, 4, 5], name


def test_both_splits_are_inputs_with_a_digest_over_all_bytes(study: Study) -> None:
    data = load("synthetic")
    digests = {"training": data.training, "validation": data.validation}
    inputs = study.children["bn"].inputs
    assert inputs is not None
    found = {tag.value: entry.dataset for entry in inputs.dataset_inputs for tag in entry.tags}
    assert found.keys() == digests.keys()
    for context, split in digests.items():
        sha = hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
        assert found[context].digest == sha.hexdigest()[:32]
        assert found[context].name == f"synthetic-{context}"


def test_the_artifacts_are_there(study: Study) -> None:
    run = study.children["dropout"]
    files = {entry.path for entry in study.client.list_artifacts(run.info.run_id)}
    assert {"learning_curves.png", "config.json", "checkpoint.pt", "environment.txt"} <= files
    network = CNNNetwork.from_checkpoint(study.artifact(run, "checkpoint.pt"))
    assert network.variant == "dropout"
    curves = study.artifact(run, "learning_curves.png").read_bytes()
    assert curves.startswith(b"\x89PNG")
    assert f"torch=={torch.__version__.split('+')[0]}" in (
        study.artifact(run, "environment.txt").read_text()
    )


def test_the_parent_holds_a_table_and_a_picture_of_all_runs(study: Study) -> None:
    table = pd.read_csv(io.BytesIO(study.artifact(study.parent, "comparison.csv").read_bytes()))
    assert list(table["run"]) == [f"{variant}-seed0" for variant in VARIANTS]
    for variant, accuracy in zip(VARIANTS, table["val_accuracy"], strict=True):
        assert accuracy == study.children[variant].data.metrics["val_accuracy"]
    assert study.artifact(study.parent, "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_parent_states_each_effect_and_that_one_seed_does_not_settle_it(study: Study) -> None:
    effects = json.loads(study.artifact(study.parent, "effects.json").read_text())
    pairs = [(effect["treatment"], effect["control"]) for effect in effects]
    assert pairs == [("bn", "base"), ("dropout", "bn"), ("dropout", "base")]
    for effect in effects:
        treatment, control = study.children[effect["treatment"]], study.children[effect["control"]]
        difference = treatment.data.metrics["val_accuracy"] - control.data.metrics["val_accuracy"]
        assert effect["difference"] == pytest.approx(difference)
        assert effect["interval"] is None
        assert "one seed, which gives no uncertainty" in effect["sentence"]
        assert effect["sentence"] in study.answer.out
        assert effect["sentence"] in study.parent.data.tags["mlflow.note.content"]


def test_effects_are_paired_by_seed_and_corrected_for_being_several() -> None:
    accuracy = {
        "base": [0.40, 0.42, 0.41],
        "bn": [0.46, 0.485, 0.47],
        "dropout": [0.48, 0.47, 0.48],
    }
    results = [
        RunResult(
            "",
            Config(variant=variant, seed=seed),
            0,
            "",
            [{"val_accuracy": values[seed]}],
        )
        for seed in range(3)
        for variant, values in accuracy.items()
    ]
    bn, dropout, both = effects(results)
    assert bn.comparison.difference == pytest.approx((0.06 + 0.065 + 0.06) / 3)
    # 6.167 ± 4.303 x 0.289 / sqrt(3), Student's t at 2 degrees of freedom
    assert bn.sentence == (
        "BatchNorm raises validation accuracy by 6.2 points (95 % CI 5.4 to 6.9, 3 seeds)."
    )
    assert not dropout.comparison.settled
    assert "not settled" in dropout.sentence
    assert bn.comparison.p_holm == pytest.approx(3 * (bn.comparison.p_value or 0))
    assert both.pair.subject == "BatchNorm with Dropout"


def test_aliases_point_at_each_variants_version_and_at_the_best(study: Study) -> None:
    best = max(study.children.values(), key=lambda run: run.data.metrics["val_accuracy"])
    for variant, run in study.children.items():
        version = study.client.get_model_version_by_alias("synthetic-cnn", variant)
        assert version.run_id == run.info.run_id
    champion = study.client.get_model_version_by_alias("synthetic-cnn", "champion")
    assert float(champion.tags["val_accuracy"]) == best.data.metrics["val_accuracy"]


LOAD_ELSEWHERE = """
import sys
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/synthetic-cnn@{variant}")
pixels, labels = (numpy.load(name + ".npy") for name in ("pixels", "labels"))
probabilities = model.predict(pixels)
assert probabilities.dtype == numpy.float32 and probabilities.shape == (len(pixels), 100)
assert abs(probabilities.sum(1) - 1).max() < 1e-5
assert numpy.allclose(model.predict(pixels[:1]), probabilities[:1], atol=1e-5)
try:
    import pipeline
except ImportError:
    print((probabilities.argmax(1) == labels).mean())
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_gives_the_logged_accuracy_where_the_project_is_not_installed(
    study: Study, variant: str
) -> None:
    validation = load("synthetic").validation
    import numpy as np

    np.save(study.folder / "pixels.npy", validation.images.numpy())
    np.save(study.folder / "labels.npy", validation.labels.numpy())
    without_project = {**environment(study.folder), "PYTHONPATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE.format(variant=variant)],
        cwd=study.folder,
        env=without_project,
        capture_output=True,
        text=True,
        check=True,
    )
    logged = study.children[variant].data.metrics["val_accuracy"]
    assert float(answer.stdout) == pytest.approx(logged, abs=0.0005)


def test_the_model_says_what_it_takes_and_knows_its_classes(study: Study) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{study.folder}/mlflow.db")
    info = mlflow.models.get_model_info("models:/synthetic-cnn@bn")
    assert str(info.signature.inputs) == "[Tensor('uint8', (-1, 32, 32, 3))]"
    assert str(info.signature.outputs) == "[Tensor('float32', (-1, 100))]"
    assert info.metadata is not None
    assert info.metadata["class_names"] == list(load("synthetic").class_names)
    assert info.saved_input_example_info is not None
    files = {path.name for path in study.folder.glob("mlruns/*/models/*/artifacts/data/*")}
    assert files == {"model.pt2"}
