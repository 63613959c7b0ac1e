"""The code of an ablation: its files, and what they import and name."""

import ast
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import NamedTuple

from pipeline.ablation.syntax import combined_digest, parse
from pipeline.config import AUTO

PACKAGE = Path(__file__).parents[1]
DEFAULT_FILE = PACKAGE.parent / "ablations" / "tutorial.py"
STANDARD = sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")
INSTALLED = {"site-packages", "dist-packages"}
UNKNOWN = "\0"  # in a path that code puts together
PLACEHOLDER = re.compile(r"\0|%s|%\(\w+\)s|\{[^{}]*\}")
SCHEME = re.compile(r"^\w{2,}:")  # not the drive of a path
MAKE_PATHS = ("Path", "PurePath", "join", "joinpath", "str", "fspath", "resolve", "absolute")
MAX_PARTS = 9  # of a path; code that was generated may be nested much deeper


class Code(NamedTuple):
    """The code of an ablation.

    own: its file, and what that imports from its own folder, directly or not. elsewhere: what it
    imports from other folders, by its place in its package (`nets/blocks.py`). packages: the names
    of the top-level modules that it imports and that are installed, or nowhere. named: the strings
    in it that may name a file, each with the folders to look in.
    """

    own: list[Path]
    elsewhere: dict[str, Path]
    packages: list[str]
    named: list[tuple[str, Path]]


def is_module(reference: str) -> bool:
    """Whether a reference to an ablation is the name of a module, not a path or `auto`."""
    parts = reference.split(".")
    return reference != AUTO and parts[-1] != "py" and all(part.isidentifier() for part in parts)


def file_of(reference: str) -> Path:
    """The file of an ablation. Raises ImportError for a module that does not exist."""
    if is_module(reference):
        spec = importlib.util.find_spec(reference)
        if spec is None or not spec.origin:
            raise ImportError(f"no module named {reference!r}")
        return Path(spec.origin)
    return DEFAULT_FILE if reference == AUTO else Path(reference)


def code_of(reference: str) -> Code:
    """Follow the imports of an ablation, wherever in its code they are."""
    file = file_of(reference)
    parents = reference.count(".") if is_module(reference) else 0
    inits = [folder / "__init__.py" for folder in file.parents[:parents]]
    if is_installed(file):
        return Code([file], {}, [reference.split(".")[0]], [])
    return code_of_files([file, *filter(Path.is_file, inits)], file.parent, {Path.cwd()})


def code_of_files(
    files: Iterable[Path],
    folder: Path,
    named_in: Collection[Path] = (),
    first: Collection[Path] = (),
    starts: bool = False,
) -> Code:
    """Follow the imports of files of Python code, whose own folder is `folder`.

    named_in: where the files that the code names may be, too, beside that folder and the code's.
    first: where Python looks for modules before all else, such as the folder of a script. starts:
    whether the code may start others, as programs do: then scripts that it names are followed, too.
    """
    waiting = list(files)
    code = Code([], {}, [], [])
    found, packages = set(waiting), set[str]()
    while waiting:
        one = waiting.pop()
        if one.is_relative_to(folder):
            code.own.append(one)
        else:
            code.elsewhere[_module_path(one)] = one
        tree = parse(one.read_bytes())
        for name, path in _imported(tree, one, first) if tree else ():
            if path is None:
                packages.add(name)
            elif path not in found:
                found.add(path)
                waiting.append(path)
        folders = {folder, one.parent, *named_in}
        texts = set(_paths_in(tree)) if tree else set[str]()
        places = [(text, place) for text in sorted(texts) for place in sorted(folders)]
        code.named.extend(place for place in places if not place[0].endswith(".py"))
        scripts = {place / text for text, place in places if starts and text.endswith(".py")}
        started = [path for path in sorted(scripts - found) if path.is_file()]
        waiting.extend(started)
        found.update(started)
        first = [*first, *(path.parent for path in started)]
    code.own.sort()
    code.packages.extend(sorted(packages))
    return code


def source_files(reference: str) -> list[Path]:
    """The file of an ablation, and what it imports from its own folder, directly or not."""
    return code_of(reference).own


