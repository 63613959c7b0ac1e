"""Import the file of an ablation."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pipeline.errors import InputError

_FOLDERS: list[str] = []  # of the ablations that were loaded


def import_file(file: Path) -> ModuleType:
    """Execute a file as a module; like a script it may import its neighbours.

    Raises InputError if there is no such file, and whatever it raises.
    """
    if not file.is_file():
        raise InputError("there is no such file")
    look_last(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"ablation:{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError("the name of its file must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def look_last(folder: str) -> None:
    """Let Python look for modules in a folder, too, after all others.

    After what is installed, unlike a script's: a `random.py` there would replace Python's own
    module for all that is imported later, and for all in a worker, which gets this path. Before the
    current folder, though, which may have helpers of the same names.
    """
    if folder in sys.path:
        return
    _FOLDERS.insert(0, folder)
    last = [*_FOLDERS, "", str(Path.cwd())]
    found = {one for one in last if one in sys.path} | {folder}
    sys.path[:] = [one for one in sys.path if one not in last] + [o for o in last if o in found]
