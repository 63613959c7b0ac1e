#!/bin/sh
# GUESS: `n_jobs` of `cross_val_score` changes how long it takes, not what autolog logs of it:
#   three folds are three fits, each with params, training metrics and its score, however many
#   processes compute them (as for GridSearchCV, whose runs are the same for any n_jobs).
# REAL: With n_jobs=2 nothing at all is logged, without a warning: the fits happen in processes in
#   which autolog is off. A run that was given by MLFLOW_RUN_ID stays RUNNING and empty, and inside
#   `start_run` it is FINISHED and empty. With one job there are three runs, unlinked, the first of
#   them the given one. `n_jobs=None` is one job or, inside `parallel_config(n_jobs=2)`, two.
# VERSIONS: mlflow 3.17.2, scikit-learn 1.9.1, joblib 1.6.0, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   one job                      given run FINISHED, 6 metrics; 2 more runs
#   two jobs                     given run RUNNING, 0 metrics; 0 more runs
#   two jobs inside start_run    given run FINISHED, 0 metrics; 0 more runs
#   None in parallel_config      given run RUNNING, 0 metrics; 0 more runs
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow==3.17.2 scikit-learn==1.9.1 joblib==1.6.0

cd "$folder"
cat > train.py <<'PYTHON'
import sys

import joblib
import mlflow
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

words = sys.argv[1]
mlflow.sklearn.autolog(log_models=False, log_datasets=False)
X = np.arange(30.0).reshape(-1, 1)
y = np.sin(X[:, 0])
jobs = None if "None" in words else 1 + ("two" in words)
if "start_run" in words:
    mlflow.start_run()
with joblib.parallel_config(n_jobs=2 if jobs is None else 1):
    assert len(cross_val_score(Ridge(), X, y, cv=3, n_jobs=jobs)) == 3
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
for words in ("one job", "two jobs", "two jobs inside start_run", "None in parallel_config"):
    known = len(client.search_runs(["0"]))
    given = client.create_run("0", run_name="given").info.run_id
    environment = {"MLFLOW_TRACKING_URI": store, "MLFLOW_RUN_ID": given}
    subprocess.run(
        [sys.executable, "train.py", words],
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    run = client.get_run(given)
    more = len(client.search_runs(["0"])) - known - 1
    seen.append((run.info.status, len(run.data.metrics), more))
    print(
        f"{words:28} given run {run.info.status}, {len(run.data.metrics)} metrics; {more} more runs"
    )

nothing = ("RUNNING", 0, 0)
expected = [("FINISHED", 6, 2), nothing, ("FINISHED", 0, 0), nothing]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
