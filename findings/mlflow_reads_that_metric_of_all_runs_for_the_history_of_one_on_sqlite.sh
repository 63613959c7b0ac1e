#!/bin/sh
# GUESS: `get_metric_history` of one run reads that run's points: the table of metrics has an index
#   on run, key and step, made for this. What other experiments of the database hold costs nothing,
#   and to read the histories of twice as many runs takes twice as long.
# REAL: SQLite has no statistics of MLflow's tables, and takes the primary key, which begins with the
#   metric's name: for each history it reads the points of that name of all runs in the database.
#   Reading the histories of all runs is quadratic (1,200 runs of 100 points: 37 s, where the last
#   values take 0.4 s), also through a server that keeps its runs in SQLite. After `ANALYZE` the
#   index is taken (3 s). A copy of the file will do for that, so others' data stays as it is.
# VERSIONS: mlflow 3.17.2, SQLite 3.40.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN: (thousands of instructions of SQLite's machine for one history of 100 points)
#   alone in the database                                  4
#   and 50 runs with other metrics elsewhere               4
#   and 50 runs with that metric in another experiment   104
#   after ANALYZE                                          2
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sqlite3
import sys

import mlflow
from mlflow.entities import Metric
from sqlalchemy import Engine, event

logging.disable(logging.INFO)
instructions = 0


@event.listens_for(Engine, "connect")
def count_instructions(connection, _):
    def hundred_more():
        global instructions
        instructions += 100

    connection.set_progress_handler(hundred_more, 100)


mlflow.set_tracking_uri("sqlite:///store.db")
client = mlflow.MlflowClient()
elsewhere = client.create_experiment("of others")


def log(experiment, metric, points):
    run = client.create_run(experiment, run_name="run").info.run_id
    client.log_batch(run, metrics=[Metric(metric, step / 7, step, step) for step in range(points)])
    return run


seen = []


def read(when):
    global instructions
    client.get_metric_history(mine, "loss")
    instructions = 0
    assert len(client.get_metric_history(mine, "loss")) == 100
    seen.append(instructions)
    print(f"{when:52} {instructions / 1000:5.0f}")


mine = log("0", "loss", 100)
read("alone in the database")
for _ in range(50):
    log(elsewhere, "accuracy", 500)
read("and 50 runs with other metrics elsewhere")
for _ in range(50):
    log(elsewhere, "loss", 500)
read("and 50 runs with that metric in another experiment")
with sqlite3.connect("store.db") as connection:
    connection.execute("ANALYZE")
connection.close()
mlflow.set_tracking_uri("sqlite:///./store.db")  # opened anew
client = mlflow.MlflowClient()
read("after ANALYZE")

alone, others, same, analyzed = seen
sys.exit(0 if max(others, analyzed) < 2 * alone and same > 10 * alone else "this has changed")
PYTHON
