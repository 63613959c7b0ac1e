"""The commands on the store and the data: show runs, relocate the store, fetch data."""

import sys

from pipeline.api import options, use_options
from pipeline.errors import InputError
from pipeline.imports import importing

SHOWN = 3  # of what is missing


def ui(port: use_options.InterfacePort = 5000) -> int:
    """Show the runs in MLflow's interface, in the browser if there is one, until Ctrl-C."""
    with importing():
        from pipeline.store.initialization import check_store
        from pipeline.store.interface import serve_interface

    check_store()
    return serve_interface(port)


def relocate(artifacts: use_options.Artifacts = None) -> int:
    """After a SQLite store was moved or copied: let it name the folder that it is in now.

    First copies the database. Exit status 1 if runs or models lack files afterwards.
    """
    with importing():
        from pipeline.models.loading import unloadable_versions
        from pipeline.store.initialization import check_store
        from pipeline.store.liveness import mark_dead_runs
        from pipeline.store.moving import relocation

    if artifacts and not artifacts.is_dir():
        raise InputError(f"artifacts is {str(artifacts)!r}, which is not a folder")
    relocation.check_relocatable()
    check_store(may_be_moved=True)
    mark_dead_runs()
    done = relocation.relocate(artifacts.absolute() if artifacts else None)
    for old, new in done.moves.items():
        print(f"{old} is {new} now")
    if done.copy:
        print(f"{done.addresses} addresses rewritten; the database as it was: {done.copy}")
    else:
        print("nothing to rewrite: no artifacts were found elsewhere than the database says")
    loaded, rejected = unloadable_versions()
    print(f"{loaded} registered models load")
    lacking = [f"no folder {folder}" for folder in done.missing]
    lacking += [f"{uri}: {reason}" for uri, reason in rejected.items()]
    for line in lacking[:SHOWN]:
        print(f"missing: {line}", file=sys.stderr)
    if len(lacking) > SHOWN:
        print(f"missing: {len(lacking) - SHOWN} more", file=sys.stderr)
    return 1 if lacking else 0


def data(
    data_dir: options.DataDir = options.DEFAULT.data_dir,
    check: use_options.Check = False,
    sources: use_options.Sources = False,
    source: use_options.SourceAddress = None,
) -> None:
    """Fetch, verify and cache what can be downloaded; training does so too if it is missing."""
    with importing():
        from pipeline.data import describe_sources, prepare, verify

    if sources:
        print(describe_sources(source))
    else:
        print(verify(data_dir) if check else prepare(data_dir, source))
