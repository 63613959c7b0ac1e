"""Rewrite the addresses in a database whose artifacts were moved or copied."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import mlflow

from pipeline.errors import InputError
from pipeline.store.address import shown_uri, sqlite_file
from pipeline.store.liveness import PROCESS, describe
from pipeline.store.moving.detection import (
    Moves,
    experiments,
    find_moves,
    is_there,
    opened_database,
    run_and_model_ids,
)
from pipeline.store.tags import DETAILS
from pipeline.upstream import local_path

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


class Relocation(NamedTuple):
    """What `relocate` has done.

    addresses: how many it has rewritten. copy: of the database as it was, if it has changed.
    missing: the folders of finished runs and of models that are not there.
    """

    moves: Moves
    addresses: int
    copy: Path | None
    missing: list[Path]


def relocate(artifacts: Path | None = None) -> Relocation:
    """Let a SQLite store name the folders that hold its artifacts, after copying the database.

    They are looked for in `artifacts`, or next to the database and in the current folder. If they
    are where the database says, nothing changes.

    Raises InputError if a run is active, StoreError if the database can't be copied or written.
    """
    database = sqlite_file(mlflow.get_tracking_uri())
    assert database
    with opened_database(database, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")  # from now on only this process writes
        moves = find_moves(connection, database, artifacts)
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


def _replaced(
    connection: sqlite3.Connection, database: Path, artifacts: Path | None
) -> dict[Path, Path]:
    """New folders for experiments that are gone from the old one, and nowhere to be found.

    They are said to be in `artifacts`, or have no runs, and the project's old folder is gone.
    """
    moves: dict[Path, Path] = {}
    for experiment, old in experiments(connection):
        if artifacts and not is_there(old):
            moves[old.parent] = artifacts
        elif not is_there(old.parent.parent) and not run_and_model_ids(experiment, connection):
            moves[old.parent] = database.absolute().parent / old.parent.name
    return {old: new for old, new in moves.items() if old != new}


def _check_idle(connection: sqlite3.Connection) -> None:
    query = f"SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = '{PROCESS}'"
    for (run_id,) in connection.execute(f"{query} AND status = 'RUNNING'").fetchall():
        run = mlflow.get_run(run_id)
        raise InputError(f"run {run_id} is still running, as {describe(run)}; wait for its end")


def _copy(database: Path) -> Path:
    """Copy the database next to itself, under a name that is free."""
    for number in count(1):
        copy = database.with_name(f"{database.name}.before-relocate-{number}")
        with suppress(FileExistsError):
            copy.touch(exist_ok=False)
            break
    try:
        # A connection that has begun to write would wait for itself.
        with opened_database(database) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except BaseException:
        copy.unlink()
        raise
    return copy


def _rewrite(connection: sqlite3.Connection, moves: Moves) -> int:
    connection.create_function("relocated", 1, partial(_relocated, moves), deterministic=True)
    connection.create_function("moved", 1, partial(_moved, moves))
    connection.execute(f"UPDATE tags SET value = moved(value) WHERE key = '{DETAILS}'")
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


def _moved(moves: Moves, details: str) -> str:
    """What a run says of itself, with its ablation's file where that is now.

    That is, if the file was moved or copied together with the artifacts.
    """
    with suppress(ValueError, TypeError, KeyError):  # another kind of run, or edited by hand
        values = json.loads(details)
        config = json.loads(values["config"])
        file = Path(config["ablation"])
        for old, new in moves.items():
            if file.is_relative_to(old) and (moved := new / file.relative_to(old)).is_file():
                config["ablation"] = str(moved)
                return json.dumps(values | {"config": json.dumps(config)}, ensure_ascii=False)
    return details


def _named(connection: sqlite3.Connection) -> Iterator[Path]:
    """The folders of finished runs and of models that are not deleted."""
    query = """SELECT artifact_uri FROM runs
            WHERE lifecycle_stage = 'active' AND status = 'FINISHED'
        UNION SELECT artifact_location FROM logged_models WHERE lifecycle_stage = 'active'"""
    for (address,) in connection.execute(query):
        if folder := local_path(address or ""):
            yield folder
