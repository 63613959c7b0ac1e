"""The command that lists runs."""

import shutil
import sys
from collections.abc import Sequence

from pipeline.api import use_options
from pipeline.config import check_at_least
from pipeline.errors import percent, printable
from pipeline.imports import importing

COLUMNS = ("id", "name", "accuracy", "data", "began", "experiment", "state")
# To how many characters columns are cut where a terminal is too narrow, in this order.
SHORTENED = {"state": 24, "data": 8, "experiment": 8, "name": 20}
NARROWEST = 80  # characters of a line on a terminal, at least


def list_(
    last: use_options.LastListed = 20,
    best: use_options.Best = False,
    experiment: use_options.OfExperiment = None,
) -> None:
    """List runs and studies, the newest first, with their accuracy and the ids to name them by."""
    check_at_least("last", last, 1)
    with importing():
        from pipeline.store.address import shown_uri
        from pipeline.store.initialization import check_store
        from pipeline.store.lookup import SHORT_ID, age
        from pipeline.study.listing import list_runs

    check_store(may_be_moved=True)
    listed = list_runs(experiment, best)
    if not listed:
        where = f"experiment {experiment!r} of {shown_uri()}" if experiment else shown_uri()
        print(f"no runs in {where} yet; train some by: python -m pipeline ablate")
        return
    rows = [
        (
            one.run.info.run_id[:SHORT_ID],
            one.name,
            "" if one.accuracy is None else f"{percent(one.accuracy):>8}",
            one.dataset,
            age(one.run),
            one.experiment,
            one.state,
        )
        for one in listed[:last]
    ]
    width = max(shutil.get_terminal_size().columns, NARROWEST)
    width = width if sys.stdout.isatty() else sys.maxsize  # whatever reads it can cut it
    print("\n".join(_columns([COLUMNS, *rows], width)))
    if len(listed) > last:
        print(f"and {len(listed) - last} more; all: --last {len(listed)}")


def _columns(rows: Sequence[Sequence[str]], line_width: int) -> list[str]:
    """Align the cells of each row; what is too long for a line is cut."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, least in SHORTENED.items():
        place, over = COLUMNS.index(name), sum(widths) + 2 * (len(widths) - 1) - line_width
        widths[place] = max(min(widths[place], least), widths[place] - max(0, over))
    lines = []
    for row in rows:
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(_cut("  ".join(cells).rstrip(), line_width))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
