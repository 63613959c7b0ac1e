"""Which code and packages a run was made with."""

import subprocess
import sys
from functools import cache
from importlib.metadata import distributions

import numpy as np

from pipeline.ablation.source import DEFAULT_FILE, PACKAGE
from pipeline.config import APPLICATION


def code_commit() -> str:
    """The commit of this project's code; empty without git.

    MLflow records that of the script which Python was started with: none in a notebook, or that of
    the user's own repository.
    """
    is_tracked = _git("ls-files", "--error-unmatch", "__init__.py")  # not just below a repository
    return (_git("rev-parse", "HEAD") or "").strip() if is_tracked else ""


def git_dirty() -> str:
    """Whether the code differs from its commit; `unknown` without git."""
    changes = _git("status", "--porcelain", ".", str(DEFAULT_FILE.parent))
    return "unknown" if changes is None else "true" if changes else "false"


def _git(*arguments: str) -> str | None:
    """What git says of this project's code; None without git."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """The libraries on which the last bits of a run's numbers depend.

    torch is one of them if this process has loaded it, which takes seconds.
    """
    torch = sys.modules.get("torch")
    return {**({"torch": str(torch.__version__)} if torch else {}), "numpy": np.__version__}


@cache
def environment() -> str:
    """List every installed package but this one, as in a requirements file."""
    listed = {f"{d.name}=={d.version}" for d in distributions() if d.name != APPLICATION}
    return "\n".join(sorted(listed, key=str.lower))
