"""The code that made a run: this checkout, or a temporary one of the run's commit."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow

from pipeline.ablation.source import PACKAGE, source_files
from pipeline.ablation.syntax import ast_digest
from pipeline.errors import InputError, MachineError
from pipeline.interruption import deferred
from pipeline.runs.provenance import ABLATION_FOLDER
from pipeline.runs.record import RunRecord
from pipeline.runs.software import git_dirty
from pipeline.store.artifacts import missing_files
from pipeline.store.outages.waiting import in_store


@contextmanager
def checkout_of(run: RunRecord, folder: Path) -> Iterator[Path]:
    """Find the code of a run's commit: the folder that holds `pipeline`.

    That is this checkout's if it has that commit and no changes, else a worktree in `folder`.
    Raises InputError if the commit is not there.
    """
    commit = run.commit
    try:
        root = Path(_git("rev-parse", "--show-toplevel"))
        head = _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        raise InputError(f"{PACKAGE.parent} is no git checkout; repeat runs in a clone") from None
    if (head, git_dirty()) == (commit, "false"):
        yield PACKAGE.parent
        return
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        raise InputError(
            f"commit {commit} of run {run.run_id} is not in {root}; fetch it by git fetch, or"
            " repeat the run in a clone that has it"
        ) from None
    worktree = folder / "code"
    try:
        with deferred():
            _git("worktree", "add", "--quiet", "--detach", str(worktree), commit)
        yield worktree / PACKAGE.parent.resolve().relative_to(root.resolve())
    except subprocess.CalledProcessError as error:
        raise MachineError(f"git can't make a worktree: {error.stderr.strip()}") from None
    finally:
        with deferred(), suppress(subprocess.CalledProcessError):
            _git("worktree", "remove", "--force", str(worktree))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@in_store
def ablation_of(run: RunRecord, folder: Path) -> str:
    """The reference to a run's ablation: its file if that is as it was, else a copy in `folder`."""
    reference = run.config.ablation
    if not reference.endswith(".py"):
        return reference  # `auto`, or a module, which this environment has
    if missing_files(run.artifact_uri, [ABLATION_FOLDER]):
        raise InputError(
            f"run {run.run_id} can't be repeated: its ablation's file is missing in"
            f" {run.artifact_uri}"
        )
    downloaded = mlflow.artifacts.download_artifacts(
        run_id=run.run_id, artifact_path=ABLATION_FOLDER, dst_path=str(folder)
    )
    recorded = _contents(Path(downloaded), Path(downloaded).rglob("*.py"))
    file = Path(reference)
    if file.is_file() and _contents(file.parent, source_files(reference)) == recorded:
        return reference
    return str(Path(downloaded) / file.name)


def _contents(folder: Path, files: Iterator[Path] | list[Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): ast_digest(path.read_bytes()) for path in files}
