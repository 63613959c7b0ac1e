"""A program's command: filled in for a variant and a seed, without a shell; where its code is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from pipeline.ablation.definition import Ablation, Value
from pipeline.ablation.source import file_of
from pipeline.config import as_list, check_text, texts_of
from pipeline.errors import InputError, shown

SEED = "seed"
PYTHON = ("python", "python3")  # the one that runs this process, as in an activated environment
RUN = {"c": "code", "m": "module"}
# Options of Python that take what follows, or the next argument; others may come before.
OPTION = re.compile("-[a-zA-Z]*?([cmWX])(.*)", re.DOTALL)
TAKE_ANOTHER = ("--check-hash-based-pycs",)
QUOTED = re.compile(r"""\\.|'[^']*'|"(\\.|[^"\\])*\"""", re.DOTALL)
OF_SHELLS = re.compile("[;<>|&`]+")
BRACES = "{name} stands for a setting, and {{ and }} for braces"


class Code(NamedTuple):
    """Which code a command runs: files, and the folders in which Python looks first for others."""

    files: list[Path]
    first: list[Path]


def folder_of(ablation: Ablation) -> Path:
    """The folder of an ablation's file, in which its program runs."""
    return file_of(ablation.source).absolute().parent if ablation.source else Path.cwd()


def template_of(ablation: Ablation) -> list[str]:
    """The arguments of a command, with placeholders. Raises InputError.

    A text is divided as a POSIX shell does, on Windows as well, before anything is filled in: so no
    value is divided, quoted or expanded.
    """
    given: Any = ablation.program
    if isinstance(given, str):
        check_text("program", given)
        try:
            arguments = shlex.split(given)
        except ValueError as error:
            raise InputError(f"program is {shown(given)}: {error}") from None
        if found := OF_SHELLS.search(QUOTED.sub("", given)):
            raise InputError(
                f"program has {found[0]!r}, which a shell would take for its own, and no shell is"
                " involved: quote it, or give a list of arguments if the program is to get it"
            )
    else:
        if as_list(given) is None:
            raise InputError(f"program is {shown(given)}; it must be a command or a function")
        arguments = texts_of("program", given)
    if not arguments or not arguments[0]:
        raise InputError(f"program is {shown(given)}; it must begin with what is to be run")
    return arguments


def placeholders(template: list[str]) -> list[str]:
    """The names of the settings that a command takes, each once. Raises InputError."""
    found = [name for argument in template for _, name in _pieces(argument) if name is not None]
    return list(dict.fromkeys(found))


def fill(template: list[str], settings: Mapping[str, Value], seed: int) -> list[str]:
    """The arguments of a command for these settings, as the user has written them.

    Texts are filled in as they are, other values as Python writes them: True, None, 0.1.
    """
    values = {**settings, SEED: seed}
    return [
        "".join(text + ("" if name is None else str(values[name])) for text, name in _pieces(one))
        for one in template
    ]


def shell_command(arguments: list[str]) -> str:
    """A command as people can paste it into this system's shell."""
    return subprocess.list2cmdline(arguments) if sys.platform == "win32" else shlex.join(arguments)


def executable(arguments: list[str], folder: Path) -> list[str]:
    """The arguments with which to start a command in a folder. Raises InputError if there is none.

    `python` is the Python that runs this process.
    """
    name, *others = arguments
    if name in PYTHON:
        return [sys.executable, *others]
    path = folder / name if Path(name).name != name else name
    if (found := shutil.which(path, path=search_path())) is None:
        place = "PATH" if path == name else folder
        raise InputError(f"there is no program {name!r} in {place} that can be executed")
    return [str(found), *others]


def search_path() -> str:
    """Where a program finds others: first those beside this Python, as if it were activated."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def code_of_command(arguments: list[str], folder: Path) -> Code:
    """The code that a command runs: Python's script or module, and all arguments that name a file.

    So of what launches a script (`torchrun train.py`) it is the script. Raises InputError if
    Python's script or module does not exist.
    """
    code = Code([], [])
    name, *others = arguments
    if name in PYTHON:
        kind, what = _run_by_python(others)
        if kind == "script":
            code.files.append(_script(_path(folder, what)))
        elif kind == "module":
            code.files.extend(_module(what, folder))
            code.first.append(folder)
        elif kind == "code":
            code.first.append(folder)
    named = [_path(folder, one.rpartition("=")[2]) for one in arguments]
    code.files.extend(path for path in named if is_file(path) and path not in code.files)
    scripts = [path.parent for path in code.files if path.suffix == ".py"]
    code.first.extend(dict.fromkeys(one for one in scripts if one not in code.first))
    return code


def _pieces(argument: str) -> list[tuple[str, str | None]]:
    """Divide an argument into texts, each with the placeholder that follows it, if one does."""
    try:
        parsed = list(Formatter().parse(argument))
    except ValueError as error:
        raise InputError(f"program has {shown(argument)}: {error}; {BRACES}") from None
    for _, name, form, conversion in parsed:
        if name is not None and (form or conversion or not name.isidentifier()):
            raise InputError(f"program has {shown(argument)}; {BRACES}, without more")
    return [(text, name) for text, name, *_ in parsed]


def _run_by_python(arguments: list[str]) -> tuple[str, str]:
    """What Python runs, by its arguments: a script, a module, or code; or nothing."""
    waiting = list(arguments)
    while waiting:
        one = waiting.pop(0)
        if not one.startswith("-"):
            return "script", one
        if found := OPTION.fullmatch(one):  # such as -m, -um, -mtrain, -Werror
            name, value = found.groups()
            value = value or (waiting.pop(0) if waiting else "")
            if name in RUN:
                return RUN[name], value
        elif one in TAKE_ANOTHER and waiting:
            waiting.pop(0)
    return "", ""


def _path(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))  # `../train.py`


def _script(path: Path) -> Path:
    main = path / "__main__.py"  # of a folder
    if not path.is_file() and not main.is_file():
        raise InputError(f"there is no {path.name} in {path.parent}, which program is to run")
    return path if path.is_file() else main


def _module(name: str, folder: Path) -> list[Path]:
    """The files of `python -m name` that are in the folder; none if the module is installed."""
    *parents, last = parts = name.split(".")
    base = folder.joinpath(*parents)
    ways = [base / f"{last}.py", base / last / "__main__.py"]
    found = [path for path in ways if path.is_file()][:1]
    if not found and PathFinder.find_spec(parts[0]) is None:
        raise InputError(f"there is no module {name!r} in {folder}, nor is it installed")
    inits = [folder.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return found + [path for path in inits if found and path.is_file()]


def is_file(path: Path) -> bool:
    """Whether it is one, whatever its name is made of."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or of odd characters
        return False
