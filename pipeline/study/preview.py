"""What a study is about to train."""

from collections.abc import Iterator, Sequence

import mlflow

from pipeline.config import Config
from pipeline.errors import plural
from pipeline.machine import GIB
from pipeline.statistics import FIRST_SEEDS
from pipeline.store import liveness
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast
from pipeline.study.reuse import Reusable, check_same_recipe
from pipeline.study.subject import Subject


def preview_study(study: Subject, experiment: str) -> Iterator[str]:
    """Say what `run_study` would train, and how long that takes; store nothing."""
    check_same_recipe(study.name, study.record.recipe, study.grid.plan)
    liveness.mark_dead_runs()  # which a study would continue
    known = in_store(mlflow.get_experiment_by_name)(experiment)
    found = study.find(known.experiment_id) if known else Reusable()
    cells = study.cells
    if study.grid.margin:  # the spread of the first seeds decides about the others
        begun = found.finished.keys() | found.begun.keys()
        cells = [cell for cell in cells if cell.seed < FIRST_SEEDS or cell in begun]
    forecast = study.forecast(found.finished, is_preview=True)
    yield from study.describe_variants(forecast)
    for cell in cells:
        if cell in found.finished:
            state = f"finished, {found.finished[cell].run_id}"
        elif cell in found.begun:
            one = found.begun[cell]
            how = f"to go on after epoch {one.epochs} of" if one.is_start else "to continue,"
            state = f"{how} {one.record.run_id}"
        else:
            why = found.outdated.get(cell)
            again = f" again: {why}" if why else ""
            state = f"to {study.verb}{again}{study.describe_cell(cell)}"
        yield f"  {cell.run_name}: {state}"
    yield describe_work(study, cells, found, forecast)


def describe_work(
    study: Subject, cells: Sequence[Config], found: Reusable, forecast: Forecast
) -> str:
    """Say how many runs a study has, which are done, and how long the others take.

    cells: those that it trains in any case; with a margin it may find that it needs more.
    """
    finished, begun, at_least = found.finished, found.begun, study.grid.margin > 0
    lines = []
    if finished:
        of_all = f"{len(finished)} of " * (not at_least)
        count = plural(len(finished) if at_least else len(cells), "run")
        be = "is" if len(finished) == 1 else "are"
        lines.append(f"{of_all}{count} {be} finished already and {be} reused")
    epochs = {cell: begun[cell].epochs if cell in begun else 0 for cell in cells}
    if left := {cell: done for cell, done in epochs.items() if cell not in finished}:
        count = f"{'at least ' * at_least}{plural(len(left), 'run')} to {study.verb}"
        if begun:
            count += f" ({f'{len(begun)} of them ' * (len(left) > 1)}continued)"
        lines.append(f"{count}, {forecast.in_words(forecast.seconds(left, starting=True))}")
        memory = f"; about {study.memory / GIB:.1f} GiB of memory each" if study.memory else ""
        lines.append(f"{study.engine.jobs.reason}{memory}")
    return "\n".join(lines)
