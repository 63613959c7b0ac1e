"""Errors that a user can act on: a one-line message, in what words, and the exit status."""

from collections.abc import Iterable
from typing import Any

MAX_NAMED = 5  # of a kind in a message: there may be thousands
MAX_SHOWN = 100  # characters of a value in a message: it may be an array


def printable(text: str) -> str:
    """Escape line breaks and terminal control codes, which names given by users may contain."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """A value in a message, on one line, as Python writes it; a long one is cut."""
    try:
        text = printable(repr(value))
    except Exception:  # of a class that can't write itself, or a number of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def shortlist(names: Iterable[object], most: int = MAX_NAMED, separator: str = ", ") -> str:
    """Join names for a message, which must stay readable: `a, b, c and 97 more`."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return separator.join(listed[:most]) + more


def plural(number: int, noun: str) -> str:
    """A number and what it counts: `1 epoch`, `1,000 epochs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction in per cent: `49.5 %`."""
    return f"{100 * fraction:.{decimals}f} %"


class _OneLineError(Exception):
    """An error with a message in one line, whatever names and values it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(_OneLineError, ValueError):
    """The user's input is wrong; the message says why, and what would be right."""

    exit_status = 2


class MachineError(_OneLineError, RuntimeError):
    """The machine is at fault (no network, a store that cannot be written), not the input."""

    exit_status = 1


class PartialError(MachineError):
    """Some runs of a study have failed, or their models are refused. report: of the others."""

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report


class DivergedError(MachineError):
    """The loss has become NaN or infinite: training has failed."""


class RegistrationError(MachineError):
    """The store takes runs, but refuses to register a model."""


class StoreError(MachineError):
    """The tracking store can't be used, and waiting does not help."""


class StoreOutageError(StoreError):
    """The tracking store does not answer; it may later."""
