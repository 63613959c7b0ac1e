"""The variables that this project sets for MLflow, before it is imported, unless the user has."""

VARIABLES = {
    # MLflow's own messages and bars would bury our progress bar.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # We say ourselves, once, where to view a run.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default MLflow tries for four minutes to reach a server, and waits two for an answer;
    # `store.outages.waiting` also waits, but says so, and training continues meanwhile.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # By default MLflow samples CPU and memory every 10 s; a shorter run gets none.
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
}
