"""A study: train what is not trained yet, register models, and publish the report."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import mlflow

from pipeline.config import Config
from pipeline.errors import MachineError, PartialError, plural
from pipeline.execution.tasks import Events, Made, Progress, Task
from pipeline.report.publish import Published
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import read_record
from pipeline.runs.record import Stored, StudyRecord, to_tags
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import Design
from pipeline.store import liveness, uploads
from pipeline.store.outages.failures import first_line
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast
from pipeline.study.grid import REGISTER
from pipeline.study.margin import Expectation, choose_design
from pipeline.study.preview import describe_work
from pipeline.study.progress import StudyProgress
from pipeline.study.reuse import Reusable, adopt, check_same_recipe
from pipeline.study.subject import Subject

log = logging.getLogger(__name__)
Failures = dict[str, str]  # the reason, by run name


def run_study(study: Subject, given: StudyRecord | None = None) -> Published:
    """Train every cell of the study that is not finished yet, and publish the report.

    One parent run, with a child run for each cell. A child that fails is listed, and the others
    continue. `given` is a study that `mlflow run --run-id` names.

    Raises InputError if a study of that name, or the `given` one, has another recipe; MachineError,
    at the end, if a child has failed or a model is refused.
    """
    started = time.monotonic()
    check_same_recipe(study.name, study.record.recipe, study.grid.plan)
    liveness.mark_dead_runs()  # so that they can be continued
    record, plan = study.record, study.grid.plan
    if given:
        given.check_same(plan, study.name, record.recipe)
    values = {"kind": "study", **to_tags(record)}
    with track(study.title, study.settings, values) as run:
        parent = read_record(StudyRecord, run)
        study.log()
        uploads.flush()  # its runs read that
        found = study.find(parent.experiment_id, parent.run_id)
        adopt(found, parent)
        for line in _what_is_reused(found):
            log.info(line)
        forecast = study.forecast(found.finished, is_preview=False)
        first = [
            cell
            for cell in study.cells
            if not plan.margin or cell.seed < FIRST_SEEDS or cell in found.finished
        ]
        log.info(describe_work(study, first, found, forecast))
        design = choose_design(plan, study.earlier_plans())
        finished, failures = _train(study, parent, found, design, forecast)
        results: Sequence[Made] = [finished[cell] for cell in study.cells if cell in finished]
        if not results:
            left = 0 if plan.margin else len(study.cells) - len(failures)
            others = f", and {plural(left, 'other')} not made" if left else ""
            raise MachineError(f"all {len(failures)} runs failed{others}; {_first(failures)}")
        results, refusal = study.register_models(results, parent.run_id)
        count, again = len(results) + len(failures), sum(one.reused for one in results)
        reused_runs = f", {again} of {count} runs reused from before" if again else ""
        jobs = study.engine.jobs
        facts = {
            "wall time": f"{timedelta(seconds=round(time.monotonic() - started))}{reused_runs}",
            "runs in parallel": f"{jobs.reason}; threads together:"
            f" {jobs.number * study.engine.threads[0]}",
            "registered models": REGISTER[study.register].format(study.outcome),
            "plan": plan.words,
            **({"not registered": str(refusal)} if refusal else {}),
        }
        # Another study may have reported some of these runs meanwhile.
        design = choose_design(plan, study.earlier_plans())
        in_store(mlflow.set_tag)("design", design.name)
        report = study.publish(results, design, failures, facts)
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
    study: Subject, parent: StudyRecord, found: Reusable, design: Design, forecast: Forecast
) -> tuple[dict[Config, Made], Failures]:
    """Train the cells that are not done, with `seeds=auto` as many as it takes.

    Returns all results, and the reasons of the failures.
    """
    finished, failures, expected = dict(found.finished), Failures(), None
    if study.grid.margin:
        expected = Expectation(study, parent.run_id, design, forecast, finished, failures)
        expected.say()
    threads = dict(zip(study.cells, study.engine.threads, strict=True))

    def task(cell: Config) -> Task:
        return study.task(cell, threads[cell], found.begun.get(cell))

    stages: Sequence[Sequence[Config]] = [[one for one in study.cells if one not in finished]]
    for stage in expected.stages() if expected else stages:
        with (
            closing(StudyProgress(stage, len(finished), found.begun, forecast)) as progress,
            closing(study.engine.train([task(cell) for cell in stage], parent)) as events,
        ):
            _follow(study, events, progress, finished, failures, expected)
    return finished, failures


def _follow(
    study: Subject,
    events: Events,
    progress: StudyProgress,
    results: dict[Config, Made],
    failures: Failures,
    expected: Expectation | None,
) -> None:
    """Show the progress of the cells, and add to `results` and `failures` how they end.

    Ends if no run of any variant succeeds: the first ones show what is wrong.
    """
    failed = set[str]()
    for cell, event in events:
        match event:
            case str():
                named = cell.run_name in event
                log.info(event if named else f"{cell.run_name}: {event}")
            case Progress(epochs=0):
                progress.begin(cell)
            case Progress():
                progress.show(cell, event)
            case Stored():
                results[cell] = event
                progress.end(cell, study.describe_result(event))
                if expected:
                    expected.say()
            case Exception():
                failures[cell.run_name] = first_line(event)
                progress.end(cell, f"failed: {failures[cell.run_name]}", failed=True)
                failed.add(cell.variant)
                # One run may have died by itself.
                if not results and len(failures) > 1 and failed >= set(study.grid.variants):
                    return  # what is wrong is the same for all


def _first(failures: Failures) -> str:
    name, reason = next(iter(failures.items()))
    return f"{name}: {reason}"
