#!/bin/sh
# GUESS: `log_model` in a run creates a logged model and uploads its files: about as many requests
#   as there are files, whatever else the run has logged. To link the run's last metrics to the
#   model, the server knows them.
# REAL: It asks for the whole history of each metric of the run, by one request for each, and throws
#   away all but the values of the model's step (0 unless `step` is given). A run with 40 metrics
#   takes 40 more requests, and the answers grow with its length; samples of the system count, too.
#   `MlflowClient.create_logged_model`, `save_model`, `log_outputs`, `log_model_artifacts` and
#   `finalize_logged_model` do the same without it.
# VERSIONS: mlflow 3.17.2, scikit-learn 1.9.1, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN: (to log the same model)
#   1 metrics, 10 values each: 15 requests, 1 of them for histories, which returned 10 values
#   40 metrics, 10 values each: 54 requests, 40 of them for histories, which returned 400 values
#   40 metrics, 1000 values each: 54 requests, 40 of them for histories, which returned 40000 values
set -eu

folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server"; fi; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
port=$("$folder/venv/bin/python" -c 'import socket
with socket.create_server(("127.0.0.1", 0)) as one:
    print(one.getsockname()[1])')
"$folder/venv/bin/mlflow" server --port "$port" --workers 1 > server.log 2>&1 &
server=$!

PORT=$port "$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import sys
import time
import warnings

import mlflow
import requests
from mlflow.entities import Metric
from sklearn.linear_model import LinearRegression

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
address = f"http://127.0.0.1:{os.environ['PORT']}"
mlflow.set_tracking_uri(address)
for _ in range(120):
    try:
        requests.get(address + "/health", timeout=5)
        break
    except requests.ConnectionError:
        time.sleep(1)

send, answers = requests.Session.send, []


def count(session, request, **settings):
    answer = send(session, request, **settings)
    answers.append((request.url, answer))
    return answer


requests.Session.send = count
model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
client, seen = mlflow.MlflowClient(), []
mlflow.sklearn.save_model(model, "once")  # what is asked only once
for names, length in ((1, 10), (40, 10), (40, 1000)):
    with mlflow.start_run() as run:
        for name in range(names):
            points = [Metric(f"metric{name}", n / 7, n, n) for n in range(length)]
            client.log_batch(run.info.run_id, metrics=points)
        answers.clear()
        mlflow.sklearn.log_model(model, name="model", serialization_format="skops")
    read = [one.json() for url, one in answers if "get-history" in url]
    values = sum(len(one["metrics"]) for one in read)
    seen.append((len(answers), len(read), values))
    print(
        f"{names} metrics, {length} values each: {len(answers)} requests, {len(read)} of them for"
        f" histories, which returned {values} values"
    )
histories = [(reads, values) for _, reads, values in seen]
sys.exit(0 if histories == [(1, 10), (40, 400), (40, 40_000)] else "this has changed")
PYTHON
