"""Watch which files an ablation's code opens while a block runs.

Python's audit hooks see what is opened by Python, NumPy and `torch.load`; `_audited_reads` adds
what torch and torchvision open in C++.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, wraps
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from pipeline.ablation.source import PACKAGE, is_installed

IMPORT, DATA = "import", "data"  # when files are read, beside the names of variants
# What loading the data reads decides the images and labels, which have a digest, and may be moved,
# packed anew or downloaded without changing them. Only settings may also reach the network.
SETTINGS = {".json", ".yaml", ".yml", ".toml", ".ini", ".cfg"}
# Of a library's caches, tokens and lists in the home's hidden folders, only these count.
WEIGHTS = {".pt", ".pth", ".pt2", ".bin", ".ckpt", ".safetensors", ".npy", ".npz", ".h5", ".pkl"}
# These keep what they have compiled, or which fonts there are.
KEEPING = ("torch._", "triton", "numba", "matplotlib.font_manager")
SYSTEM = tuple(
    f"{folder}/"
    for folder in ("/proc", "/sys", "/dev", "/etc", "/run", "/usr/share", "/usr/lib", "/System")
)
MEDIA = ("/dev/shm/", "/run/media/")  # where a user's files may be, all the same
NOT_READ = os.O_WRONLY | os.O_TRUNC  # unlike "a+"


class Reads:
    """The paths that the ablation opens for reading and for writing.

    seen: these, and all that are opened while the data is loaded, whose digest covers them.
    """

    def __init__(self, part: str) -> None:
        self.part, self.folder = part, ""
        self.read, self.written, self.seen = set[str](), set[str](), set[str]()

    def note(self, path: Any, flags: int, frame: FrameType) -> None:
        """Note that a file is opened by the code in `frame`, with flags as those of `os.open`."""
        if isinstance(path, int):
            return
        path = place_of(os.fsdecode(path), self.folder)
        if path.endswith(".pyc"):
            path = source_from_cache(path)
        is_asked = counts(path, self.folder) and self._is_asked(path, frame)
        if is_asked or self.part == DATA:
            self.seen.add(path)
        if not is_asked:
            return
        if flags & NOT_READ:
            self.written.add(path)
        elif self.part != DATA or Path(path).suffix.lower() in SETTINGS | {".py"}:
            self.read.add(path)

    def _is_asked(self, path: str, frame: FrameType | None) -> bool:
        """Whether the ablation asks for the file: by itself, or by what it calls or names."""
        while frame:
            file = frame.f_code.co_filename
            function = frame.f_code.co_name
            # `pkgutil.get_data` has no other frame of importlib, and an import has.
            passes_on = (
                (__file__, "audited"),
                ("<frozen importlib._bootstrap_external>", "get_data"),
            )
            if (file, function) in passes_on:
                frame = frame.f_back
                continue
            if frame.f_globals.get("__name__", "").startswith(KEEPING):
                return False
            if file.startswith("<frozen importlib"):  # a module, or what a library reads in its own
                return path.endswith(".py")
            if not file.startswith("<") and not _is_library(file):
                # This project reads data, but builds parts only for the ablation.
                return self.part != DATA or PACKAGE not in Path(file).parents
            frame = frame.f_back
        # A thread's frames do not lead to the code that has started it.
        is_thread = threading.current_thread() is not threading.main_thread()
        return is_thread and self.part != DATA and is_below(path, self.folder)


_ACTIVE: list[Reads] = []


@contextmanager
def watching(reads: Reads) -> Iterator[None]:
    """Note what is opened in this block."""
    _listen()
    _ACTIVE.append(reads)
    try:
        with _audited_reads():
            yield
    finally:
        _ACTIVE.remove(reads)


def counts(path: str, folder: str) -> bool:
    """Whether a file may be an input: not of a library, the system, the store, or a cache."""
    one = Path(path)
    if is_installed(one) or PACKAGE in one.parents or "__pycache__" in one.parts:
        return False
    if one.suffix in (".lock", ".log", ".tmp") or one.name.startswith("mlflow.db"):
        return False
    if is_below(path, folder):
        return True
    system = path.startswith(SYSTEM) and not path.startswith(MEDIA)
    hidden = path.startswith((f"{Path.home()}{os.sep}.", f"{Path.home()}{os.sep}Library"))
    return not system and (not hidden or one.suffix.lower() in WEIGHTS | {".py"})


def place_of(path: str, folder: str) -> str:
    """The absolute path of a file, with links in it, except one that leads to the folder."""
    path, real = os.path.abspath(path), os.path.realpath(folder)  # noqa: PTH100
    return folder + path[len(real) :] if is_below(path, real) else path


def is_below(path: str, folder: str) -> bool:
    """Whether a file is in a folder, at any depth."""
    return path.startswith(f"{folder}{os.sep}")


@cache
def _is_library(file: str) -> bool:
    return is_installed(Path(file))


@cache
def _listen() -> None:
    """Add the hook, which can't be removed; it costs a tenth of a microsecond for each event."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename") and _ACTIVE:
            with suppress(Exception):  # it would prevent the opening
                path, flags = arguments[0], arguments[2]
                if event == "os.rename":  # as of a file that is written under another name
                    path, flags = arguments[1], os.O_WRONLY
                _ACTIVE[-1].note(path, flags, sys._getframe(1))

    sys.addaudithook(hook)


@contextmanager
def _audited_reads() -> Iterator[None]:
    """Raise Python's audit event `open` also for what torch and torchvision open in C++.

    safetensors reads tensors by `UntypedStorage.from_file`, too.
    """
    import torch  # not above: a program's inputs are found without it

    image = sys.modules.get("torchvision.io.image")
    functions: list[tuple[Any, str]] = [
        (torch, "from_file"),
        (torch.UntypedStorage, "from_file"),
        (torch.jit, "load"),
        (torch.export, "load"),
        *([(image, "read_file")] if image else []),
    ]
    with ExitStack() as stack:
        for owner, name in functions:
            function = _audited(getattr(owner, name))
            new = staticmethod(function) if isinstance(owner, type) else function
            stack.enter_context(patch.object(owner, name, new))
        yield


def _audited(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def audited(file: Any, *others: Any, **settings: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            sys.audit("open", os.fspath(file), "r", os.O_RDONLY)
        return function(file, *others, **settings)

    return audited
