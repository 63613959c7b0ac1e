#!/bin/sh
# GUESS: `mlflow run project -P depth=3` records depth, entry point, source and user in the run,
#   whether it begins the run or is given one (`--run-id`), and MLFLOW_RUN_ID is the same as
#   `--run-id`, as it is for every other program that logs to MLflow.
# REAL: With `--run-id` nothing of it is recorded: no params, no source, no user, no entry point, only
#   the tag mlflow.project.backend. A comparison by `params.depth` finds no such run, and the page of
#   the run doesn't say what it is of. MLFLOW_RUN_ID is not looked at: `mlflow run` begins a run of
#   its own, with a name of its own, and the given one stays as it was, RUNNING; the exit code is 0.
#   Without `--experiment-id` the program's own further runs go to Default, though the given run is
#   in another experiment.
# VERSIONS: mlflow 3.17.2, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   run of its own    exit 0, params {'depth': '3'}, tags entryPoint, name, type, user, logged there
#   --run-id          exit 0, params {}, tags none, given run FINISHED, logged there, told '0'
#   MLFLOW_RUN_ID     exit 0, params {}, tags none, given run RUNNING, logged elsewhere
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
mkdir project
cat > project/MLproject <<'YAML'
name: theirs
entry_points:
  main:
    parameters:
      depth: float
    command: "python train.py {depth}"
YAML
cat > project/train.py <<'PYTHON'
import os
import sys

import mlflow

mlflow.log_metric("score", float(sys.argv[1]))
mlflow.set_tag("told", os.environ["MLFLOW_EXPERIMENT_ID"])
PYTHON
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import subprocess
import sys

import mlflow

logging.disable(logging.INFO)
store = "sqlite:///" + os.path.abspath("store.db")
mlflow.set_tracking_uri(store)
client = mlflow.MlflowClient()
experiment = client.create_experiment("given")
seen = []


def told(run):
    return run.data.tags.get("told")


def run_project(how, *options, **variables):
    command = ["mlflow", "run", "project", "--env-manager", "local", "-P", "depth=3", *options]
    done = subprocess.run(
        command, env=os.environ | {"MLFLOW_TRACKING_URI": store} | variables, capture_output=True
    )
    newest = client.search_runs(
        [experiment, "0"], "metrics.score = 3", order_by=["attributes.start_time DESC"]
    )
    run = client.get_run(given) if how != "run of its own" else newest[0]
    tags = sorted(
        name.split(".")[-1]
        for name in run.data.tags
        if name.startswith(("mlflow.project.entry", "mlflow.source.", "mlflow.user"))
    )
    there = "score" in run.data.metrics
    seen.append((done.returncode, run.data.params, len(tags), run.info.status, there))
    print(
        f"{how:17} exit {done.returncode}, params {run.data.params},"
        f" tags {', '.join(tags) or 'none'},"
        + (f" given run {run.info.status}," if how != "run of its own" else "")
        + f" logged {'there' if there else 'elsewhere'}"
        + (f", told {told(run)!r}" if how == "--run-id" else "")
    )
    return run


given = None
run_project("run of its own")
given = client.create_run(experiment, run_name="given").info.run_id
to = told(run_project("--run-id", "--run-id", given))
given = client.create_run(experiment, run_name="given").info.run_id
run_project("MLFLOW_RUN_ID", MLFLOW_RUN_ID=given)

expected = [
    (0, {"depth": "3"}, 4, "FINISHED", True),
    (0, {}, 0, "FINISHED", True),
    (0, {}, 0, "RUNNING", False),
]
sys.exit(0 if seen == expected and to == "0" != experiment else "this has changed")
PYTHON
