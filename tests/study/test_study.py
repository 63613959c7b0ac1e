"""What `mlflow run . -e ablate` leaves in the store: runs, models, pictures, and a table."""

import hashlib
import html
import json
import re
import subprocess
import sys
from collections.abc import Callable

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Answer, Study, drawn_data, environment, runs_in
from scipy import stats
from torch import nn

from pipeline import CNNNetwork
from pipeline.errors import percent
from pipeline.store.tags import unpack
from pipeline.training.device import choose_device

VARIANTS = ["base", "bn", "dropout"]
SEEDS = range(2)


def accuracy(study: Study, variant: str, seed: int) -> float:
    """What the run of a variant and a seed logged last."""
    return float(study.runs[f"{variant}-seed{seed}"].data.metrics["val_accuracy"])


def test_it_ends_with_a_table_the_answer_and_the_way_to_the_report(study: Study) -> None:
    lines = study.answer.out.splitlines()
    for variant in VARIANTS:
        mean = float(np.mean([accuracy(study, variant, seed) for seed in SEEDS]))
        (line,) = (row for row in lines if row.split()[:1] == [variant])
        assert f" {percent(mean)} " in line
    assert "599,684" in study.answer.out
    assert "599,908" in study.answer.out
    assert "synthetic, 3 epochs, 6 runs with 2 seeds, learning rate 0.001." in lines
    assert (
        "Variants: base (without BatchNorm or Dropout), bn (BatchNorm),"
        " dropout (BatchNorm and Dropout)."
    ) in lines
    (place,) = (line.removeprefix("Report: ") for line in lines if line.startswith("Report: "))
    assert (study.folder / place).read_text().startswith("<!doctype html>")
    run, experiment = study.parent.info.run_id, study.parent.info.experiment_id
    link = f"http://127.0.0.1:5000/#/experiments/{experiment}"
    start, *links = lines[-3:]
    assert start.startswith("See it in MLflow, by: mlflow ui")
    assert links == [
        f"  the report: {link}/runs/{run}/artifacts/report.html?workflowType=machine_learning",
        f"  all runs: {link}?workflowType=machine_learning",
    ]


def test_it_says_before_it_begins_what_it_takes_and_then_how_much_is_left(study: Study) -> None:
    lines = study.answer.out.splitlines()
    heading = "ablation cnn on synthetic: 10,000 training and 2,000 validation images, 32x32 pixels"
    (first,) = (number for number, line in enumerate(lines) if line.startswith(heading))
    plan, jobs = lines[first + 1 : first + 3]
    takes = (
        r"6 runs to train, about 0:\d\d:\d\d \(from a few steps of each variant on this machine\)"
    )
    assert re.fullmatch(takes, plan)
    assert re.fullmatch(r"\d jobs?: .*; about \d\.\d GiB of memory each", jobs)
    ended = [line for line in lines[first:] if line.startswith("[")]
    for count, line in enumerate(ended, 1):
        name = line.split()[1].removesuffix(":")
        shown = percent(study.runs[name].data.metrics["val_accuracy"])
        left = r"; about 0:\d\d:\d\d left" if count < 6 else ""
        assert re.fullmatch(
            rf"\[{count}/6\] {name}: validation accuracy {shown}, \d+ s{left}", line
        )
    assert len(ended) == 6
    assert not re.search(r"/s\]|it/s|\r", study.answer.out + study.answer.err)  # no bars in a log


def test_the_built_in_data_tells_the_variants_apart_and_is_not_too_easy(study: Study) -> None:
    values = {v: run.data.metrics["val_accuracy"] for v, run in study.children.items()}
    assert all(0.05 < value < 0.9 for value in values.values())
    assert values["bn"] - values["base"] > 0.05


def test_every_variant_and_seed_is_a_finished_child_run_of_its_own(study: Study) -> None:
    assert sorted(study.runs) == sorted(f"{v}-seed{seed}" for v in VARIANTS for seed in SEEDS)
    assert len(runs_in(study.folder, "train")) == 6
    assert study.parent.info.status == "FINISHED"
    assert study.parent.info.run_name == "cnn on synthetic, 2 seeds"
    for name, run in study.runs.items():
        assert run.info.status == "FINISHED"
        assert name == f"{run.data.tags['variant']}-seed{run.data.params['seed']}"
        assert run.data.tags["mlflow.parentRunId"] == study.parent.info.run_id


