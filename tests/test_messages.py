"""What is printed fits: where the runs are, and advice that helps."""

from collections.abc import Callable

import mlflow
import pytest
from conftest import Answer

from pipeline import store

TINY = ["--dataset", "synthetic", "--train-images", "300", "--epochs", "1"]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "MLFLOW_EXPERIMENT_ID",
            "99",
            "is '99', but there are only: 0 (Default)",
        ),
        ("MLFLOW_EXPERIMENT_ID", "gone", "the experiment 'old' is deleted"),
        ("MLFLOW_EXPERIMENT_NAME", "old", "mlflow experiments restore --experiment-id"),
    ],
)
def test_an_experiment_that_takes_no_runs_is_named_with_what_helps(
    variable: str,
    value: str,
    told: str,
    pipeline: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deleted = mlflow.create_experiment("old")
    mlflow.delete_experiment(deleted)
    monkeypatch.setenv(variable, deleted if value == "gone" else value)
    answer = pipeline("train", *TINY)
    assert answer.status == 2
    (line,) = answer.error_lines
    assert told in line
    assert "MLFLOW_TRACKING_URI" not in line
    monkeypatch.delenv(variable)
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_compare_says_that_an_experiment_is_deleted(pipeline: Callable[..., Answer]) -> None:
    deleted = mlflow.create_experiment("old")
    mlflow.delete_experiment(deleted)
    answer = pipeline("compare", "--experiment", "old")
    assert answer.status == 2
    assert answer.error_lines == [
        "error: the experiment 'old' is deleted; name another one, or restore it by: mlflow"
        f" experiments restore --experiment-id {deleted}"
    ]


def test_the_right_way_to_see_the_runs_is_told_for_every_kind_of_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return store.where_to_look("0123")

    assert told("sqlite:///mlflow.db") == "make ui (or mlflow ui), then http://127.0.0.1:5000"
    elsewhere = told("sqlite:////tmp/my runs.db")
    assert elsewhere.startswith("mlflow ui --backend-store-uri 'sqlite:////tmp/my runs.db',")
    hidden = told("postgresql://me:secret@host/runs")
    assert hidden.startswith('mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI",')


def test_advice_is_given_only_where_it_fits() -> None:
    assert store.WRITABLE in str(store.as_store_error(PermissionError(13, "Permission denied")))
    forbidden = "API request to endpoint /x failed with error code 403 != 200"
    error = mlflow.exceptions.MlflowException(forbidden)
    assert "MLFLOW_TRACKING_PASSWORD" in str(store.as_store_error(error))
    unknown = str(store.as_store_error(mlflow.exceptions.MlflowException("it is Monday")))
    assert unknown.endswith("can't be used (it is Monday)")
