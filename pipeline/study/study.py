"""A study: train what is not trained yet, register models, and publish the report."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import mlflow
import torch

from pipeline.ablation.recording import inputs_of
from pipeline.config import Config
from pipeline.errors import MachineError, PartialError, percent, plural
from pipeline.execution.tasks import Events, Progress, Task
from pipeline.report.analysis import analyse
from pipeline.report.publish import Published, publish_study
from pipeline.runs.lifecycle import track
from pipeline.runs.provenance import log_ablation, log_dataset, log_inputs
from pipeline.runs.queries import read_record
from pipeline.runs.record import RunRecord, StudyRecord, to_tags
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import Design
from pipeline.store import liveness
from pipeline.store.outages.failures import first_line
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast, describe_work, make_forecast
from pipeline.study.grid import REGISTER
from pipeline.study.margin import Expectation, choose_design
from pipeline.study.progress import StudyProgress
from pipeline.study.registration import register_models
from pipeline.study.reuse import Reusable, adopt, check_same_recipe, earlier_plans, find_cells
from pipeline.study.spec import StudySpec

log = logging.getLogger(__name__)
Failures = dict[str, str]  # the reason, by run name


def run_study(study: StudySpec, given: StudyRecord | None = None) -> Published:
    """Train every cell of the study that is not finished yet, and publish the report.

    One parent run, with a child run for each cell. A child that fails is listed, and the others
    continue. `given` is a study that `mlflow run --run-id` names.

    Raises InputError if a study of that name, or the `given` one, has another recipe; MachineError,
    at the end, if a child has failed or a model is refused.
    """
    started = time.monotonic()
    check_same_recipe(study)
    liveness.mark_dead_runs()  # so that they can be continued
    record, plan = study.record, study.grid.plan
    if given:
        given.check_same(plan, study.name, record.recipe)
    values = {"kind": "study", **to_tags(record)}
    inputs = {one: inputs_of(study.ablation.source, one) for one in study.grid.variants}
    with track(study.title, _settings(study), values) as run:
        parent = read_record(StudyRecord, run)
        log_dataset(study.data)
        log_ablation(study.ablation)
        log_inputs(inputs)
        found = find_cells(study, parent.experiment_id, parent.run_id)
        adopt(found, parent)
        for line in _what_is_reused(found):
            log.info(line)
        # Not on a GPU, of which a process that waits for its jobs would hold hundreds of MB; the
        # first epoch takes seconds there.
        forecast = make_forecast(study, found.finished, torch.device("cpu"))
        first = [
            cell
            for cell in study.cells
            if not plan.margin or cell.seed < FIRST_SEEDS or cell in found.finished
        ]
        log.info(describe_work(study, first, found, forecast))
        design = choose_design(plan, earlier_plans(study))
        finished, failures = _train(study, parent, found, design, forecast)
        results = [finished[cell] for cell in study.cells if cell in finished]
        if not results:
            raise MachineError(f"all {len(failures)} runs failed; {_first(failures)}")
        results, refusal = register_models(results, study, parent.run_id)
        count, again = len(results) + len(failures), sum(one.reused for one in results)
        reused_runs = f", {again} of {count} runs reused from before" if again else ""
        jobs = study.engine.jobs
        facts = {
            "wall time": f"{timedelta(seconds=round(time.monotonic() - started))}{reused_runs}",
            "runs in parallel": f"{jobs.reason}; threads together:"
            f" {jobs.number * study.engine.threads[0]}",
            "registered models": REGISTER[study.register],
            "plan": plan.words,
            **({"not registered": str(refusal)} if refusal else {}),
        }
        # Another study may have reported some of these runs meanwhile.
        design = choose_design(plan, earlier_plans(study))
        in_store(mlflow.set_tag)("design", design.name)
        report = publish_study(analyse(study.ablation, results, design), failures, facts, plan)
        if failures:
            raise PartialError(
                f"{len(failures)} of {count} runs failed; {_first(failures)}; run the same command"
                " again to retry them; finished runs are kept",
                report,
            )
        if refusal:
            raise PartialError(
                f"{refusal}; the report is published. Ask for that right and repeat the same"
                " command, or give register=none",
                report,
            )
        return report


def _settings(study: StudySpec) -> dict[str, object]:
    """The study's parameters: the shared settings, the axes of its runs, and how they are run."""
    grid = study.grid
    shared = study.run.config.as_dict()
    for axis in ("variant", "seed", "lr"):
        del shared[axis]
    axes = {"variants": grid.variants, "seeds": grid.seeds, "lr": grid.rates}
    lists = {axis: ",".join(map(str, values)) for axis, values in axes.items()}
    auto = {"seeds": "auto", "margin": grid.margin, "max_seeds": len(grid.seeds)}
    choices = {"name": study.name, "register": study.register, "reuse": study.reuse}
    choices["keep_state"] = "yes" if study.keep_state else "no"
    where = {**study.where._asdict(), "jobs": study.where.jobs or "auto"}
    return {**shared, **lists, **(auto if grid.margin else {}), **choices, **where}