def test_another_variant_comes_first_each_time(study: Study) -> None:
    asked = [f"{variant}-seed0" for variant in ("base", "bn", "dropout")]
    asked += [f"{variant}-seed1" for variant in ("bn", "dropout", "base")]
    begun = sorted(study.runs, key=lambda name: study.runs[name].info.start_time)
    (jobs,) = re.findall(r"^(\d+) jobs?:", study.answer.out, re.MULTILINE)
    # Jobs that begin a run at the same time may do so in any order.
    assert all(abs(begun.index(name) - place) < int(jobs) for place, name in enumerate(asked))


def test_one_model_a_variant_is_registered_that_of_the_median_seed(study: Study) -> None:
    assert sorted(study.children) == VARIANTS
    assert len(study.client.search_model_versions("name = 'synthetic-cnn'")) == 3
    for variant, run in study.children.items():
        values = [accuracy(study, variant, seed) for seed in SEEDS]
        assert run.data.metrics["val_accuracy"] == min(values)  # the lower one of two


def test_the_project_runs_own_parameters_stay_as_they_were_typed(study: Study) -> None:
    assert study.parent.data.params["lr"] == "1e-3"
    assert study.children["bn"].data.params["lr"] == "0.001"


def test_a_run_holds_every_setting_and_what_it_ran_on(study: Study) -> None:
    run = study.children["bn"]
    assert run.data.params == {
        "ablation": "auto",
        "variant": "bn",
        "dataset": "synthetic",
        "data_dir": "auto",
        "epochs": "3",
        "batch_size": "256",
        "lr": "0.001",
        "seed": run.info.run_name[-1],
        "device": "auto",
        "precision": "auto",
        "train_images": "0",
        "validation": "test",
        "holdout_seed": "0",
        "keep_state": "no",
    }
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changes = subprocess.run(
        ["git", "-C", ROOT / "pipeline", "status", "--porcelain", "."],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = {
        "variant": "bn",
        "dataset": "synthetic",
        "device": choose_device("auto").type,
        "torch": torch.__version__,
        "mlflow.source.git.commit": commit,
        "git_dirty": "true" if changes else "false",
    }
    assert expected.items() <= unpack(run).items()
    assert run.data.tags["precision"] in ("fp32", "bf16")
    # A page begins with its tags: those that people look for, and none without a value.
    shown = {name: tag for name, tag in run.data.tags.items() if not name.startswith("mlflow.")}
    assert all(shown.values())
    assert len(shown) <= 15
    record = json.loads(study.artifact(run, "record.json").read_text())
    assert record["parameters"]["seed"] == int(run.data.params["seed"])
    assert (record["settings"], record["torch"]) == (
        {"batch_norm": True, "dropout": False},
        torch.__version__,
    )


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
            assert [metric.step for metric in history] == [1, 2, 3], name


def test_both_splits_are_inputs_with_a_digest_over_all_bytes(study: Study) -> None:
    data = drawn_data()
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
    assert {"record.json", "checkpoint.pt", "environment.txt"} <= files
    assert "learning_curves.png" not in files  # the report has those of all runs
    assert "training_state.pt" not in files  # of a finished run
    network = CNNNetwork.from_checkpoint(study.artifact(run, "checkpoint.pt"))
    assert isinstance(network.dropout, nn.Dropout)
    assert f"torch=={torch.__version__.split('+')[0]}" in (
        study.artifact(run, "environment.txt").read_text()
    )


def test_the_parent_states_each_effect_with_its_uncertainty(study: Study) -> None:
    content = json.loads(study.artifact(study.parent, "effects.json").read_text())
    assert content["primary_metric"] == "val_accuracy"
    found = [effect for effect in content["effects"] if effect["metric"] == "val_accuracy"]
    pairs = [(effect["treatment"], effect["control"]) for effect in found]
    assert pairs == [("bn", "base"), ("dropout", "bn"), ("dropout", "base")]
    for effect in found:
        one, other = effect["treatment"], effect["control"]
        differences = [accuracy(study, one, s) - accuracy(study, other, s) for s in SEEDS]
        test = stats.ttest_1samp(differences, 0)
        # Three of them hold jointly; 4 of the 5 % are for the planned report.
        low, high = test.confidence_interval(1 - 0.04 / 3)
        assert effect["difference"] == pytest.approx(np.mean(differences))
        assert effect["interval"] == pytest.approx([low, high])
        assert effect["p_value"] == pytest.approx(min(1.0, 3 * test.pvalue * 5 / 4))
        assert effect["sentence"] in study.answer.out
        assert effect["sentence"] in study.parent.data.tags["mlflow.note.content"]
        metrics = study.parent.data.metrics
        assert metrics[f"{one}_vs_{other}"] == pytest.approx(np.mean(differences))
        # Those of two seeds may reach beyond what accuracies can be.
        shown = effect["shown"] or [None, None]
        assert shown in ([pytest.approx(low), pytest.approx(high)], [None, None])
        assert [metrics.get(f"{one}_vs_{other}_{end}") for end in ("low", "high")] == shown


def test_the_results_have_a_row_for_every_run(study: Study) -> None:
    table = pd.read_csv(study.artifact(study.parent, "results.csv")).set_index("run")
    assert sorted(table.index) == sorted(study.runs)
    for name, run in study.runs.items():
        row, metrics = table.loc[name], run.data.metrics
        assert row["run_id"] == run.info.run_id
        assert row["val_accuracy"] == metrics["val_accuracy"]
        gap = metrics["train_accuracy"] - metrics["val_accuracy"]
        assert row["generalisation_gap"] == pytest.approx(gap)
        history = study.client.get_metric_history(run.info.run_id, "epoch_seconds")
        assert row["seconds"] == pytest.approx(sum(metric.value for metric in history))


def test_the_curves_have_a_row_for_every_run_and_epoch(study: Study) -> None:
    table = pd.read_csv(study.artifact(study.parent, "curves.csv"))
    assert len(table) == len(study.runs) * 3
    for name, run in study.runs.items():
        rows = table[table["run"] == name]
        assert list(rows["epoch"]) == [1, 2, 3]
        logged = study.client.get_metric_history(run.info.run_id, "val_accuracy")
        assert list(rows["val_accuracy"]) == [metric.value for metric in logged]


def test_the_report_is_one_page_that_needs_no_network(study: Study) -> None:
    page = study.artifact(study.parent, "report.html").read_text()
    assert not re.findall(r"(?:src|href)=.(?!data:)|url\(|<script|@import", page)
    assert page.count("data:image/png;base64,") == page.count("<img ") == 5
    text = html.unescape(page)
    effects = json.loads(study.artifact(study.parent, "effects.json").read_text())
    assert text.index(effects["headline"][0]) < text.index("<h2>")  # it leads with the answer
    fold = text.index("<details")  # how to read it
    assert text.index("<img") < text.index("<table") < fold < text.index("Student's t intervals.")
    assert text.index("<td>Dropout on top of BatchNorm</td>") < fold
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Effects",
        "Variants",
        "Learning curves",
        "Generalisation gap",
        "Cost",
        "All other outcomes",
        "Runs",
        "Runs that are not counted",
        "How it was run",
        "What this study can't say",
    ]
    for run in study.runs.values():
        assert run.info.run_id in text
    for fact in (
        study.parent.data.tags["mlflow.source.git.commit"],
        drawn_data().digest,
        f"torch {torch.__version__.split('+')[0]}",
        "python -m pipeline ablate",
    ):
        assert fact in text, fact
    markdown = study.artifact(study.parent, "report.md").read_text()
    assert markdown.index("](figures/effects") < markdown.index("| effect |")
    fold = markdown.index("<details")
    assert markdown.index("| Dropout on top of BatchNorm |") < fold < markdown.index("Student's t")
    for path in re.findall(r"\]\((.*?)\)", markdown):
        assert study.artifact(study.parent, path).read_bytes().startswith(b"\x89PNG")
    assert re.findall("^## (.*)$", markdown, re.MULTILINE) == titles


