"""The tracking store's address: its file, and how to display it."""

import re
from pathlib import Path

import mlflow
from sqlalchemy.engine import make_url

from pipeline.upstream import local_path, shell_quote


def shown_uri() -> str:
    """The store's address, without passwords."""
    return without_password(mlflow.get_tracking_uri())


def is_server() -> bool:
    """Whether the store is a tracking server."""
    return mlflow.get_tracking_uri().startswith("http")


def without_password(text: str) -> str:
    """Replace passwords in a text with `***`: `scheme://user:password@host`, `?password=…`."""
    text = re.sub(r"(://[^/:@\s]*):(?!\d+/)\S+@", r"\1:***@", text)
    return re.sub(r"((?:password|pwd)(?:=|%3D))[^&;%\s]+", r"\1***", text, flags=re.IGNORECASE)


def shell_uri() -> str:
    """The store's address, quoted for a shell and without a password."""
    uri = mlflow.get_tracking_uri()
    return shell_quote(uri) if uri == shown_uri() else '"$MLFLOW_TRACKING_URI"'


def absolute_uri(uri: str) -> str:
    """A store's address for a process in another folder: of a file or folder the whole path."""
    folder = None if uri.startswith("databricks") else local_path(uri)
    if folder:
        return uri if folder.is_absolute() else str(folder.absolute())
    database = sqlite_file(uri)
    if database is None or database.is_absolute():
        return uri
    start, _, rest = uri.partition("///")
    # SQLAlchemy decodes percent signs, and ends a path at a question mark.
    here = str(Path.cwd()).replace("%", "%25").replace("?", "%3F")
    return f"{start}///{here}/{rest}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, as SQLAlchemy parses it; None if there is none."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    # SQLite's own URIs (`file:…`) hold more than a path, and `:memory:` is not one.
    return Path(database) if database and not database.startswith(("file:", ":")) else None
