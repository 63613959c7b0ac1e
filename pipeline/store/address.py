"""The tracking store's address: its file, how to display it, and where its runs are seen."""

import re
from pathlib import Path

import mlflow
from sqlalchemy.engine import make_url

from pipeline.upstream import is_database, shell_quote

INTERFACE = "http://127.0.0.1:5000"  # where `mlflow ui` listens by default


def shown_uri() -> str:
    """The store's address, without passwords."""
    return without_password(mlflow.get_tracking_uri())


def without_password(text: str) -> str:
    """Replace passwords in a text with `***`: `scheme://user:password@host`, `?password=…`."""
    text = re.sub(r"(://[^/:@\s]*):(?!\d+/)\S+@", r"\1:***@", text)
    return re.sub(r"((?:password|pwd)(?:=|%3D))[^&;%\s]+", r"\1***", text, flags=re.IGNORECASE)


def shell_uri() -> str:
    """The store's address, quoted for a shell and without a password."""
    uri = mlflow.get_tracking_uri()
    return shell_quote(uri) if uri == shown_uri() else '"$MLFLOW_TRACKING_URI"'


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, as SQLAlchemy parses it; None if there is none."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    # SQLite's own URIs (`file:…`) hold more than a path, and `:memory:` is not one.
    return Path(database) if database and not database.startswith(("file:", ":")) else None


def run_page(run_id: str, experiment_id: str | None) -> str:
    """The address of a run's page: on the server, or where `mlflow ui` shows it if that runs."""
    uri = mlflow.get_tracking_uri()
    # Without user and password.
    server = re.sub("//[^/]*@", "//", uri).rstrip("/") if uri.startswith("http") else INTERFACE
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}"


def where_to_look(run_id: str, experiment_id: str) -> str:
    """Where to view a run: its page on the server, or the command that opens MLflow's UI."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return run_page(run_id, experiment_id)
    if not is_database(uri):
        return shown_uri()
    database = sqlite_file(uri)
    if database and database.resolve() == Path("mlflow.db").resolve():
        command = "make ui" if Path(".venv/installed").exists() else "mlflow ui"
    else:
        command = f"mlflow ui --backend-store-uri {shell_uri()}"
    return f"{command} and open {INTERFACE}"