def test_the_same_study_again_reuses_every_run_that_is_finished(
    study: Study, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.folder)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "synthetic")
    options = ["--dataset", "synthetic", "--epochs", "3", "--seeds", "2", "--register", "none"]
    before = len(runs_in(study.folder, "train"))
    answer = pipeline("ablate", *options)
    assert answer.status == 0, answer.err
    assert "6 of 6 runs are finished already" in answer.out
    assert len(runs_in(study.folder, "train")) == before
    again = runs_in(study.folder, "study")[0]
    table = pd.read_csv(study.artifact(again, "results.csv"))
    expected = {study.runs[f"{v}-seed{seed}"].info.run_id for v in VARIANTS for seed in (0, 1)}
    assert set(table["run_id"]) == expected
    # They stay with the study that made them.
    for run in study.runs.values():
        now = study.client.get_run(run.info.run_id)
        assert now.data.tags["mlflow.parentRunId"] == study.parent.info.run_id
    # MLflow lists only children; the description links to the others.
    linked = re.findall(r"\]\(#/.*?/runs/(\w{32})", again.data.tags["mlflow.note.content"])
    assert (set(linked), len(linked)) == (expected, 6)
    assert "](#" not in study.parent.data.tags["mlflow.note.content"]


def test_aliases_point_at_each_variants_version_and_at_the_best(study: Study) -> None:
    best = max(study.children.values(), key=lambda run: run.data.metrics["val_accuracy"])
    for variant, run in study.children.items():
        version = study.client.get_model_version_by_alias("synthetic-cnn", variant)
        assert version.run_id == run.info.run_id
    champion = study.client.get_model_version_by_alias("synthetic-cnn", "champion")
    assert float(champion.tags["val_accuracy"]) == best.data.metrics["val_accuracy"]


