"""What is started for a variant and a seed of a program, and how people read it."""

import sys
from pathlib import Path

from pipeline.ablation.command import executable, fill, folder_of, shell_command, template_of
from pipeline.ablation.definition import Ablation
from pipeline.ablation.programs import project_folder, project_parameters
from pipeline.ablation.source import PACKAGE, file_of, is_installed, is_module

FUNCTION = "from pipeline.runs.programs.function import main; main()"
# Of a checkout: it need not be on the path of a process that starts in another folder, and others,
# which a function may start, get the path of theirs.
CHECKOUT = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); "


def folder_to_run_in(ablation: Ablation) -> Path:
    """The folder that a program's process starts in."""
    return project_folder(ablation) if ablation.project else folder_of(ablation)


def command_of(ablation: Ablation, variant: str, seed: int, run_id: str) -> list[str]:
    """The arguments that start a variant's program, for a process that joins the run.

    Raises InputError if the program can't be found.
    """
    if ablation.project:
        # `.`, since MLflow cuts an address at a `#`.
        command = ["-P", "-m", "mlflow", "run", ".", "-e", ablation.entry_point]
        command += ["--env-manager", "local", "--run-id", run_id]
        for name, value in project_parameters(ablation, variant, seed).items():
            command += ["-P", f"{name}={value}"]
        return [sys.executable, *command]
    if callable(ablation.program):
        reference, file = ablation.source, file_of(ablation.source).absolute()
        if is_module(reference):
            folder = file.parents[reference.count(".") + (file.name == "__init__.py")]
        else:
            reference, folder = str(file), file.parent
        start = FUNCTION if is_installed(PACKAGE) else CHECKOUT + FUNCTION
        command = ["-P", "-c", start, reference, str(folder), variant, str(seed)]
        return [sys.executable, *command]
    arguments = fill(template_of(ablation), ablation.variants[variant], seed)
    return executable(arguments, folder_of(ablation))


def printable_command(ablation: Ablation, variant: str, seed: int) -> str:
    """A variant's program for people: what to type, or the call of a function."""
    settings = ablation.variants[variant]
    if ablation.project:
        command = ["mlflow", "run", ablation.project, "-e", ablation.entry_point]
        for name, value in project_parameters(ablation, variant, seed).items():
            command += ["-P", f"{name}={value}"]
        return shell_command(command)
    if callable(ablation.program):
        name = getattr(ablation.program, "__name__", type(ablation.program).__name__)
        return f"{name}({dict(settings)!r}, {seed})"
    return shell_command(fill(template_of(ablation), settings, seed))
