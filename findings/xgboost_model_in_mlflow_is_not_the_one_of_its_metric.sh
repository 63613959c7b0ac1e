#!/bin/sh
# GUESS: After `xgboost.train` with early stopping, autolog's model is the one of the run's metric:
#   MLflow writes the best round's value as last point, as it does for LightGBM, and says in which
#   round that was. Whoever registers the run with the best `valid-rmse` gets a model of that error.
# REAL: That holds for LightGBM and for XGBRegressor. A Booster keeps the rounds after the best one,
#   and `predict` uses them, in memory and when loaded from MLflow: the model is worse than the metric
#   of its run, and of its own page, says. A comparison of the two libraries by this metric shows
#   what XGBoost's model doesn't have. And `best_iteration` counts from 0 in XGBoost, from 1 in
#   LightGBM. Right is `booster[: booster.best_iteration + 1]`, logged by oneself.
# VERSIONS: mlflow 3.17.2, xgboost 3.2.0, lightgbm 4.7.0, scikit-learn 1.9.1, Python 3.11.7
# DATE: 2026-11-30
# OUTPUT SEEN:
#                   metric     loaded model   best_iteration   at step
#   xgboost.train   60.7499    64.9425        1                1
#   XGBRegressor    60.7499    60.7499        1                1
#   lightgbm.train  57.6829    57.6829        3                2
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow==3.17.2 xgboost==3.2.0 lightgbm==4.7.0 scikit-learn==1.9.1

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import lightgbm
import mlflow
import numpy as np
import xgboost
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
mlflow.set_tracking_uri("sqlite:///store.db")
mlflow.xgboost.autolog()
mlflow.lightgbm.autolog()
X, X_test, y, y_test = train_test_split(*load_diabetes(return_X_y=True), random_state=0)
seen = []


def train_xgboost():
    data, test = xgboost.DMatrix(X, y), xgboost.DMatrix(X_test, y_test)
    options = {"evals": [(test, "valid")], "early_stopping_rounds": 3, "verbose_eval": False}
    xgboost.train({"eta": 0.5}, data, 40, **options)


def train_estimator():
    model = xgboost.XGBRegressor(n_estimators=40, learning_rate=0.5, early_stopping_rounds=3)
    model.fit(X, y, eval_set=[(X_test, y_test)], verbose=False)


def train_lightgbm():
    data, test = lightgbm.Dataset(X, y), lightgbm.Dataset(X_test, y_test)
    stop = lightgbm.early_stopping(3, verbose=False)
    settings = {"learning_rate": 0.5, "metric": "rmse", "verbose": -1}
    lightgbm.train(settings, data, 40, valid_sets=[test], callbacks=[stop])


print("                metric     loaded model   best_iteration   at step")
for name, metric, train in (
    ("xgboost.train", "valid-rmse", train_xgboost),
    ("XGBRegressor", "validation_0-rmse", train_estimator),
    ("lightgbm.train", "valid_0-rmse", train_lightgbm),
):
    with mlflow.start_run() as run:
        train()
    run = mlflow.get_run(run.info.run_id)
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    error = float(np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2)))
    value = run.data.metrics[metric]
    best = int(run.data.metrics["best_iteration"])
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    step = min(history, key=lambda point: (point.value, point.step)).step
    print(f"{name:15} {value:.4f}    {error:.4f}        {best}                {step}")
    seen.append((abs(error - value) < 0.001, best - step))

expected = [(False, 0), (True, 0), (True, 1)]
sys.exit(0 if seen == expected else "this has changed")
PYTHON
