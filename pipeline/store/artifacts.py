"""The files of a run, written whole or not at all, on a local disk or on a server."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mlflow
import pandas as pd

from pipeline.store.outages.failures import is_outage
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import delete_file, download_file, list_files, local_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def replace_artifact(content: bytes, name: str) -> None:
    """Store a file in the active run, replacing any of that name."""
    run = mlflow.active_run()
    assert run
    folder = local_path(run.info.artifact_uri)
    if folder:
        write_atomically(folder / name, content)
        return
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(content)
        mlflow.log_artifact(str(path))


@in_store
def delete_artifact(name: str) -> None:
    """Delete a file of the active run; where the store does not delete any, leave it empty."""
    run = mlflow.active_run()
    assert run
    try:
        delete_file(run.info.artifact_uri, name)
    except Exception as error:  # each kind of artifact store has its own
        if is_outage(error):
            raise
        replace_artifact(b"", name)


@in_store
def read_artifact(address: str, name: str, expected: bool = False) -> bytes | None:
    """Return a file of the artifacts at an address; None if there is none of that name.

    On a server the files are listed first: one that is missing may be an error that MLflow retries
    for minutes. A file that is `expected` takes a single request.
    """
    folder = local_path(address)
    if folder:
        path = folder / name
        return path.read_bytes() if path.exists() else None
    if expected:
        with suppress(Exception):  # each kind of artifact store has its own
            return download_file(address, name)
    return download_file(address, name) if name in list_files(address) else None


@in_store
def has_file(address: str, name: str) -> bool:
    """Whether there is a file of that name among artifacts, and it is not empty."""
    return not missing_files(address, [name])


@in_store
def missing_files(address: str, names: Collection[str]) -> list[str]:
    """Which of these files, by path, are not in a folder of artifacts, or empty.

    In the file system each is looked for. Elsewhere one request lists the folder's own content, and
    a file below it is there if its top folder is.
    """
    folder = local_path(address)
    if folder:
        return [name for name in names if not has_content(folder / name)]
    listed = {Path(path).name for path in list_files(address)}
    return [name for name in names if PurePosixPath(name).parts[0] not in listed]


def has_content(path: Path) -> bool:
    """Whether there is a folder, or a file that is not empty."""
    try:
        return path.is_dir() or path.stat().st_size > 0
    except OSError:
        return False


def write_atomically(path: Path, content: bytes) -> None:
    """Write or replace a file atomically: it appears whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the name without the content
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@in_store
def log_figure(figure: "Figure", path: str) -> None:
    """Store a figure in the active run."""
    mlflow.log_figure(figure, path)


@in_store
def log_table(table: pd.DataFrame, path: str) -> None:
    """Store a table in the active run, as CSV."""
    mlflow.log_text(table.to_csv(index=False), path)
