"""Record which files an ablation's code opens: at import, in its parts, and in loading its data.

Python's audit hooks see what is opened by Python, NumPy and `torch.load`; `_audited_reads` adds
what torch and torchvision open in C++. For other libraries there are the names of files in
the code itself (`source.Code.named`). Not recorded: environment variables, what other processes
read, and the names in a folder none of whose files is read.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, wraps
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch

from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import Inputs, file_digest, versions
from pipeline.ablation.source import PACKAGE, Code, code_of, file_of, is_installed
from pipeline.config import Config
from pipeline.data.augmentation import normalise
from pipeline.data.dataset import ImageDataset

IMPORT, DATA = "import", "data"  # when files are read, beside the names of variants
# What loading the data reads decides the images and labels, which have a digest, and may be moved,
# packed anew or downloaded without changing them. Only settings may also reach the network.
SETTINGS = {".json", ".yaml", ".yml", ".toml", ".ini", ".cfg"}
# Of a library's caches, tokens and lists in the home's hidden folders, only these count.
WEIGHTS = {".pt", ".pth", ".pt2", ".bin", ".ckpt", ".safetensors", ".npy", ".npz", ".h5", ".pkl"}
# These keep what they have compiled, or which fonts there are.
KEEPING = ("torch._inductor", "torch._dynamo", "torch._functorch", "triton", "numba", "matplotlib")
SYSTEM = tuple(
    f"{folder}/"
    for folder in ("/proc", "/sys", "/dev", "/etc", "/run", "/usr/share", "/usr/lib", "/System")
)
NOT_READ = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Reads:
    """The paths that the ablation opens for reading and for writing, and all that are opened."""

    def __init__(self, part: str, folder: str) -> None:
        self.part, self.folder = part, folder
        self.read, self.written, self.seen = set[str](), set[str](), set[str]()

    def note(self, path: Any, flags: int, frame: FrameType) -> None:
        if isinstance(path, int):
            return
        path = _place(os.fsdecode(path), self.folder)
        if path.endswith(".pyc"):
            path = source_from_cache(path)
        self.seen.add(path)
        if not _counts(path, self.folder) or not self._is_asked(path, frame):
            return
        if flags & NOT_READ:
            self.written.add(path)
        elif self.part != DATA or Path(path).suffix in SETTINGS | {".py"}:
            self.read.add(path)

    def _is_asked(self, path: str, frame: FrameType | None) -> bool:
        """Whether the ablation asks for the file: by itself, or by what it calls or names."""
        while frame:
            file = frame.f_code.co_filename
            if file == __file__ and frame.f_code.co_name == "audited":
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
        return False


class _Record:
    """What an ablation has read in this process: digests by path, for each part."""

    def __init__(self) -> None:
        self.started = time.time_ns()
        self.code = Code([], {}, [], [])
        self.parts: dict[str, dict[str, str]] = {}
        # What was read once and is kept, so that other variants may use it as well.
        self.kept, self.written, self.seen = set[str](), set[str](), set[str]()


_ACTIVE: list[_Reads] = []
_RECORDS: dict[str, _Record] = {}


@contextmanager
def recording(reference: str, part: str) -> Iterator[_Reads]:
    """Record what the ablation opens in this block; `part` is IMPORT, DATA or a variant."""
    if part == IMPORT:
        _RECORDS[reference] = _Record()
    record = _RECORDS[reference]
    reads = _Reads(part, _folder(reference))
    _listen()
    _ACTIVE.append(reads)
    try:
        with _audited_reads():
            yield reads
    finally:
        _ACTIVE.remove(reads)
        digests = {path: file_digest(path) for path in reads.read}
        record.parts.setdefault(part, {}).update(digests)
        record.written |= reads.written
        record.seen |= reads.seen
    if part == IMPORT:
        record.code = code_of(reference)


def record_inputs(config: Config, data: ImageDataset, ablation: Ablation) -> None:
    """Build what trains each variant, use it once, and record what that opens.

    All variants, whichever are asked for: what one reads and keeps, another may use. It must come
    before anything else builds one, and whatever fails is left to the trial to explain.
    """
    for variant in ablation.variants:
        with recording(config.ablation, variant) as first:
            _use(config, data, ablation, variant)
        if first.read:
            with recording(config.ablation, variant) as again:
                _use(config, data, ablation, variant)
            _RECORDS[config.ablation].kept |= first.read - again.read


def _use(config: Config, data: ImageDataset, ablation: Ablation, variant: str) -> None:
    facts = {"num_classes": data.num_classes, "in_channels": data.image_shape[2]}
    with suppress(Exception):
        ablation.augmentation_of(variant)
    with suppress(Exception):
        network = ablation.make(ablation.network, variant, **facts)
        with suppress(Exception):
            parameters = [one for one in network.parameters() if one.requires_grad]
            arguments = ablation.arguments(ablation.optimizer, variant)
            optimizer = ablation.optimizer(parameters, lr=config.lr, **arguments)
            if ablation.schedule:
                ablation.make(ablation.schedule, variant, optimizer, config.epochs)
        criterion = ablation.make(ablation.criterion, variant)
        labels = data.training.labels[:2]
        criterion(network(normalise(data.training.images[:2])), labels)


def inputs_of(reference: str, *variants: str) -> Inputs:
    """What was recorded in this process for a variant, or for several together."""
    record, folder = _RECORDS.get(reference) or _Record(), _folder(reference)
    code = record.code
    parts: dict[str, str] = {}
    for part in (IMPORT, DATA, *variants):
        parts |= record.parts.get(part, {})
    modules = map(str, code.elsewhere.values())
    sure = {path: file_digest(path) for path in modules}
    sure |= {path: digest for path, digest in parts.items() if path not in record.kept}
    digests = {  # what any variant may use
        **{p: d for part in record.parts.values() for p, d in part.items() if p in record.kept},
        **{path: file_digest(path) for path in (*_unseen(record, folder), *record.written)},
        **sure,
    }
    names = _names(digests.keys() - set(map(str, code.own)), folder, code)
    found = {name: digests[path] for name, path in names.items() if digests[path]}
    made = {name for name in found if names[name] in record.written or _is_new(names[name], record)}
    return Inputs(
        files={name: digest for name, digest in found.items() if name not in made},
        packages=versions(code.packages),
        made={name: found[name] for name in made},
        places={name: names[name] for name in found if not _is_below(names[name], folder)},
        folder=folder,
        certain=frozenset(name for name in found.keys() - made if names[name] in sure),
    )


def _unseen(record: _Record, folder: str) -> set[str]:
    """The files that the code names, and that were not opened in a way that could be seen."""
    paths = {_place(str(base / text), folder) for text, base in record.code.named}
    return {path for path in paths - record.seen if _counts(path, folder) and file_digest(path)}


def _is_new(path: str, record: _Record) -> bool:
    """Whether a file was made or changed since the ablation began to load, also by C++."""
    with suppress(OSError):
        found = Path(path).stat()
        return max(found.st_mtime_ns, found.st_ctime_ns) >= record.started
    return False


def _names(paths: Iterable[str], folder: str, code: Code) -> dict[str, str]:
    """Name files such that a folder may move: relative to the ablation's, else as short as can be.

    A module elsewhere is named after its package.
    """
    modules = {str(path): name for name, path in code.elsewhere.items()}
    paths = sorted(paths)
    names = {
        Path(path).relative_to(folder).as_posix(): path for path in paths if _is_below(path, folder)
    }
    for path in paths:
        if not _is_below(path, folder):
            parts, count = Path(path).parts, 1
            name = modules.get(path) or parts[-1]
            while name in names and count < len(parts):
                count += 1
                name = "/".join(parts[-count:])
            names[name] = path
    return names


def _counts(path: str, folder: str) -> bool:
    """Whether a file may be an input: not of a library, the system, the store, or a cache."""
    one = Path(path)
    if is_installed(one) or PACKAGE in one.parents or "__pycache__" in one.parts:
        return False
    if one.suffix in (".lock", ".log", ".tmp") or one.name.startswith("mlflow.db"):
        return False
    if _is_below(path, folder):
        return True
    hidden = path.startswith((f"{Path.home()}{os.sep}.", f"{Path.home()}{os.sep}Library"))
    return not path.startswith(SYSTEM) and (not hidden or one.suffix in WEIGHTS | {".py"})


def _place(path: str, folder: str) -> str:
    """The absolute path of a file, with links in it, except one that leads to the folder."""
    path, real = os.path.abspath(path), os.path.realpath(folder)  # noqa: PTH100
    return folder + path[len(real) :] if _is_below(path, real) else path


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}{os.sep}")


@cache
def _is_library(file: str) -> bool:
    return is_installed(Path(file))


@cache
def _folder(reference: str) -> str:
    try:
        return str(file_of(reference).absolute().parent)
    except ImportError:  # said elsewhere
        return ""


@cache
def _listen() -> None:
    """Add the hook, which can't be removed; it costs a tenth of a microsecond for each event."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _ACTIVE:
            with suppress(Exception):  # it would prevent the opening
                path, _, flags = arguments
                _ACTIVE[-1].note(path, flags, sys._getframe(1))

    sys.addaudithook(hook)


@contextmanager
def _audited_reads() -> Iterator[None]:
    """Raise Python's audit event `open` also for what torch and torchvision open in C++.

    safetensors reads tensors by `UntypedStorage.from_file`, too.
    """
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
            stack.enter_context(patch.object(owner, name, _audited(getattr(owner, name))))
        yield


def _audited(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def audited(file: Any, *others: Any, **settings: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            sys.audit("open", os.fspath(file), "r", os.O_RDONLY)
        return function(file, *others, **settings)

    return staticmethod(audited)
