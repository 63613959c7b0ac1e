"""Import torch and MLflow, which takes seconds, as fast as they can be."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.interruption import deferred


@contextmanager
def importing() -> Iterator[None]:
    """Hold signals back, and do not look for garbage, during the imports of a command.

    Importing makes millions of objects, and looking for garbage among them takes a fifth of the
    time. They all stay, so what looks for garbage later does not go through them either.
    """
    is_slow = "torch" not in sys.modules
    if is_slow:
        gc.disable()
    with deferred():
        yield
    if is_slow:
        gc.freeze()
        gc.enable()
