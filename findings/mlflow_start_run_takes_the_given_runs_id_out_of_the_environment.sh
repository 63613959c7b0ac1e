#!/bin/sh
# GUESS: A program that was started with MLFLOW_RUN_ID finds it in its environment for as long as it
#   runs: `MLFlowLogger(run_id=os.environ["MLFLOW_RUN_ID"])`, the usual advice for Lightning, works
#   inside `with mlflow.start_run():` too, and what the program starts itself (torchrun, a script for
#   each fold, joblib's workers) logs to the same run, since children inherit the environment.
# REAL: `start_run` deletes the variable. Inside it the line for Lightning is a KeyError, and with
#   `.get` None, which makes a run of its own. Children that start before `start_run` log to the given
#   run, those that start inside it each to a new one, without a parent, with exit code 0. Use
#   `mlflow.active_run().info.run_id`, and hand it on to children.
# VERSIONS: mlflow 3.17.2, joblib 1.6.0, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   before start_run     variable set    child's metric in the given run
#   inside start_run     variable None   child's metric in another run, parent None
#   handed on            variable None   child's metric in the given run
#   two joblib workers   variable None   child's metric in another run, parent None (2 runs)
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 joblib==1.6.0

cd "$folder"
cat > program.py <<'PYTHON'
import os
import subprocess
import sys

import joblib
import mlflow


def child(**more):
    code = "import mlflow; mlflow.log_metric('score', 1)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | more)


how = sys.argv[1]
if how == "before start_run":
    print("set" if "MLFLOW_RUN_ID" in os.environ else None)
    child()
with mlflow.start_run() as run:
    if how != "before start_run":
        print(os.environ.get("MLFLOW_RUN_ID"))
    if how == "inside start_run":
        child()
    elif how == "handed on":
        child(MLFLOW_RUN_ID=run.info.run_id)
    elif how == "two joblib workers":
        log = joblib.delayed(mlflow.log_metric)
        joblib.Parallel(n_jobs=2)(log("score", value) for value in (1, 2))
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
seen = []
for how in ("before start_run", "inside start_run", "handed on", "two joblib workers"):
    known = {run.info.run_id for run in client.search_runs(["0"])}
    given = client.create_run("0", run_name="given").info.run_id
    environment = {"MLFLOW_TRACKING_URI": store, "MLFLOW_RUN_ID": given}
    program = subprocess.run(
        [sys.executable, "program.py", how],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    variable = program.stdout.strip()
    holders = [
        run
        for run in client.search_runs(["0"])
        if run.info.run_id not in known and "score" in run.data.metrics
    ]
    where = {
        "in the given run"
        if run.info.run_id == given
        else f"in another run, parent {run.data.tags.get('mlflow.parentRunId')}"
        for run in holders
    }
    where = " and ".join(sorted(where)) + (f" ({len(holders)} runs)" if len(holders) > 1 else "")
    print(f"{how:20} variable {variable:6} child's metric {where}")
    seen.append((variable, where))

other = "in another run, parent None"
expected = [
    ("set", "in the given run"),
    ("None", other),
    ("None", "in the given run"),
    ("None", f"{other} (2 runs)"),
]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
