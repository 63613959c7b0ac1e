"""What is worth saying while something runs: lines of the logger `pipeline`, shown by commands.

From Python they are seen if logging is set up: `logging.basicConfig(level="INFO")`.
"""

import logging
import sys

NEWS = logging.getLogger("pipeline")


class _Lines(logging.Handler):
    """Writes news to stdout and warnings to stderr, above the bars if there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        line = self.format(record)
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=stream)
        else:
            print(line, file=stream)
        stream.flush()


def shows_bars() -> bool:
    """Whether somebody looks on: at a terminal, or at a notebook."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return sys.stderr.isatty() or bool(kernel and kernel.IPKernelApp.initialized())


def show_news() -> None:
    """Show the news in this process, as commands do."""
    if not any(isinstance(handler, _Lines) for handler in NEWS.handlers):
        NEWS.addHandler(_Lines())
    NEWS.setLevel(logging.INFO)
    NEWS.propagate = False
