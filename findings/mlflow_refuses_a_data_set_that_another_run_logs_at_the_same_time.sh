#!/bin/sh
# GUESS: Runs of one experiment that start together and log the same data set (the folds of a sweep,
#   the children of a grid search) may do so: the second finds the data set there and links to it,
#   as it does a second later. At worst the database is waited for.
# REAL: Whoever is second in the same moment gets `UNIQUE constraint failed: datasets.experiment_id,
#   datasets.name, datasets.digest`, once for each new data set and experiment, and the program that
#   said `log_input` ends there. Autolog swallows it: GridSearchCV, which logs its children at the
#   same time, now and then leaves its run FAILED though the program exits 0 and all is logged.
#   Logging the data once, before the runs start, avoids it.
# VERSIONS: mlflow 3.17.2, SQLAlchemy 2.1.9, SQLite 3.40.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN: (the counts differ from one time to the next)
#   one after another: 0 of 40 refused
#   four at a time:    17 of 40 refused, in 10 rounds with a new data set each
#   four at a time, data set logged before: 0 of 40 refused
#   (sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name, …
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 sqlalchemy==2.1.9

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
from mlflow.entities import DatasetInput, InputTag

logging.disable(logging.WARNING)
mlflow.set_tracking_uri("sqlite:///store.db")
client = mlflow.MlflowClient()
messages = []


def refused(workers, data, before=False):
    made = mlflow.data.from_numpy(np.array(data), name="data")
    entry = DatasetInput(made._to_mlflow_entity(), [InputTag("mlflow.data.context", "train")])
    runs = [client.create_run("0", run_name="run").info.run_id for _ in range(4)]
    if before:
        first = client.create_run("0", run_name="before").info.run_id
        client.log_inputs(first, datasets=[entry])
    together = threading.Barrier(workers)

    def log(run):
        together.wait()
        try:
            client.log_inputs(run, datasets=[entry])
        except mlflow.MlflowException as error:
            messages.append(str(error).splitlines()[0])
            return 1
        return 0

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(log, runs))


alone = sum(refused(1, [1, number]) for number in range(10))
print(f"one after another: {alone} of 40 refused")
together = sum(refused(4, [2, number]) for number in range(10))
print(f"four at a time:    {together} of 40 refused, in 10 rounds with a new data set each")
known = sum(refused(4, [3, number], before=True) for number in range(10))
print(f"four at a time, data set logged before: {known} of 40 refused")
print(*sorted({message.replace("datasets.digest", "…") for message in messages}), sep="\n")

unique = all("UNIQUE constraint failed: datasets" in message for message in messages)
sys.exit(0 if together and not alone and not known and unique else "this has changed")
PYTHON
