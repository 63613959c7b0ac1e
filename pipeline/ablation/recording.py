"""Record what an ablation reads: while it is imported, while its parts are used, and from its data.

For what no hook sees there are the names of files in the code itself (`source.Code.named`). Not
recorded: environment variables, what other processes read, and the names in a folder none of whose
files is read.
"""

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from pipeline.ablation.inputs import Inputs, file_digest, package_versions
from pipeline.ablation.source import Code, code_of, file_of
from pipeline.ablation.watching import DATA, IMPORT, Reads, counts, is_below, place_of, watching


class _Record:
    """What an ablation has read in this process: digests by path, for each part."""

    def __init__(self) -> None:
        self.started = time.time_ns()
        self.code = Code([], {}, [], [])
        self.parts: dict[str, dict[str, str]] = {}
        self.modules: dict[str, str] = {}  # that were imported: digests by path
        # What was read once and is kept, so that other variants may use it as well.
        self.kept, self.written, self.seen = set[str](), set[str](), set[str]()


_RECORDS: dict[str, _Record] = {}


@contextmanager
def recording(reference: str, part: str) -> Iterator[Reads]:
    """Record what the ablation opens in this block; `part` is IMPORT, DATA or a variant."""
    if part == IMPORT:
        _begin(reference)
    record = _RECORDS[reference]
    reads = Reads(part)
    try:
        with watching(reads):
            reads.folder = _folder(reference)  # which may import the packages that a module is in
            yield reads
    finally:
        record.written |= reads.written
        record.seen |= reads.seen
        record.parts.setdefault(part, {}).update({p: file_digest(p) for p in reads.read})
        if part == IMPORT:
            with suppress(OSError, ImportError):  # said by who imports it
                _note_code(record, code_of(reference))


def _begin(reference: str) -> None:
    """Begin the record of an ablation that is to be imported, perhaps again.

    Python keeps the modules that it has imported. If they, or files that they have read, are no
    longer as they were, or if they may be another ablation's, it forgets them.
    """
    known = list(_RECORDS.values())
    last = max(known, key=lambda record: record.started, default=None)
    before, now = _RECORDS.get(reference), _Record()
    if before and before is last and _is_unchanged(before):
        now.parts[IMPORT] = dict(before.parts[IMPORT])  # they won't read these again
    else:
        files = {path for record in known for path in record.modules}
        for name, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) in files:
                del sys.modules[name]
        importlib.invalidate_caches()
    _RECORDS[reference] = now


def _note_code(record: _Record, code: Code) -> None:
    files = [str(path) for path in (*code.own, *code.elsewhere.values())]
    record.code = code
    record.modules = {path: file_digest(path) for path in files if path.endswith(".py")}


def _is_unchanged(record: _Record) -> bool:
    """Whether what an ablation has imported, and read meanwhile, is as it was."""
    read = {**record.modules, **record.parts[IMPORT]}
    return all(file_digest(path) == digest for path, digest in read.items())


def keep(reference: str, paths: Iterable[str]) -> None:
    """Note files that were read once and are kept, so that every variant may use them."""
    _RECORDS[reference].kept |= set(paths)


def inputs_of(reference: str, *variants: str) -> Inputs:
    """What was recorded in this process for a variant, or for several together."""
    record, folder = _RECORDS.get(reference) or _Record(), _folder(reference)
    modules = {str(path) for path in record.code.elsewhere.values()}
    own = {path for part in (IMPORT, DATA, *variants) for path in record.parts.get(part, {})}
    read = {path: digest for part in record.parts.values() for path, digest in part.items()}
    unseen = _unseen(record, folder)
    any_ones = record.kept | unseen
    made = {path for path in (*read, *any_ones) if _is_new(path, record)} | record.written
    sure = (own - record.kept | modules) - made
    paths = sure | any_ones | made
    names = names_of(paths - {str(path) for path in record.code.own}, folder, record.code)
    digests = {name: read.get(path) or file_digest(path) for name, path in names.items()}
    found = {name: digest for name, digest in digests.items() if digest}
    packages = package_versions(record.code.packages)
    packages.pop("torch", None)  # which reuse compares by itself
    return Inputs(
        files={name: digest for name, digest in found.items() if names[name] not in made},
        packages=packages,
        made={name: digest for name, digest in found.items() if names[name] in made},
        places={name: names[name] for name in found if not is_below(names[name], folder)},
        folder=folder,
        guessed={name: digest for name, digest in found.items() if names[name] in unseen},
        certain=frozenset(name for name in found if names[name] in sure),
    )


def _unseen(record: _Record, folder: str) -> set[str]:
    """The files that the code names, and that were not opened in a way that could be seen."""
    places = defaultdict(set)
    for text, base in record.code.named:
        places[text].add(place_of(str(base / text), folder))
    return {
        path
        for paths in places.values()
        if not paths & record.seen  # of the same name elsewhere
        for path in paths
        if counts(path, folder) and file_digest(path)
    }


def _is_new(path: str, record: _Record) -> bool:
    """Whether a file was made or changed since the ablation began to load, also by C++.

    A time that lies ahead says nothing: it was set by hand, or by another machine's clock.
    """
    with suppress(OSError):
        found = Path(path).stat()
        times, now = (found.st_mtime_ns, found.st_ctime_ns), time.time_ns()
        return any(record.started <= changed <= now for changed in times)
    return False


def names_of(paths: Iterable[str], folder: str, code: Code) -> dict[str, str]:
    """Name files such that a folder may move: relative to the ablation's, else as short as can be.

    A module elsewhere is named after its package.
    """
    modules = {str(path): name for name, path in code.elsewhere.items()}
    paths = sorted(paths)
    names = {
        Path(path).relative_to(folder).as_posix(): path for path in paths if is_below(path, folder)
    }
    for path in paths:
        if not is_below(path, folder):
            parts, count = Path(path).parts, 1
            name = modules.get(path) or parts[-1]
            while name in names and count < len(parts):
                count += 1
                name = "/".join(parts[-count:])
            names[name] = path
    return names


@cache
def _folder(reference: str) -> str:
    try:
        return str(file_of(reference).absolute().parent)
    except ImportError:  # said elsewhere
        return ""
