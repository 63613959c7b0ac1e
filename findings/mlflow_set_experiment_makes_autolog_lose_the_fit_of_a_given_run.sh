#!/bin/sh
# GUESS: A script that says `mlflow.set_experiment("mine")` and turns autolog on, as most do, can be
#   started by somebody else with MLFLOW_RUN_ID: it joins that run, or, since the run is in another
#   experiment, begins one of its own in "mine", or stops with an error.
# REAL: None of these. `start_run` raises "active experiment ID does not match environment run ID",
#   autolog swallows that, and the fit is logged nowhere: exit code 0, the given run stays RUNNING and
#   empty. The variable is gone after that, so whatever comes next (a metric, a second fit) begins a
#   run in "mine": it has the score of a model that no run knows. Without autolog the program stops at
#   the error. `with mlflow.start_run():` before `set_experiment` is right.
# VERSIONS: mlflow 3.17.2, scikit-learn 1.9.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   fit:                        exit 0, given run RUNNING, 0 params, []; in "mine" 0 runs
#   fit, score:                 exit 0, given run RUNNING, 0 params, []; in "mine" 1 runs, ['test_r2']
#   in start_run: fit, score:   exit 0, given run FINISHED, 8 params, ['test_r2']; in "mine" 0 runs
#   no autolog: score:          exit 1, given run RUNNING, 0 params, []; in "mine" 0 runs
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 scikit-learn==1.9.1

cd "$folder"
cat > train.py <<'PYTHON'
import sys

import mlflow
from sklearn.linear_model import Ridge

words = sys.argv[1]
if "start_run" in words:
    mlflow.start_run()
mlflow.set_experiment("mine")
if "no autolog" not in words:
    mlflow.sklearn.autolog(log_models=False, log_datasets=False)
model = Ridge().fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.5])
if "score" in words:
    mlflow.log_metric("test_r2", 0.9)
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import subprocess
import sys

import mlflow

logging.disable(logging.INFO)
store = "sqlite:///store.db"
mlflow.set_tracking_uri(store)
client = mlflow.MlflowClient()
mine = client.create_experiment("mine")
seen = []
for words in ("fit", "fit, score", "in start_run: fit, score", "no autolog: score"):
    known = {run.info.run_id for run in client.search_runs([mine])}
    given = client.create_run("0", run_name="given").info.run_id
    environment = {"MLFLOW_TRACKING_URI": store, "MLFLOW_RUN_ID": given, "MLFLOW_EXPERIMENT_ID": "0"}
    program = subprocess.run(
        [sys.executable, "train.py", words], env=os.environ | environment, capture_output=True
    )
    run = client.get_run(given)
    metrics = [name for name in run.data.metrics if not name.startswith("training_")]
    strays = [run for run in client.search_runs([mine]) if run.info.run_id not in known]
    names = [name for stray in strays for name in stray.data.metrics]
    seen.append(
        (program.returncode, run.info.status, len(run.data.params) > 0, metrics, len(strays), names)
    )
    print(
        f"{words + ':':27} exit {program.returncode}, given run {run.info.status},"
        f" {len(run.data.params)} params, {metrics}; in \"mine\" {len(strays)} runs"
        + (f", {names}" if names else "")
    )

expected = [
    (0, "RUNNING", False, [], 0, []),
    (0, "RUNNING", False, [], 1, ["test_r2"]),
    (0, "FINISHED", True, ["test_r2"], 0, []),
    (1, "RUNNING", False, [], 0, []),
]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
