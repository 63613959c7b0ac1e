"""Let a function know which of its options were given, and which have their defaults."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def noting_given(function: Callable[Concatenate[Mapping[str, Any], P], T]) -> Callable[P, T]:
    """Pass what was given, by name, as the first argument, which callers do not see."""
    first, *others = inspect.signature(function).parameters.values()
    signature = inspect.Signature(others)

    @wraps(function)
    def noting(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(signature.bind(*args, **kwargs).arguments, *args, **kwargs)

    noting.__signature__ = signature  # type: ignore[attr-defined]
    del noting.__annotations__[first.name]
    return noting
