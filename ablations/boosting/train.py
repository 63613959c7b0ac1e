"""Fit gradient boosting to scikit-learn's diabetes data, and log what comes of it to MLflow.

A script as people have it: `python train.py --depth 3` runs by itself, too. The seed decides which
patients are held out, so that the spread over seeds is also that of the test data.
"""

import argparse

import mlflow
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--depth", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()

mlflow.sklearn.autolog()  # parameters, training metrics, and the model
with mlflow.start_run():  # around the whole: the fit would end a run that autolog has begun
    data = load_diabetes(return_X_y=True)
    x, x_test, y, y_test = train_test_split(*data, test_size=0.25, random_state=asked.seed)
    model = GradientBoostingRegressor(max_depth=asked.depth, random_state=asked.seed).fit(x, y)
    mlflow.log_metric("test_rmse", root_mean_squared_error(y_test, model.predict(x_test)))
