"""A command that calls a function with the options that were typed, and shows what it returns."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from pipeline.errors import PartialError

T = TypeVar("T")


def command_of(
    function: Callable[..., T], show: Callable[[T], int | None], about: str = ""
) -> Callable[..., int | None]:
    """Return the command of a function, whose parameters are annotated with their options.

    show: gets what the function returns; returns the exit status, if that is not 0. about: the
    help; by default the first paragraph of the function's docstring.
    """

    def command(context: typer.Context, **values: Any) -> int | None:
        sources = {name: context.get_parameter_source(name) for name in values}
        typed = {
            name: value
            for name, value in values.items()
            if getattr(sources[name], "name", "") != "DEFAULT"
        }
        try:
            return show(function(**typed))
        except PartialError as error:
            show(error.report)
            raise

    signature = inspect.signature(function)
    given = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    named = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()
    ]
    command.__signature__ = inspect.Signature([given, *named])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (given, *named)}
    command.__name__ = function.__name__
    command.__doc__ = about or (function.__doc__ or "").partition("\n\n")[0]
    return command
