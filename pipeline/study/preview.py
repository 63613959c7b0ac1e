"""What a study would train, before it does."""

from collections.abc import Iterator

import mlflow
import torch

from pipeline.config import AUTO
from pipeline.errors import plural
from pipeline.execution.engine import NONE
from pipeline.statistics import FIRST_SEEDS
from pipeline.store import liveness
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import describe_work, in_words, make_forecast
from pipeline.study.reuse import Reusable, check_same_recipe, find_cells
from pipeline.study.spec import StudySpec
from pipeline.training.device import choose_device


def preview_study(study: StudySpec, experiment: str) -> Iterator[str]:
    """Say what `run_study` would train, and how long that takes; store nothing."""
    check_same_recipe(study)
    liveness.mark_dead_runs()  # which a study would continue
    known = in_store(mlflow.get_experiment_by_name)(experiment)
    found = find_cells(study, known.experiment_id) if known else Reusable()
    cells = study.cells
    if study.grid.margin:  # the spread of the first seeds decides about the others
        begun = found.finished.keys() | found.begun.keys()
        cells = [cell for cell in cells if cell.seed < FIRST_SEEDS or cell in begun]
    # What trains here, or would if a cluster has the same.
    is_here = study.where.cluster == NONE
    device = torch.device(study.engine.device) if is_here else choose_device(AUTO)
    forecast = make_forecast(study, found.finished, device)
    for cell in study.cells[: len(study.grid.variants)]:
        network = study.run.changed(variant=cell.variant).network()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        alone = forecast.seconds_of(cell)
        time_of_run = "" if alone is None else f", {in_words(alone)} a run"
        yield f"  {cell.variant}: {plural(parameters, 'parameter')}{time_of_run}"
    for cell in cells:
        if cell in found.finished:
            state = f"finished, {found.finished[cell].run_id}"
        elif cell in found.begun:
            one = found.begun[cell]
            how = f"to go on after epoch {one.epochs} of" if one.is_start else "to continue,"
            state = f"{how} {one.record.run_id}"
        else:
            why = found.outdated.get(cell)
            state = f"to train again: {why}" if why else "to train"
        yield f"  {cell.run_name}: {state}"
    yield describe_work(study, cells, found, forecast)
