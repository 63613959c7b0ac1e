"""The code that made a run: this checkout, or a temporary one of the run's commit."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.entities import Run

from pipeline.ablation.source import PACKAGE, source_files
from pipeline.ablation.syntax import code_digest
from pipeline.config import AUTO
from pipeline.errors import InputError, MachineError
from pipeline.interruption import deferred
from pipeline.reproduction.record import COMMIT
from pipeline.runs.provenance import ABLATION_FOLDER, git_dirty
from pipeline.store.artifacts import missing_files
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import tags_of


@contextmanager
def code_of(run: Run, folder: Path) -> Iterator[Path]:
    """Find the code of a run's commit: the folder that holds `pipeline`.

    That is this checkout's if it has that commit and no changes, else a worktree in `folder`.
    Raises InputError if the commit is not there.
    """
    commit = run.data.tags[COMMIT]
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
            f"commit {commit} of run {run.info.run_id} is not in {root}; fetch it by git fetch, or"
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
def ablation_of(run: Run, folder: Path) -> str:
    """The reference to a run's ablation: its file if that is as it was, else a copy in `folder`."""
    reference = tags_of(run).get("ablation_source", AUTO)
    if not reference.endswith(".py"):
        return reference  # `auto`, or a module, which this environment has
    if missing_files(run.info.artifact_uri, [ABLATION_FOLDER]):
        raise InputError(
            f"run {run.info.run_id} can't be repeated: its ablation's file is missing in"
            f" {run.info.artifact_uri}"
        )
    downloaded = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path=ABLATION_FOLDER, dst_path=str(folder)
    )
    recorded = _contents(Path(downloaded), Path(downloaded).rglob("*.py"))
    file = Path(reference)
    if file.is_file() and _contents(file.parent, source_files(reference)) == recorded:
        return reference
    return str(Path(downloaded) / file.name)


def _contents(folder: Path, files: Iterator[Path] | list[Path]) -> dict[str, str]:
    # What they compute: earlier versions stored them as text, with other ends of lines.
    return {path.relative_to(folder).as_posix(): code_digest(path.read_bytes()) for path in files}
