"""The files of a run, written whole or not at all, on a local disk or on a server."""

import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.store.address import is_server
from pipeline.store.outages.failures import is_outage
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import delete_file, download_file, list_files, local_path, upload_file

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 8  # requests to a server


def replace_artifact(address: str, name: str, content: bytes) -> None:
    """Store a file among the artifacts at an address, replacing any of that name."""
    folder = local_path(address)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
        return
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(content)
        upload_file(address, path)


def upload_folder(address: str, folder: Path) -> None:
    """Store all files of a folder among the artifacts at an address."""
    at_once(
        partial(upload_file, address, path, path.parent.relative_to(folder).as_posix())
        for path in folder.rglob("*")
        if path.is_file()
    )


def at_once(actions: Iterable[Callable[[], object]]) -> None:
    """Do what is independent: at the same time if the store is a server, to which it takes time.

    Raises what the first one of them raises, when all have ended.
    """
    if not is_server():
        for action in actions:
            action()
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = [pool.submit(action) for action in actions]
    for one in started:
        one.result()


@in_store
def delete_artifact(address: str, name: str) -> None:
    """Delete a file among artifacts; where the store does not delete any, leave it empty."""
    try:
        delete_file(address, name)
    except Exception as error:  # each kind of artifact store has its own
        if is_outage(error):
            raise
        replace_artifact(address, name, b"")


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


def as_csv(table: "pd.DataFrame") -> bytes:
    """The content of a CSV file."""
    return str(table.to_csv(index=False)).encode()
