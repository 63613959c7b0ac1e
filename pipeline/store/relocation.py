"""Artifacts that were moved or copied: MLflow's database holds absolute addresses.

`check_moved` finds that out, and `relocate` rewrites the addresses.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import mlflow

from pipeline.errors import InputError, StoreError
from pipeline.store.address import shown_uri, sqlite_file
from pipeline.store.advice import as_store_error
from pipeline.store.liveness import PROCESS, describe
from pipeline.store.waiting import LOCK_SECONDS
from pipeline.upstream import local_path

COMMAND = "python -m pipeline relocate"
# Where MLflow 3.17 keeps addresses of artifacts: table, column, condition. What a run says of its
# past, such as a data set's source, is not among them.
ADDRESSES = (
    ("experiments", "artifact_location", "1"),
    ("runs", "artifact_uri", "1"),
    ("logged_models", "artifact_location", "1"),
    ("model_versions", "source", "1"),
    ("model_versions", "storage_location", "1"),
    ("workspaces", "default_artifact_root", "1"),
    ("workspaces", "trace_archival_location", "1"),
    ("trace_tags", "value", "key IN ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')"),
)
DEPTH = 4  # how far below the database's folder an experiment's artifacts are looked for

Moves = Mapping[Path, Path]  # the folder that the database names, and the one that holds the files


class Relocation(NamedTuple):
    """What `relocate` has done.

    addresses: how many it has rewritten. copy: of the database as it was, if it has changed.
    missing: the folders of finished runs and of models that are not there.
    """

    moves: Moves
    addresses: int
    copy: Path | None
    missing: list[Path]


def check_moved() -> None:
    """Raise InputError if the artifacts of a SQLite store are not where its database says.

    It takes two queries, and a look at a few folders for each experiment.
    """
    database = sqlite_file(mlflow.get_tracking_uri())
    if database is None:
        return
    with _opened(database) as connection:
        moves = _find_moves(connection, database)
    for old, new in moves.items():
        raise InputError(
            f"the store {shown_uri()} was moved or copied: its artifacts are in {new}, but it says"
            f" {old}; adjust it by: {COMMAND}"
        )


def relocate(artifacts: Path | None = None) -> Relocation:
    """Let a SQLite store name the folders that hold its artifacts, after copying the database.

    They are looked for in `artifacts`, or next to the database and in the current folder. If they
    are where the database says, nothing changes.

    Raises InputError if a run is active, StoreError if the database can't be copied or written.
    """
    database = sqlite_file(mlflow.get_tracking_uri())
    assert database
    with _opened(database, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")  # from now on only this process writes
        moves = _find_moves(connection, database, artifacts)
        moves = moves or _replaced(connection, database, artifacts)
        copy, addresses = None, 0
        if moves:
            _check_idle(connection)
            copy = _copy(database)
            addresses = _rewrite(connection, moves)
            connection.execute("COMMIT")
        missing = [folder for folder in _named(connection) if not is_there(folder)]
    return Relocation(moves, addresses, copy, missing)


def check_relocatable() -> None:
    """Raise InputError unless the store is a SQLite file that exists."""
    database = sqlite_file(mlflow.get_tracking_uri())
    if database is None:
        raise InputError(
            f"{shown_uri()} is not a SQLite file; only those can be relocated. A server's artifacts"
            " are moved by whoever runs it"
        )
    if not database.exists():
        raise InputError(
            f"there is no {database} in {Path.cwd()}; run this in the folder that holds it, or set"
            " MLFLOW_TRACKING_URI"
        )


def owner_of(folder: Path) -> Path | None:
    """The database of another project, if an experiment's artifacts in `folder` are that one's.

    So it is after only the database was copied, or after its project was moved and another one
    begun in its place.
    """
    database, other = sqlite_file(mlflow.get_tracking_uri()), folder.parent.parent
    if database is None or not is_there(other / database.name):
        return None
    other /= database.name
    if _is_same(other, database):
        return None
    with suppress(StoreError), _opened(database) as ours, _opened(other) as theirs:
        runs = {run for (run,) in ours.execute("SELECT run_uuid FROM runs")}
        if runs.isdisjoint(_listed(folder)):
            return other
        if not runs.isdisjoint(run for (run,) in theirs.execute("SELECT run_uuid FROM runs")):
            return other
    return None


@contextmanager
def _opened(database: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """Open a database; changes that are not committed are rolled back. Raises StoreError."""
    address = f"{database.absolute().as_uri()}?mode={mode}"
    try:
        with closing(
            sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise as_store_error(error) from None


def _find_moves(
    connection: sqlite3.Connection, database: Path, artifacts: Path | None = None
) -> dict[Path, Path]:
    """Where experiments' artifacts lie, if that is not where the database says.

    That files of an experiment are in a folder is known by the ids of its runs and models. Next to
    the database they are taken for its own even if the old folder exists: it was copied.
    """
    moves: dict[Path, Path] = {}
    for experiment, old in _experiments(connection):
        places = [artifacts] if artifacts else [database.absolute().parent]
        if not artifacts and not is_there(old):
            places.append(Path.cwd())
        for place, depth in product(places, range(1, min(DEPTH + 1, len(old.parts) - 1))):
            new = place.joinpath(*old.parts[-depth:])
            if _is_same(new, old):
                break
            names = _listed(new)
            if names and not names.isdisjoint(_ids(experiment, connection)):
                moves[Path(*old.parts[:-depth])] = place
                break
    return moves


def _replaced(
    connection: sqlite3.Connection, database: Path, artifacts: Path | None
) -> dict[Path, Path]:
    """New folders for experiments that are gone from the old one, and nowhere to be found.

    They are said to be in `artifacts`, or have no runs, and the project's old folder is gone.
    """
    moves: dict[Path, Path] = {}
    for experiment, old in _experiments(connection):
        if artifacts and not is_there(old):
            moves[old.parent] = artifacts
        elif not is_there(old.parent.parent) and not _ids(experiment, connection):
            moves[old.parent] = database.absolute().parent / old.parent.name
    return {old: new for old, new in moves.items() if old != new}


def _experiments(connection: sqlite3.Connection) -> Iterator[tuple[int, Path]]:
    """The experiments whose artifacts are files, and the absolute path of their folder."""
    query = "SELECT experiment_id, artifact_location FROM experiments"
    for experiment, address in connection.execute(query).fetchall():
        folder = local_path(address or "")
        if folder and folder.is_absolute():
            yield experiment, folder


def _ids(experiment: int, connection: sqlite3.Connection) -> set[str]:
    query = """SELECT run_uuid FROM runs WHERE experiment_id = :experiment
        UNION SELECT model_id FROM logged_models WHERE experiment_id = :experiment"""
    return {name for (name,) in connection.execute(query, {"experiment": experiment})}


def _listed(folder: Path) -> set[str]:
    """The names of an experiment's runs and models that have files."""
    names = set()
    for place in (folder, folder / "models"):
        with suppress(OSError):
            names |= {path.name for path in place.iterdir()}
    return names


