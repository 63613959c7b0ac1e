"""The examples are ablations like the tutorial's, with their own words, models and safety."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run, run_killed, runs_in

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
