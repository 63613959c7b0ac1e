#!/bin/sh
# GUESS: MLFLOW_ENABLE_ASYNC_LOGGING=false makes every call wait until it is stored, so nothing is
#   lost when a program ends. And what is asynchronous is flushed at the end: MLflow ends a run that
#   began by itself, and says FINISHED.
# REAL: The variable is only the default (and false is its default): `synchronous=False`, which
#   Transformers' callback passes on every call, stays asynchronous. If nobody ends the run, the calls
#   that still wait at the end of the program are dropped ("cannot schedule new futures after
#   interpreter shutdown"), the run is FINISHED, the exit code 0: `trainer.evaluate()` as last line
#   loses the test loss. `with mlflow.start_run():`, `end_run()` or `flush_async_logging()` keep all.
# VERSIONS: mlflow 3.17.2, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN: (how many of the steps arrive differs from one time to the next)
#   asynchronous                 exit 0, run FINISHED, 36 of 50 steps, test_loss lost
#   asynchronous, start_run      exit 0, run FINISHED, 45 of 50 steps, test_loss lost
#   asynchronous, end_run        exit 0, run FINISHED, 50 of 50 steps, test_loss kept
#   asynchronous, flush          exit 0, run FINISHED, 50 of 50 steps, test_loss kept
#   synchronous                  exit 0, run FINISHED, 50 of 50 steps, test_loss kept
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
cat > program.py <<'PYTHON'
import sys

import mlflow

words = sys.argv[1]
synchronous = False if "asynchronous" in words else None
if "start_run" in words:
    mlflow.start_run()
for step in range(50):
    mlflow.log_metrics({"loss": 1 / (1 + step)}, step=step, synchronous=synchronous)
mlflow.log_metrics({"test_loss": 0.25}, synchronous=synchronous)
if "flush" in words:
    mlflow.flush_async_logging()
if "end_run" in words:
    mlflow.end_run()
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
ways = ("asynchronous", *(f"asynchronous, {way}" for way in ("start_run", "end_run", "flush")))
for words in (*ways, "synchronous"):
    given = client.create_run("0", run_name="given").info.run_id
    environment = {
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_RUN_ID": given,
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    }
    program = subprocess.run(
        [sys.executable, "program.py", words], env=os.environ | environment, capture_output=True
    )
    run = client.get_run(given)
    steps = len(client.get_metric_history(given, "loss"))
    kept = "test_loss" in run.data.metrics
    seen.append((program.returncode, run.info.status, steps == 50 and kept))
    print(
        f"{words:28} exit {program.returncode}, run {run.info.status}, {steps} of 50 steps,"
        f" test_loss {'kept' if kept else 'lost'}"
    )

expected = 2 * [(0, "FINISHED", False)] + 3 * [(0, "FINISHED", True)]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
