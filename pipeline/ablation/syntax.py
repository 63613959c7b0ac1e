"""A digest of what Python code computes: of its syntax tree, whatever its comments and encoding."""

import ast
import hashlib
from pathlib import Path
from typing import Any


def combined_digest(files: list[Path]) -> str:
    """sha256 (hex) of what several files of Python code compute, in this order."""
    digests = "".join(ast_digest(path.read_bytes()) for path in files)
    return hashlib.sha256(digests.encode()).hexdigest()


def ast_digest(source: bytes) -> str:
    """sha256 (hex) of what Python code computes: comments, docstrings and formatting are left out.

    It is the same in all versions of Python from 3.11 to 3.14, unlike `ast.dump`. What can't be
    parsed is digested as it is.
    """
    tree = parse(source)
    try:
        content = repr(_form(tree)).encode("utf-8", "surrogatepass") if tree else source
    except (RecursionError, ValueError):  # a thousand terms, or a number of so many digits
        content = source
    return hashlib.sha256(content).hexdigest()


def parse(source: bytes) -> ast.Module | None:
    """Parse a file in whatever encoding it declares; None if it is no Python code."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _form(node: object) -> Any:
    """What a node computes: its type and its fields, without the empty ones.

    Newer versions of Python add fields, which are empty in older code.
    """
    if isinstance(node, list):
        return [_form(one) for one in node if not _is_remark(one)]
    if isinstance(node, ast.Constant):
        return "Constant", node.value  # `kind` tells u"" from ""
    if isinstance(node, ast.JoinedStr):
        return "JoinedStr", _string_parts(node)
    if not isinstance(node, ast.AST):
        return node
    fields = [
        (name, _form(value))
        for name, value in ast.iter_fields(node)
        if value is not None and value != [] and name != "type_comment"
    ]
    return type(node).__name__, [one for one in sorted(fields, key=lambda f: f[0]) if one[1] != []]


def _string_parts(node: ast.JoinedStr) -> list[Any]:
    """The parts of an f-string; versions of Python divide its text differently."""
    parts: list[Any] = []
    for part in node.values:
        if not isinstance(part, ast.Constant):
            parts.append(_form(part))
        elif parts and isinstance(parts[-1], str):
            parts[-1] += str(part.value)
        elif part.value:
            parts.append(str(part.value))
    return parts


def _is_remark(node: object) -> bool:
    """Whether a statement is a string alone, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