def is_there(path: Path) -> bool:
    """Whether a file or folder exists, as far as this user can see."""
    try:
        path.stat()
    except OSError:  # `Path.exists` raises some
        return False
    return True


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are the same existing file or folder, whatever links lead there."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_idle(connection: sqlite3.Connection) -> None:
    query = f"SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = '{PROCESS}'"
    for (run_id,) in connection.execute(f"{query} AND status = 'RUNNING'").fetchall():
        run = mlflow.get_run(run_id)
        raise InputError(f"run {run_id} is still running, as {describe(run)}; wait for its end")


def _copy(database: Path) -> Path:
    """Copy the database next to itself, under a name that is free."""
    number = 1
    while True:
        copy = database.with_name(f"{database.name}.before-relocate-{number}")
        try:
            copy.open("x").close()
            break
        except FileExistsError:
            number += 1
    try:
        # A connection that has begun to write would wait for itself.
        with _opened(database) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except BaseException:
        copy.unlink()
        raise
    return copy


def _rewrite(connection: sqlite3.Connection, moves: Moves) -> int:
    connection.create_function("relocated", 1, partial(_relocated, moves), deterministic=True)
    return sum(
        connection.execute(
            f"UPDATE {table} SET {column} = relocated({column})"
            f" WHERE {condition} AND {column} IS NOT relocated({column})"
        ).rowcount
        for table, column, condition in ADDRESSES
    )


def _relocated(moves: Moves, address: str | None) -> str | None:
    path = local_path(address) if address else None
    for old in sorted(moves, key=lambda folder: -len(folder.parts)):
        if address and path and path.is_relative_to(old):
            new = moves[old] / path.relative_to(old)
            # MLflow decodes plain paths too.
            return new.as_uri() if address.startswith("file:") else str(new).replace("%", "%25")
    return address


def _named(connection: sqlite3.Connection) -> Iterator[Path]:
    """The folders of finished runs and of models that are not deleted."""
    query = """SELECT artifact_uri FROM runs
            WHERE lifecycle_stage = 'active' AND status = 'FINISHED'
        UNION SELECT artifact_location FROM logged_models WHERE lifecycle_stage = 'active'"""
    for (address,) in connection.execute(query):
        if folder := local_path(address or ""):
            yield folder
