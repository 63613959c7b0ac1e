"""The examples are ablations like the tutorial's, with their own words, models and safety."""

import json
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, run, run_forked, run_killed, runs_in

LEARNED = ("train_loss", "val_loss", "val_accuracy")
EXAMPLES = {
    "activations": (
        ["--variants", "relu,gelu,wide,gelu_wide", "--epochs", "3"],
        "digits-perceptron",
        ["relu", "gelu", "wide", "gelu_wide"],
        [
            "GELU instead of ReLU with width 32",
            "idth 128 instead of 32 with ReLU",
            "oing from relu to gelu_wide",
            "GELU instead of ReLU [a-z]+ the effect of width 128 instead of 32",
        ],
    ),
    "residual": (
        ["--dataset", "synthetic", "--train-images", "400", "--epochs", "1"],
        "synthetic-residual",
        ["plain", "se", "smooth", "se_smooth"],
        [
            "queeze-and-excitation without label smoothing",
            "abel smoothing without squeeze-and-excitation",
            "oing from plain to se_smooth",
            "queeze-and-excitation [a-z]+ label smoothing's effect",
        ],
    ),
}
# In a process that has no project.
LOAD = """
import json, sys
import mlflow, numpy
found = {}
for name in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@{name}")
    (spec,) = model.metadata.signature.inputs
    images = numpy.zeros((3, *spec.shape[1:]), numpy.uint8)
    found[name] = list(model.predict(images).shape)
assert not [name for name in sys.modules if name.startswith(("pipeline", "ablation"))]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "name", [pytest.param("residual", marks=pytest.mark.thorough), "activations"]
)
def test_a_study_of_an_example_is_killed_continued_reused_loaded_and_evaluated(
    name: str, tmp_path: Path
) -> None:
    options, models, variants, subjects = EXAMPLES[name]
    file = str(ROOT / "ablations" / f"{name}.py")
    study = ["ablate", "--ablation", file, *options, "--seeds", "2", "--jobs", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    (first,) = run_killed(whole, [{"arguments": study}])
    assert first["status"] == 0, first["err"]

    kill = {"arguments": study, "at": "state written:4", "signal": signal.SIGKILL}
    dead, last = run_killed(killed, [kill, {"arguments": study}])
    assert dead["status"] == 128 + signal.SIGKILL
    assert last["status"] == 0, last["err"]
    assert "continues after" in last["out"]
    results = [
        {
            run_.info.run_name: [run_.data.metrics[metric] for metric in LEARNED]
            for run_ in runs_in(folder, "train")
        }
        for folder in (whole, killed)
    ]
    assert len(results[0]) == 8
    assert results[0] == results[1]

    (again,) = run_killed(whole, [{"arguments": study}])
    assert again["status"] == 0, again["err"]
    assert "8 of 8 runs are finished already and are reused" in again["out"]
    for subject in subjects:
        assert re.search(subject, first["out"]), subject
    *_, parent = runs_in(whole, "study")
    report = (whole / "mlruns" / "0" / parent.info.run_id / "artifacts" / "report.md").read_text()
    assert not re.search("batch.?norm|cifar|dropout", report, re.IGNORECASE)
    for subject in subjects:
        assert re.search(subject, report), subject

    answer = run(whole, sys.executable, "-I", "-c", LOAD, models, *variants)
    assert answer.status == 0, answer.err
    classes = 10 if name == "activations" else 100
    assert json.loads(answer.out) == {variant: [3, classes] for variant in variants}
    evaluation = ["evaluate", "--model", f"models:/{models}@{variants[1]}"]
    (evaluated,) = run_killed(whole, [{"arguments": evaluation}])
    assert evaluated["status"] == 0, evaluated["err"]
    assert ("superclass_accuracy" in evaluated["out"]) == (name == "residual")


# MLflow loads each model once more, to see what it imports; here it need not.
HURRY = {"MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1"}
PROGRAMS = {
    "boosting": (["stumps", "deep"], "test_rmse", "epth 6 instead of 1 .*test_rmse"),
    "adding": (["plain", "gru"], "test_mse", "GRU instead of a plain cell .*test_mse"),
    "waves": (["relu", "tanh"], "test_mse", "anh instead of ReLU .*test_mse"),
}
HAS_LIGHTNING = find_spec("lightning") is not None


@pytest.mark.parametrize(
    "name",
    [
        "boosting",
        "adding",
        pytest.param(
            "waves",
            marks=pytest.mark.skipif(not HAS_LIGHTNING, reason="lightning is not installed"),
        ),
    ],
)
def test_a_study_of_an_example_that_is_a_program(name: str, tmp_path: Path) -> None:
    variants, outcome, subject = PROGRAMS[name]
    file = str(ROOT / "ablations" / name / f"{name}.py")
    study = ["ablate", "--ablation", file, "--variants", ",".join(variants), "--seeds", "2"]
    answer = run_forked(tmp_path, "pipeline", *study, "--jobs", "2", **HURRY)
    assert answer.status == 0, answer.err
    (parent,) = runs_in(tmp_path, "study")
    runs = {one.info.run_name: one for one in runs_in(tmp_path) if one is not parent}
    del runs[parent.info.run_name]
    assert set(runs) == {f"{variant}-seed{seed}" for variant in variants for seed in (0, 1)}
    for one in runs.values():
        assert one.info.status == "FINISHED"
        assert one.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert one.data.metrics[outcome] > 0
    files = tmp_path / "mlruns" / "0" / parent.info.run_id / "artifacts"
    (effect,) = json.loads((files / "effects.json").read_text())["effects"]
    by_hand = [
        runs[f"{variants[1]}-seed{seed}"].data.metrics[outcome]
        - runs[f"{variants[0]}-seed{seed}"].data.metrics[outcome]
        for seed in (0, 1)
    ]
    assert effect["difference"] == pytest.approx(sum(by_hand) / 2)
    for text in (answer.out, (files / "report.md").read_text()):
        assert re.search(subject, text)
        assert f"{outcome}, lower is better" in text

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    if name != "boosting":  # which logs no model, but its curve, and may return a metric
        assert not client.search_registered_models()
    if name == "waves":
        assert not [one for one in runs.values() if "kind" not in one.data.tags]
        return
    if name == "adding":
        assert runs["gru-seed0"].data.metrics["parameters"] > 1000
        assert len(client.get_metric_history(runs["gru-seed0"].info.run_id, outcome)) == 10
        return
    assert runs["deep-seed0"].data.params["max_depth"] == "6"  # autolog's
    for variant in variants:
        assert f"models:/boosting@{variant}" in answer.out
        version = client.get_model_version_by_alias("boosting", variant)
        assert version.run_id in {runs[f"{variant}-seed{seed}"].info.run_id for seed in (0, 1)}


@pytest.mark.thorough
@pytest.mark.skipif(not HAS_LIGHTNING, reason="lightning is not installed")
def test_lightnings_logger_is_told_which_run_to_take(tmp_path: Path) -> None:
    for name in ("train.py", "waves.py"):
        code = (ROOT / "ablations" / "waves" / name).read_text()
        (tmp_path / name).write_text(code.replace("run_id=run.info.run_id", ""))
    study = ["ablate", "--ablation", "waves.py", "--variants", "relu,tanh", "--seeds", "1"]
    answer = run_forked(tmp_path, "pipeline", *study, "--jobs", "2")
    assert answer.status == 1
    assert "the program ended well but logged no `test_mse`" in answer.err
    assert "give MLFlowLogger run_id=mlflow.active_run().info.run_id" in answer.err
    assert "in experiment 'lightning_logs'" in answer.err
