"""What the numbers of a program depend on: its files, and the packages that it imports.

What it reads while it runs, nobody sees. So all code that it can reach counts, and of other files
those that the code or the command names, or that a script of another language names. Not known:
what other programs read, what is read through names that are put together, and imports that are
made of text.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.ablation.command import code_of_command, fill, folder_of, is_file, template_of
from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import Inputs, file_digest, package_versions
from pipeline.ablation.programs import project_folder
from pipeline.ablation.recording import names_of
from pipeline.ablation.source import Code, code_of, code_of_files, file_of, is_module
from pipeline.ablation.watching import counts, is_below, place_of

NOT_OF_A_PROJECT = {"mlruns", "mlartifacts", "__pycache__"}
MAKEFILE = "Makefile"
WORD = re.compile(r"[^\s\"'`;|&<>()=$:,]+")
MAX_SCRIPT = 100_000  # bytes; beyond, it is data
ENVIRONMENT = "pyvenv.cfg"  # in a folder of packages, which have versions


class _Found(NamedTuple):
    """The code of a program, and other files that it may read."""

    folder: Path
    code: Code
    others: list[Path]


def program_inputs(ablation: Ablation, variant: str, started: float = math.inf) -> Inputs:
    """The files that a variant's program depends on, by digest, and packages by version.

    `certain` is its code. Other files are `guessed`: those that code or command name, or that are
    in the folder of a project. Of these, one that was changed after `started`, in seconds since
    1970, is left out: the run has written it.

    `ablation.inputs.input_differences` says whether those of an earlier run were the same.
    """
    found = _found(ablation, variant)
    folder, code = str(found.folder), found.code
    sure = {str(path) for path in (*code.own, *code.elsewhere.values())}
    named = {place_of(str(place / text), folder) for text, place in code.named}
    named |= {place_of(str(path), folder) for path in found.others}
    guessed = {path for path in named - sure if _is_input(path, folder, started)}
    names = names_of(sure | guessed, folder, code)
    return Inputs(
        files={name: file_digest(path) for name, path in names.items()},
        packages=package_versions(code.packages),
        made={},
        places={name: path for name, path in names.items() if not is_below(path, folder)},
        folder=folder,
        guessed={name: file_digest(path) for name, path in names.items() if path in guessed},
        certain=frozenset(name for name, path in names.items() if path in sure),
    )


def program_statement(ablation: Ablation) -> list[str]:
    """What is run, without settings and seed: equal for programs that are run in the same way."""
    if ablation.project:
        return ["project", ablation.entry_point]
    if callable(ablation.program):
        return ["function", getattr(ablation.program, "__qualname__", "")]
    return ["command", *template_of(ablation)]


def _found(ablation: Ablation, variant: str) -> _Found:
    if ablation.project:
        folder = project_folder(ablation).resolve()
        files = list(_files_below(folder))
        code = [path for path in files if path.suffix == ".py" or path.name == "MLproject"]
        named = [folder / str(one) for one in ablation.variants[variant].values()]
        return _Found(folder, code_of_files(code, folder, first=[folder]), [*files, *named])
    folder = folder_of(ablation)
    if callable(ablation.program):
        reference = ablation.source
        path = reference if is_module(reference) else str(file_of(reference).absolute())
        return _Found(folder, code_of(path), [])
    arguments = fill(template_of(ablation), ablation.variants[variant], 0)
    run = code_of_command(arguments, folder)
    made = [folder / MAKEFILE] if Path(arguments[0]).stem == "make" else []
    files = _with_named([*run.files, *filter(Path.is_file, made)], folder)
    code = [path for path in files if path.suffix == ".py"]
    first = dict.fromkeys([*run.first, *(path.parent for path in code)])
    return _Found(folder, code_of_files(code, folder, first=list(first), starts=True), files)


def _with_named(files: list[Path], folder: Path) -> list[Path]:
    """The files, with all that is named in those that are no Python code: shell scripts, settings.

    For each, the names are those from its own folder, or from that of the program.
    """
    found = list(dict.fromkeys(files))
    for path in found:  # which grows
        if path.suffix == ".py" or not counts(str(path), str(folder)):
            continue
        text = ""
        with suppress(OSError):  # it may not be read
            if path.stat().st_size <= MAX_SCRIPT:
                text = path.read_text(errors="replace")
        words = dict.fromkeys(WORD.findall(text))
        named = [
            Path(os.path.normpath(place / one)) for one in words for place in (folder, path.parent)
        ]
        found.extend(one for one in dict.fromkeys(named) if is_file(one) and one not in found)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a project, whether or not git knows them; not hidden ones, and no results."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in NOT_OF_A_PROJECT
            and not name.startswith(".")
            and not Path(place, name, ENVIRONMENT).exists()
        )
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _is_input(path: str, folder: str, started: float) -> bool:
    """Whether a file may have been read: it is one, and as it was when the run began."""
    if not counts(path, folder) or not file_digest(path):
        return False
    try:
        found = Path(path).stat()
    except OSError:
        return False
    return max(found.st_mtime, found.st_ctime) < started