LOAD_ELSEWHERE = """
import sys
sys.modules["pipeline"] = None  # importing it is an error
import mlflow, numpy
pixels, labels = (numpy.load(name + ".npy") for name in ("pixels", "labels"))
for variant in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(f"models:/synthetic-cnn@{variant}")
    probabilities = model.predict(pixels)
    assert probabilities.dtype == numpy.float32 and probabilities.shape == (len(pixels), 100)
    assert abs(probabilities.sum(1) - 1).max() < 1e-5
    assert numpy.allclose(model.predict(pixels[:1]), probabilities[:1], atol=1e-5)
    print((probabilities.argmax(1) == labels).mean())
"""


def test_the_models_give_the_logged_accuracy_where_the_project_is_not_installed(
    study: Study,
) -> None:
    validation = drawn_data().validation
    np.save(study.folder / "pixels.npy", validation.images.numpy())
    np.save(study.folder / "labels.npy", validation.labels.numpy())
    answer = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, *VARIANTS],
        cwd=study.folder,
        env=environment(study.folder),
        capture_output=True,
        text=True,
        check=True,
    )
    for variant, value in zip(VARIANTS, answer.stdout.splitlines(), strict=True):
        logged = study.children[variant].data.metrics["val_accuracy"]
        assert float(value) == pytest.approx(logged, abs=0.0005)


def test_the_model_says_what_it_takes_and_knows_its_classes(study: Study) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{study.folder}/mlflow.db")
    info = mlflow.models.get_model_info("models:/synthetic-cnn@bn")
    assert str(info.signature.inputs) == "[Tensor('uint8', (-1, 32, 32, 3))]"
    assert str(info.signature.outputs) == "[Tensor('float32', (-1, 100))]"
    assert info.metadata is not None
    assert info.metadata["class_names"] == list(drawn_data().class_names)
    assert info.saved_input_example_info is not None
    files = {path.name for path in study.folder.glob("mlruns/*/models/*/artifacts/data/*")}
    assert files == {"model.pt2"}
