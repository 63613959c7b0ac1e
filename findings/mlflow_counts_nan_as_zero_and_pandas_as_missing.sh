#!/bin/sh
# GUESS: A NaN never becomes a run's metric where a number was logged at the same step and time: it
#   is no larger than any. A run whose loss is NaN can be told from one that logged no loss, and is
#   found by no filter, since NaN compares to nothing.
# REAL: The store keeps 0 for a NaN, with a mark, and compares the 0: at equal step and time NaN
#   replaces every negative number (a log-likelihood) and loses against positive ones; of NaN and 0
#   the first stays. `!=` is the one filter that finds such runs, `!= 0` too. In the DataFrame of
#   `search_runs` they are the same as runs without the metric, so `dropna` and `mean` lose a run that
#   diverged without a word; in the list of runs the key is there, and its value is NaN.
# VERSIONS: mlflow 3.17.2, pandas 3.1.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   nan with 0.5: run's metric 0.5
#   nan with -3.2: run's metric nan
#   filters that find the run with NaN: ['metrics.loss != 0', 'metrics.loss != 5']
#   in the list: diverged has the key True, without False
#   in pandas:   diverged nan, without nan
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import math
import sys

import mlflow

logging.disable(logging.INFO)
mlflow.set_tracking_uri("sqlite:///store.db")
client = mlflow.MlflowClient()

kept = []
for number in (0.5, -3.2):
    run = client.create_run("0", run_name="both").info.run_id
    for value in (number, math.nan):
        client.log_metric(run, "value", value, step=1, timestamp=1000)
    kept.append(client.get_run(run).data.metrics["value"])
    print(f"nan with {number}: run's metric {kept[-1]}")

experiment = client.create_experiment("losses")
for name, loss in (("diverged", math.nan), ("fine", 0.5), ("without", None)):
    run = client.create_run(experiment, run_name=name).info.run_id
    if loss is not None:
        client.log_metric(run, "loss", loss, step=1)
comparisons = ("= 0", "!= 0", "!= 5", "< 1", "> -1", ">= 0", "<= 0")
filters = [f"metrics.loss {comparison}" for comparison in comparisons]
found = [
    text
    for text in filters
    if "diverged" in [run.info.run_name for run in client.search_runs([experiment], text)]
]
print("filters that find the run with NaN:", found)
listed = {run.info.run_name: "loss" in run.data.metrics for run in client.search_runs([experiment])}
print(f"in the list: diverged has the key {listed['diverged']}, without {listed['without']}")
frame = mlflow.search_runs([experiment]).set_index("tags.mlflow.runName")["metrics.loss"]
print(f"in pandas:   diverged {frame['diverged']}, without {frame['without']}")

sys.exit(
    0
    if kept[0] == 0.5
    and all(map(math.isnan, [kept[1], frame["diverged"], frame["without"]]))
    and found == ["metrics.loss != 0", "metrics.loss != 5"]
    and listed == {"diverged": True, "fine": True, "without": False}
    else "this has changed"
)
PYTHON
