"""What an ablation depends on beside code and data: files that it reads, packages it imports."""

import hashlib
import json
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pipeline.ablation.source import file_of
from pipeline.ablation.syntax import ast_digest
from pipeline.errors import shortlist

INPUTS_FILE = "inputs.json"  # of a run: by variant, what its numbers depend on
RECORDED = ("files", "packages", "made", "places", "guessed")  # of Inputs
MAX_NAMED = 3  # differences in one line
MISSING = "(not installed)"


class Inputs(NamedTuple):
    """What a variant's numbers depend on, beside code and data.

    files: their sha256 (hex), by path relative to the ablation's folder, or by name if they are
    elsewhere. packages: their versions. made: files that were made or changed meanwhile, such as a
    cache: not what this process began with, but what the next one may find.
    places: where the files are that are elsewhere. folder: the ablation's.
    guessed: those files that the code names, and nobody was seen to open.
    certain: the names of those files that this variant itself reads, whatever others do.
    """

    files: Mapping[str, str]
    packages: Mapping[str, str]
    made: Mapping[str, str]
    places: Mapping[str, str]
    guessed: Mapping[str, str] = {}
    folder: str = ""
    certain: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """sha256 (hex) of files and packages, wherever they are; empty if there are none."""
        content = json.dumps([self.files, self.packages, self.made], sort_keys=True)
        recorded = self.files or self.packages or self.made
        return hashlib.sha256(content.encode()).hexdigest() if recorded else ""

    def as_dict(self) -> dict[str, dict[str, str]]:
        """What is recorded of it."""
        return {name: dict(sorted(getattr(self, name).items())) for name in RECORDED}

    @staticmethod
    def from_dict(recorded: Mapping[str, Mapping[str, str]]) -> "Inputs":
        """Return what `as_dict` gave."""
        files, packages, made, places, guessed = (recorded[name] for name in RECORDED)
        return Inputs(files, packages, made, places, guessed)


NOTHING = Inputs({}, {}, {}, {})


def digest_of(*inputs: Inputs) -> str:
    """One digest of what variants depend on; the list may be too long for a tag. Or empty."""
    digests = sorted({one.digest for one in inputs} - {""})
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def input_differences(then: Inputs, now: Inputs) -> str:
    """Say in one line how inputs differ from earlier ones; empty if they do not.

    A file of the same name and content is the same, wherever it is. One that was read then and is
    not read now must still be as it was.
    """
    found = []
    known = _contents({**now.made, **now.files})
    for name, digest in then.files.items():
        here = now.files.get(name, "")
        if not here and (Path(name).name, digest) in known:
            continue
        here = here or file_digest(then.places.get(name, f"{now.folder}/{name}"))
        if here != digest:
            found.append(f"{name} has changed since" if here else f"{name} is missing now")
    known = _contents({**then.made, **then.files})
    for name in sorted(now.certain - then.files.keys()):
        if (Path(name).name, now.files[name]) not in known:
            changed = name in then.made
            found.append(f"{name} has changed since" if changed else f"{name} was not read then")
    for name in sorted({*then.packages, *now.packages}):
        before, here = then.packages.get(name, MISSING), now.packages.get(name, MISSING)
        if before != here:
            found.append(f"{name} {here} instead of {before}")
    return shortlist(found, MAX_NAMED)


def differences_here(then: Inputs, reference: str) -> str:
    """Say in one line how inputs that another process has recorded differ here.

    Not which guessed files do: it may be training that writes them.
    """
    packages = {name: version(name) for name in then.packages}
    folder = str(file_of(reference).parent)
    files = {name: digest for name, digest in then.files.items() if name not in then.guessed}
    return input_differences(
        then._replace(files=files), NOTHING._replace(packages=packages, folder=folder)
    )


def file_digest(path: str) -> str:
    """sha256 (hex) of a file's content, or of what it computes if it is Python code.

    Empty if there is no such file, or none that can be read.
    """
    with suppress(OSError):
        found = Path(path).stat()
        if stat.S_ISREG(found.st_mode):
            return _digest(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return ""


@cache
def _digest(path: str, *_signature: int) -> str:
    with Path(path).open("rb") as file:
        if path.endswith(".py"):
            return ast_digest(file.read())
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions(modules: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that top-level modules belong to, by the packages' names."""
    names = {name for module in modules for name in _packages(module)}
    return {name: version(name) for name in names}


def version(package: str) -> str:
    """The version of a package, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return MISSING


def _packages(module: str) -> list[str]:
    """The names of the packages that a top-level module belongs to: `yaml` is of `PyYAML`."""
    if version(module) != MISSING:
        return [module]
    return _owners(module, tuple(sys.path)) or [module]


@cache
def _owners(module: str, _path: tuple[str, ...]) -> list[str]:
    # `metadata.packages_distributions` does the same for all modules, in a third of a second.
    found = set()
    for package in metadata.distributions():
        listed = package.read_text("top_level.txt")
        files = f"\n{listed if listed is not None else package.read_text('RECORD') or ''}\n"
        if any(f"\n{module}{end}" in files for end in ("\n", "/", ".py,")):
            found.add(package.name)
    return sorted(found)


def _contents(files: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(Path(name).name, digest) for name, digest in files.items()}
