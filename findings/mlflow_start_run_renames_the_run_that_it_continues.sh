#!/bin/sh
# GUESS: `mlflow.start_run(run_name=…)` on a run that exists, named by `run_id` or by the variable
#   MLFLOW_RUN_ID (as in every program that `mlflow run` starts), leaves the run's name alone: the
#   documentation says that run_name is used only without run_id, and that the other parameters are
#   ignored. parent_run_id, which nests the run under a sweep's, would rather be heeded.
# REAL: The other way round. The run is renamed: a name that was typed for `mlflow run --run-name`,
#   or by a person in the interface, is lost without a message. Its parent is ignored: a run that is
#   continued under a sweep stays outside. description and tags replace the earlier ones, as
#   documented; an experiment_id of another experiment, or of none, is ignored.
# VERSIONS: mlflow 3.17.2, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   by run_id: name 'by the program', description 'new', parent None, experiment 0
#   by MLFLOW_RUN_ID: name 'by the program', description 'new', parent None, experiment 0
#   without run_name: name 'by a person', description 'new', parent None, experiment 0
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import sys

import mlflow

logging.disable(logging.INFO)
mlflow.set_tracking_uri("sqlite:///store.db")
client = mlflow.MlflowClient()


def continued(how, **arguments):
    parent = client.create_run("0", run_name="sweep")
    run = client.create_run("0", run_name="by a person", tags={"mlflow.note.content": "old"})
    if how == "by MLFLOW_RUN_ID":
        os.environ["MLFLOW_RUN_ID"] = run.info.run_id
    else:
        arguments["run_id"] = run.info.run_id
    with mlflow.start_run(
        parent_run_id=parent.info.run_id, experiment_id="7", description="new", **arguments
    ):
        pass
    run = client.get_run(run.info.run_id)
    note, above = (run.data.tags.get(f"mlflow.{name}") for name in ("note.content", "parentRunId"))
    print(
        f"{how}: name {run.info.run_name!r}, description {note!r}, parent {above},"
        f" experiment {run.info.experiment_id}"
    )
    return run.info.run_name, note, above, run.info.experiment_id


renamed = ("by the program", "new", None, "0")
seen = [
    continued("by run_id", run_name="by the program"),
    continued("by MLFLOW_RUN_ID", run_name="by the program"),
    continued("without run_name"),
]
sys.exit(0 if seen == [renamed, renamed, ("by a person", *renamed[1:])] else "this has changed")
PYTHON
