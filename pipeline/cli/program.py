"""The program itself: its version, and the completion of its commands in a shell."""

import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import APPLICATION

NAME = "pipeline"
COMPLETING = f"_{NAME.upper()}_COMPLETE"  # set by a shell that asks for completions
PROJECT = Path(__file__).parents[2] / "pyproject.toml"  # not there where a wheel was installed


def program_name() -> str | None:
    """The name of which a shell's completion is; otherwise None: as it was called."""
    asked = {"--install-completion", "--show-completion"} & set(sys.argv)
    return NAME if asked or COMPLETING in os.environ else None


def describe_version() -> str:
    """The version and commit of this code, and the versions of what its results depend on."""
    from pipeline.ablation.inputs import version

    own = version(APPLICATION)
    if PROJECT.exists():
        own = tomllib.loads(PROJECT.read_text())["project"]["version"] + _commit()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow"))
    return f"{APPLICATION} {own}, {packages}, Python {platform.python_version()}"


def _commit() -> str:
    """The commit of a checkout, marked if its files differ; empty without git."""
    command = ["git", "-C", str(PROJECT.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f" (commit {found.strip()})"


def show_version(is_asked: bool) -> None:
    """Print the version and end, if `--version` was typed."""
    if is_asked:
        print(describe_version())
        raise typer.Exit


def program(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Ablation studies of image classifiers, tracked with MLflow."""
