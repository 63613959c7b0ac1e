"""Find out that artifacts were moved or copied: MLflow's database holds absolute addresses."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import product
from pathlib import Path

import mlflow

from pipeline.errors import InputError, StoreError
from pipeline.store.address import shown_uri, sqlite_file
from pipeline.store.outages.advice import as_store_error
from pipeline.store.outages.waiting import LOCK_SECONDS
from pipeline.upstream import local_path

COMMAND = "python -m pipeline relocate"
DEPTH = 4  # how far below the database's folder an experiment's artifacts are looked for

Moves = Mapping[Path, Path]  # the folder that the database names, and the one that holds the files


def check_moved() -> None:
    """Raise InputError if the artifacts of a SQLite store are not where its database says.

    It takes two queries, and a look at a few folders for each experiment.
    """
    database = sqlite_file(mlflow.get_tracking_uri())
    if database is None:
        return
    with opened_database(database) as connection:
        moves = find_moves(connection, database)
    for old, new in moves.items():
        raise InputError(
            f"the store {shown_uri()} was moved or copied: its artifacts are in {new}, but it says"
            f" {old}; adjust it by: {COMMAND}"
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
    if is_same(other, database):
        return None
    with suppress(StoreError), opened_database(database) as ours, opened_database(other) as theirs:
        runs = {run for (run,) in ours.execute("SELECT run_uuid FROM runs")}
        if runs.isdisjoint(_listed(folder)):
            return other
        if not runs.isdisjoint(run for (run,) in theirs.execute("SELECT run_uuid FROM runs")):
            return other
    return None


def find_moves(
    connection: sqlite3.Connection, database: Path, artifacts: Path | None = None
) -> dict[Path, Path]:
    """Where experiments' artifacts lie, if that is not where the database says.

    That files of an experiment are in a folder is known by the ids of its runs and models. Next to
    the database they are taken for its own even if the old folder exists: it was copied.
    """
    moves: dict[Path, Path] = {}
    for experiment, old in experiments(connection):
        places = [artifacts] if artifacts else [database.absolute().parent]
        if not artifacts and not is_there(old):
            places.append(Path.cwd())
        for place, depth in product(places, range(1, min(DEPTH + 1, len(old.parts) - 1))):
            new = place.joinpath(*old.parts[-depth:])
            if is_same(new, old):
                break
            names = _listed(new)
            if names and not names.isdisjoint(run_and_model_ids(experiment, connection)):
                moves[Path(*old.parts[:-depth])] = place
                break
    return moves


@contextmanager
def opened_database(database: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """Open a database; changes that are not committed are rolled back. Raises StoreError."""
    address = f"{database.absolute().as_uri()}?mode={mode}"
    try:
        with closing(
            sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise as_store_error(error) from None


def experiments(connection: sqlite3.Connection) -> Iterator[tuple[int, Path]]:
    """The experiments whose artifacts are files, and the absolute path of their folder."""
    query = "SELECT experiment_id, artifact_location FROM experiments"
    for experiment, address in connection.execute(query).fetchall():
        folder = local_path(address or "")
        if folder and folder.is_absolute():
            yield experiment, folder


def run_and_model_ids(experiment: int, connection: sqlite3.Connection) -> set[str]:
    """The ids of an experiment's runs and logged models."""
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


def is_same(one: Path, other: Path) -> bool:
    """Whether both are the same existing file or folder, whatever links lead there."""
    try:
        return one.samefile(other)
    except OSError:
        return False
