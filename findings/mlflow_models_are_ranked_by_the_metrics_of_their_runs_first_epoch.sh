#!/bin/sh
# GUESS: A model that is logged at the end of a run has the metrics that the run has then. So MLflow's
#   page of models and `search_logged_models(order_by=...)` find the best one.
# REAL: `log_model` copies the metrics of one step, and that is 0 unless `step=` is given. A run that
#   logs once per epoch, from step 0, gives its model the metrics of its first epoch; one that counts
#   from 1 gives it none at all. Of two runs the search finds the model that began best and ended
#   worst, without a word. `step=` with the last epoch's number is right. To find the values of that
#   step, `log_model` reads the whole history of every metric.
# VERSIONS: mlflow 3.17.2, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#   runs end with:             {'slow start': 0.9, 'fast start': 0.5}
#   default step, from 0:      {'slow start': 0.1, 'fast start': 0.3}, best model: fast start
#   default step, from 1:      {'slow start': None, 'fast start': None}, best model: none
#   step of the last epoch:    {'slow start': 0.9, 'fast start': 0.5}, best model: slow start
#   points read for each model: 10
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import mlflow
from mlflow import MlflowClient

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
mlflow.set_tracking_uri("sqlite:///store.db")
CURVES = {"slow start": [0.1, 0.4, 0.7, 0.8, 0.9], "fast start": [0.3, 0.4, 0.45, 0.5, 0.5]}
read = [0]
get_history = MlflowClient.get_metric_history


def counted(client, run_id, key, *others):
    found = get_history(client, run_id, key, *others)
    read[0] += len(found)
    return found


MlflowClient.get_metric_history = counted


class Same(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return model_input


def log(experiment: str, first_step: int, **settings) -> tuple[dict, str]:
    place = mlflow.create_experiment(experiment)
    found = {}
    for name, curve in CURVES.items():
        with mlflow.start_run(experiment_id=place, run_name=name):
            for step, accuracy in enumerate(curve, first_step):
                mlflow.log_metrics({"accuracy": accuracy, "lr": 0.1}, step=step)
            model = mlflow.pyfunc.log_model(
                name=name.replace(" ", "-"), python_model=Same(), pip_requirements=[], **settings
            )
        known = mlflow.get_logged_model(model.model_id).metrics or []
        found[name] = next((one.value for one in known if one.key == "accuracy"), None)
    ranked = mlflow.search_logged_models(
        [place],
        filter_string="metrics.accuracy > 0",
        order_by=[{"field_name": "metrics.accuracy", "ascending": False}],
        output_format="list",
    )
    return found, ranked[0].name.replace("-", " ") if ranked else "none"


ends = {name: curve[-1] for name, curve in CURVES.items()}
print(f"{'runs end with:':26} {ends}")
seen = [log("from 0", 0), log("from 1", 1), log("last", 1, step=5)]
words = ("default step, from 0:", "default step, from 1:", "step of the last epoch:")
for word, (found, best) in zip(words, seen, strict=True):
    print(f"{word:26} {found}, best model: {best}")
print(f"points read for each model: {read[0] // 6}")

expected = [
    ({"slow start": 0.1, "fast start": 0.3}, "fast start"),
    ({"slow start": None, "fast start": None}, "none"),
    (ends, "slow start"),
]
sys.exit(0 if seen == expected and read[0] == 60 else "this has changed")
PYTHON
