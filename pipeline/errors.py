"""Errors that a user can do something about: one line, and the exit status that goes with it."""


class InputError(ValueError):
    """What the user gave is wrong; the message says what, and what would be right."""

    exit_status = 2


class MachineError(RuntimeError):
    """The machine is at fault (no network, a store that cannot be written), not the input."""

    exit_status = 1


class DivergedError(MachineError):
    """The loss is not a number any more, or infinite: the training has failed."""
