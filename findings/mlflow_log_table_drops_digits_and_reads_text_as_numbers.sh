#!/bin/sh
# GUESS: `mlflow.load_table` gives back the DataFrame that `mlflow.log_table` was given. It is JSON,
#   so the types of numbers and dates may change; the values don't, and a text stays a text.
# REAL: The file holds ten decimal places, so 1/3 loses half its digits, and a p value of 1e-12 is 0.
#   (`log_dict` of the same numbers keeps them all.) Reading turns a column of texts that could be
#   numbers into numbers: a postcode 01067 is 1067, a commit 5e64 is 5e+64, another one, 12e4567, is
#   infinite, and 1.10 stays 1.10 only if some other row can't be a number. A text column called
#   `date` or `modified`, or whose name ends in _at or _time, is read as dates. No warning.
# VERSIONS: mlflow-skinny 3.17.2, pandas 3.1.1, SQLAlchemy 2.1.9, alembic 1.20.1, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   third     [0.3333333333333333, 0.6666666666666666]     0.33333333330000003, 0.6666666667000001
#   p         [1e-12, 0.5]                                 0.0, 0.5
#   postcode  ['01067', '99310']                           1067, 99310
#   commit    ['5e64', '12e4567']                          5e+64, inf
#   made_at   ['2026-11-29', '2026-11-30']                 2026-11-29 00:00:00, 2026-11-30 00:00:00
#   version   ['1.9', '1.10']                              1.9, 1.1
#   other     ['1.10', '1.10rc1']                          1.10, 1.10rc1
#   by log_dict: 0.3333333333333333 1e-12
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow-skinny==3.17.2 pandas==3.1.1 sqlalchemy==2.1.9 alembic==1.20.1

cd "$folder"
unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys

import mlflow
import pandas as pd

logging.disable(logging.INFO)
mlflow.set_tracking_uri("sqlite:///store.db")

given = {
    "third": [1 / 3, 2 / 3],
    "p": [1e-12, 0.5],
    "postcode": ["01067", "99310"],
    "commit": ["5e64", "12e4567"],
    "made_at": ["2026-11-29", "2026-11-30"],
    "version": ["1.9", "1.10"],
    "other": ["1.10", "1.10rc1"],
}
with mlflow.start_run() as run:
    mlflow.log_table(pd.DataFrame(given), "table.json")
    mlflow.log_dict({"third": given["third"], "p": given["p"]}, "numbers.json")
read = mlflow.load_table("table.json", run_ids=[run.info.run_id])
back = {name: [str(one) for one in read[name]] for name in given}
for name, values in given.items():
    print(f"{name:9} {str(values):44} {', '.join(back[name])}")
numbers = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/numbers.json")
print("by log_dict:", numbers["third"][0], numbers["p"][0])

lost = back["p"][0] == "0.0" and read["third"][0] != 1 / 3
turned = back["postcode"][0] == "1067" and back["commit"] == ["5e+64", "inf"]
dated = read["made_at"].dtype.kind == "M" and back["version"] == ["1.9", "1.1"]
kept = back["other"] == given["other"] and numbers == {k: given[k] for k in ("third", "p")}
sys.exit(0 if lost and turned and dated and kept else "this has changed")
PYTHON