def source_digest(reference: str) -> str:
    """sha256 (hex) of what an ablation's code computes: its file, and its own folder's imports."""
    return combined_digest(source_files(reference))


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package, which has a version."""
    return bool(INSTALLED & set(path.parts)) or str(path).startswith(STANDARD)


def hidden_neighbours(reference: str) -> list[tuple[str, Path]]:
    """The names that an ablation's code imports from elsewhere, though a file beside it has them.

    Its folder comes late on the path: `random.py` there must not replace Python's own module, which
    this project needs, too.
    """
    if is_module(reference):
        return []
    file = file_of(reference)
    trees = {path: parse(path.read_bytes()) for path in source_files(reference)}
    names = {
        parts[0]
        for path, tree in trees.items()
        for parts, level in (_statements(tree) if tree else ())
        if not level and parts[0] not in (path.stem, PACKAGE.name)
    }
    return [
        (name, path)
        for name in sorted(names)
        for path in (file.parent / f"{name}.py", file.parent / name / "__init__.py")
        if path.is_file()
        and (name in sys.stdlib_module_names or _folder_of(name) not in (None, file.parent))
    ]


def _imported(
    tree: ast.Module, file: Path, first: Collection[Path]
) -> Iterator[tuple[str, Path | None]]:
    """What a file imports: each file of Python code, or the name of a package and None."""
    for parts, level in _statements(tree):
        before, bare = (None, None) if level else _folder_among(first, parts[0])
        base = file.parents[level - 1] if level else before or _folder_of(parts[0]) or bare
        if level and (base / "__init__.py").is_file():  # type: ignore[operator]
            yield parts[0], base / "__init__.py"  # type: ignore[operator]
        known = parts[0] in sys.stdlib_module_names or parts[0] == PACKAGE.name
        if known and not level and not before:
            continue
        if base is None or is_installed(base / parts[0]):
            yield parts[0], None
            continue
        for count in range(1, len(parts) + 1):  # a package's file is executed, too
            for suffix in (".py", "/__init__.py", *EXTENSION_SUFFIXES):
                path = Path(f"{base.joinpath(*parts[:count])}{suffix}")
                if path.is_file() and PACKAGE not in path.parents:
                    yield parts[0], path


def _statements(tree: ast.Module) -> Iterator[tuple[list[str], int]]:
    """The modules that a file imports, each with its level: 0 unless the import is relative."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name.split("."), 0) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = module.split(".") if module else []
                yield from (([*parts, alias.name], level) for alias in names)
            case ast.Call(
                func=ast.Attribute(attr=function) | ast.Name(id=function),
                args=[ast.Constant(value=str(name)), *others],
                keywords=keywords,
            ) if function in ("import_module", "__import__") and name.strip("."):
                parts = name.lstrip(".").split(".")
                level = len(name) - len(name.lstrip("."))
                match [*others, *(keyword.value for keyword in keywords)]:
                    case [ast.Constant(value=str(package))] if level:
                        above = package.split(".")
                        yield [*above[: len(above) - level + 1], *parts], 0
                    case _:
                        yield parts, level


def _module_path(file: Path) -> str:
    """Where a module is in its top-level package: `nets/blocks.py`."""
    top = file.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    return file.relative_to(top).as_posix()


def _folder_among(folders: Collection[Path], module: str) -> tuple[Path | None, Path | None]:
    """The first of these folders that has a top-level module, or else has it as a bare folder.

    A folder without an `__init__.py` yields to a module of its name that comes later on the path.
    """
    spec = PathFinder.find_spec(module, [str(folder) for folder in folders])
    if spec is None:
        return None, None
    if spec.loader is None:
        return None, Path(next(iter(spec.submodule_search_locations or []))).parent
    return Path(spec.origin or "").parents[1 if spec.submodule_search_locations else 0], None


def _folder_of(module: str) -> Path | None:
    """The folder from which Python imports a top-level module."""
    with suppress(ImportError, ValueError, AttributeError):  # ValueError: it is being executed
        if spec := importlib.util.find_spec(module):
            places = list(spec.submodule_search_locations or [spec.origin or ""])
            return Path(places[0]).parent
    return None


def _paths_in(tree: ast.Module) -> Iterator[str]:
    """The strings in the code that may name a file, which shows that C or Rust may open it.

    Of a path that is put together, by `/`, `+`, `%`, an f-string or a call such as `join`, what
    follows the last part that is not known counts: `weights/{}.h5` names no file, and
    `f"{HERE}/weights/backbone.h5"` does.
    """
    remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) in remarks:
            continue
        text = _text(node)
        path = SCHEME.sub("", PLACEHOLDER.split(text)[-1]).partition("?")[0]
        for one in {text, path, path.lstrip("/")}:
            if 0 < len(one) < 256 and one.isprintable():
                yield one


def _text(node: ast.AST, depth: int = MAX_PARTS) -> str:
    """The path that an expression makes, with UNKNOWN for what only running it can tell."""
    parts: list[str] = []
    separator = ""
    match node if depth else None:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=nodes):
            parts = [_text(one, depth - 1) for one in nodes]
        case ast.FormattedValue(value=one) | ast.BinOp(left=one, op=ast.Mod()):
            return _text(one, depth - 1)
        case ast.BinOp(left=left, op=ast.Add() | ast.Div() as operator, right=right):
            separator = "/" if isinstance(operator, ast.Div) else ""
            parts = [_text(left, depth - 1), _text(right, depth - 1)]
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=nodes) if (
            depth == MAX_PARTS or name in MAKE_PATHS
        ):
            separator = "/"
            parts = [_text(one, depth - 1) for one in nodes]
    return separator.join(parts) if parts else UNKNOWN