def _what_is_reused(found: Reusable) -> list[str]:
    lines = []
    for why, count in Counter(found.outdated.values()).items():
        lines.append(f"{plural(count, 'earlier run')} not reused: {why}")
    starts = Counter(one.epochs for one in found.begun.values() if one.is_start)
    for epochs, count in starts.items():
        ended = f"{plural(count, 'run')} of {plural(epochs, 'epoch')}"
        lines.append(f"going on, in new runs, from {ended}")
    return lines


def _train(
    study: StudySpec, parent: StudyRecord, found: Reusable, design: Design, forecast: Forecast
) -> tuple[dict[Config, RunRecord], Failures]:
    """Train the cells that are not done, with `seeds=auto` as many as it takes.

    Returns all results, and the reasons of the failures.
    """
    finished, failures, expected = dict(found.finished), Failures(), None
    if study.grid.margin:
        expected = Expectation(study, parent.run_id, design, forecast, finished, failures)
        expected.say()
    threads = dict(zip(study.cells, study.engine.threads, strict=True))

    def task(cell: Config) -> Task:
        begun = found.begun.get(cell)
        start = begun.record if begun and begun.is_start else None
        continued = begun.record if begun and not begun.is_start else None
        return Task(cell, threads[cell], continued, start, study.keep_state)

    stages: Sequence[Sequence[Config]] = [[one for one in study.cells if one not in finished]]
    for stage in expected.stages() if expected else stages:
        with (
            closing(StudyProgress(stage, len(finished), found.begun, forecast)) as progress,
            closing(study.engine.train([task(cell) for cell in stage], parent)) as events,
        ):
            _follow(events, progress, finished, failures, expected)
    return finished, failures


def _follow(
    events: Events,
    progress: StudyProgress,
    results: dict[Config, RunRecord],
    failures: Failures,
    expected: Expectation | None,
) -> None:
    """Show the progress of the cells, and add to `results` and `failures` how they end."""
    for cell, event in events:
        match event:
            case str():
                named = cell.run_name in event
                log.info(event if named else f"{cell.run_name}: {event}")
            case Progress(epochs=0):
                progress.begin(cell)
            case Progress():
                progress.show(cell, event)
            case RunRecord():
                results[cell] = event
                accuracy = percent(event.history[-1].val_accuracy)
                progress.end(cell, f"validation accuracy {accuracy}, {event.seconds:.0f} s")
                if expected:
                    expected.say()
            case Exception():
                failures[cell.run_name] = first_line(event)
                progress.end(cell, f"failed: {failures[cell.run_name]}", failed=True)


def _first(failures: Failures) -> str:
    name, reason = next(iter(failures.items()))
    return f"{name}: {reason}"
