#!/bin/sh
# GUESS: A parameter that MLflow can hold (up to 6,000 characters) arrives there whole, whoever logs
#   it.
# REAL: Lightning's MLFlowLogger cuts every value after 250 characters, without a warning. Two networks
#   whose layers or prompts differ further on have equal parameters in MLflow: whoever groups runs by
#   that parameter takes them for one. `mlflow.log_param` stores the same value whole.
# VERSIONS: lightning 2.6.6, torch 2.14.1, mlflow 3.17.2, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#   characters given, of Lightning's run, of MLflow's own: 301 250 301
#   two values that differ in the last character are equal: with Lightning True, with MLflow False
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lightning==2.6.6 torch==2.14.1 mlflow==3.17.2
cd "$folder"

"$folder/venv/bin/python" - <<'PYTHON' 2>"$folder/log" || { cat "$folder/log"; exit 1; }
import sys

import mlflow
from lightning.pytorch.loggers import MLFlowLogger

STORE = "sqlite:///runs.db"
mlflow.set_tracking_uri(STORE)
values = ["x" * 300 + last for last in "ab"]
by_lightning, by_mlflow = [], []
for value in values:
    logger = MLFlowLogger("experiment", tracking_uri=STORE)
    logger.log_hyperparams({"layers": value})
    by_lightning.append(mlflow.get_run(logger.run_id).data.params["layers"])
    with mlflow.start_run() as run:
        mlflow.log_param("layers", value)
    by_mlflow.append(mlflow.get_run(run.info.run_id).data.params["layers"])

lengths = [len(one[0]) for one in (values, by_lightning, by_mlflow)]
print("characters given, of Lightning's run, of MLflow's own:", *lengths)
equal = [one[0] == one[1] for one in (by_lightning, by_mlflow)]
print(
    "two values that differ in the last character are equal:"
    f" with Lightning {equal[0]}, with MLflow {equal[1]}"
)
sys.exit(0 if (lengths, equal) == ([301, 250, 301], [True, False]) else "this has changed")
PYTHON
