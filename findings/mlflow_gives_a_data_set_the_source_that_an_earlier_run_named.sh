#!/bin/sh
# GUESS: A run's data set has the source that the run named: whoever trains on `sales-2026.csv`
#   finds that file in the run, whatever other runs of the experiment were trained on.
# REAL: In an experiment, name and digest are one data set, and its first source stays for all later
#   runs, without a message. The digest doesn't see dates, booleans and arrays, so a run on data of
#   other days is recorded as trained on the first file; and where the data are equal, a run on a
#   corrected copy, or on the same file in another place, still shows the first one, even after that
#   run was deleted. In another experiment the source is right.
# VERSIONS: mlflow 3.17.2, pandas 3.1.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   named sales-2020.csv, recorded sales-2020.csv
#   named sales-2026.csv, recorded sales-2020.csv (other dates)
#   named copy.csv, recorded sales-2020.csv (the same data)
#   named sales-2026.csv, recorded sales-2020.csv (first run deleted)
#   named sales-2026.csv, recorded sales-2026.csv (another experiment)
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import logging
import sys
import warnings

import mlflow
import pandas as pd

warnings.simplefilter("ignore")
logging.disable(logging.INFO)
mlflow.set_tracking_uri("sqlite:///store.db")
other = mlflow.create_experiment("other")
sales = pd.DataFrame({"sold": [1.0, 2.0], "day": pd.to_datetime(["2020-01-01", "2020-01-02"])})
later = sales.assign(day=pd.to_datetime(["2026-01-01", "2026-01-02"]))
seen = []


def log(frame, source, experiment="0", note=""):
    with mlflow.start_run(experiment_id=experiment) as run:
        data = mlflow.data.from_pandas(frame, source=source, name="sales")
        mlflow.log_input(data, context="training")
    (entry,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    recorded = json.loads(entry.dataset.source)["uri"]
    print(f"named {source}, recorded {recorded}{note}")
    seen.append(recorded)
    return run.info.run_id


first = log(sales, "sales-2020.csv")
log(later, "sales-2026.csv", note=" (other dates)")
log(sales, "copy.csv", note=" (the same data)")
mlflow.delete_run(first)
log(later, "sales-2026.csv", note=" (first run deleted)")
log(later, "sales-2026.csv", other, note=" (another experiment)")

expected = 4 * ["sales-2020.csv"] + ["sales-2026.csv"]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
