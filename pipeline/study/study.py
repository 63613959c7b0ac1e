"""A study: train what is not trained yet, register models, and publish the report."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta

import mlflow
import torch
from mlflow.entities import Run

from pipeline.ablation.loading import load_ablation, load_data
from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config
from pipeline.errors import MachineError, percent, plural
from pipeline.execution.engine import Where
from pipeline.execution.tasks import Engine, Events, Progress, Task
from pipeline.models import registry
from pipeline.models.trial.variants import try_variants
from pipeline.report.analysis import analyse
from pipeline.report.publish import publish
from pipeline.runs.lifecycle import track
from pipeline.runs.provenance import (
    code_digest,
    inputs_tag,
    log_ablation,
    log_dataset,
    log_inputs,
)
from pipeline.runs.run_result import RunResult, config_of, recipe
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import Design
from pipeline.store import liveness
from pipeline.store.outages.failures import first_line
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast, describe_plan, make_forecast
from pipeline.study.grid import REGISTER, Grid
from pipeline.study.margin import Expectation, choose_design
from pipeline.study.progress import StudyProgress
from pipeline.study.registration import register_models
from pipeline.study.reuse import (
    Found,
    check_same_recipe,
    check_same_study,
    earlier_plans,
    given_study,
    reusable_cells,
)

Failures = dict[str, str]  # the reason, by run name


def run_study(
    config: Config,
    grid: Grid,
    where: Where,
    *,
    name: str,
    register: str,
    reuse: str,
    keep_state: bool,
) -> None:
    """Train every cell of the grid, and publish the report.

    One parent run, with a child run for each cell; all other settings are `config`'s. Cells that
    are finished already, by the same code (`reuse="same"`) or by any, are not trained again. A
    child that fails is listed, and the others continue. They train here or on the cluster that
    `where` names, and `keep_state` lets a later study with more epochs go on from them.

    Raises InputError if the study `name` (`auto`: none) has another recipe, or if the cluster can't
    be used; MachineError, at the end, if a child has failed.
    """
    started = time.monotonic()
    cells, axes = grid.cells(config), grid.as_json()
    given = given_study()
    ablation = load_ablation(config.ablation)
    data = load_data(config)
    print(f"ablation {ablation.name} on {data.heading}")
    if register != "none":
        registry.check_may_register(config.ablation, data, "give register=none")
    try_variants(config, data, grid.variants)
    inputs = {variant: inputs_of(config.ablation, variant) for variant in grid.variants}
    engine = where.engine(config, len(cells), data)
    precision = engine.precision
    shared = recipe(config, {**data.tags, "ablation": ablation.name, "precision": precision})
    check_same_recipe(name, shared)
    choices = {
        "name": name,
        "register": register,
        "reuse": reuse,
        "keep_state": "yes" if keep_state else "no",
        **where.as_settings(),
    }
    identity = {"study": name, "recipe": json.dumps(shared), "grid": axes}
    tags = {
        "kind": "study",
        "ablation": ablation.name,
        "code_digest": code_digest(config.ablation),
        **identity,
        "plan": grid.plan,
        "jobs_chosen": engine.jobs.reason,
        **inputs_tag(*inputs.values()),
        **data.tags,
    }
    liveness.mark_dead_runs()  # so that they can be continued
    if given:
        check_same_study(given, identity)

    run_name = grid.title(ablation.name, config) if name == AUTO else name
    with track(run_name, _settings(config, grid) | choices, tags) as parent:
        log_dataset(data)
        log_ablation(config.ablation)
        log_inputs(inputs)
        conditions = data.identity | {"precision": precision, "device": engine.device}
        done, begun, outdated = reusable_cells(parent, grid, cells, conditions, reuse)
        for why, count in Counter(outdated.values()).items():
            print(f"{plural(count, 'earlier run')} not reused: {why}", flush=True)
        starts = Counter(config_of(one.run).epochs for one in begun.values() if one.is_start)
        for epochs, count in starts.items():
            ended = f"{plural(count, 'run')} of {plural(epochs, 'epoch')}"
            print(f"going on, in new runs, from {ended}", flush=True)
        design = choose_design(grid, earlier_plans(cells, data.digest))
        # Not on a GPU, of which a process that waits for its jobs would hold hundreds of MB; the
        # first epoch takes seconds there.
        forecast = make_forecast(cells, done, data, engine, torch.device("cpu"))
        first = [c for c in cells if not grid.margin or c.seed < FIRST_SEEDS or c in done]
        print(describe_plan(first, done, begun, data, engine, forecast, grid.margin > 0))
        finished, failures = _train(
            grid, cells, done, begun, design, parent, engine, keep_state, forecast
        )
        results = [finished[cell] for cell in cells if cell in finished]
        if not results:
            raise MachineError(f"all {len(failures)} runs failed; {_first(failures)}")
        results, refusal = register_models(results, data, register, ablation, parent.info.run_id)
        threads = engine.jobs.number * engine.threads[0]
        count, again = len(results) + len(failures), sum(r.reused for r in results)
        reused_runs = f", {again} of {count} runs reused from before" if again else ""
        facts = {
            "wall time": f"{timedelta(seconds=round(time.monotonic() - started))}{reused_runs}",
            "runs in parallel": f"{engine.jobs.reason}; threads together: {threads}",
            "registered models": REGISTER[register],
            "plan": grid.plan,
            **({"not registered": str(refusal)} if refusal else {}),
        }
        # Another study may have reported some of these runs meanwhile.
        design = choose_design(grid, earlier_plans(cells, data.digest))
        in_store(mlflow.set_tag)("design", design.name)
        publish(analyse(ablation, results, design), failures, facts, grid.plan)
        if failures:
            raise MachineError(
                f"{len(failures)} of {count} runs failed; {_first(failures)}; run the same command"
                " again to retry them; finished runs are kept"
            )
        if refusal:
            raise MachineError(
                f"{refusal}; the report is published. Ask for that right and repeat the same"
                " command, or give register=none"
            )


def _settings(config: Config, grid: Grid) -> dict[str, object]:
    """The study's parameters: the shared settings, and the axes along which its runs differ."""
    shared = {k: v for k, v in config.as_dict().items() if k not in ("variant", "seed", "lr")}
    axes = {"variants": grid.variants, "seeds": grid.seeds, "lr": grid.rates}
    lists = {axis: ",".join(map(str, values)) for axis, values in axes.items()}
    auto = {"seeds": "auto", "margin": grid.margin, "max_seeds": len(grid.seeds)}
    return {**shared, **lists, **(auto if grid.margin else {})}


def _train(
    grid: Grid,
    cells: Sequence[Config],
    done: Mapping[Config, RunResult],
    begun: Mapping[Config, Found],
    design: Design,
    parent: Run,
    engine: Engine,
    keep_state: bool,
    forecast: Forecast,
) -> tuple[dict[Config, RunResult], Failures]:
    """Train the cells that are not done, with `seeds=auto` as many as it takes.

    Returns all results, and the reasons of the failures.
    """
    finished, failures, expected = dict(done), Failures(), None
    if grid.margin:
        study_id = parent.info.run_id
        ablation = load_ablation(cells[0].ablation)
        expected = Expectation(
            study_id, ablation, grid, cells, design, forecast, finished, failures
        )
        expected.say()
    threads = dict(zip(cells, engine.threads, strict=True))

    left = [cell for cell in cells if cell not in finished]
    for stage in expected.stages() if expected else [left]:
        tasks = [_task(cell, begun.get(cell), threads[cell], keep_state) for cell in stage]
        with (
            closing(StudyProgress(stage, len(finished), begun, forecast)) as progress,
            closing(engine.train(tasks, parent, progress.show)) as events,
        ):
            _follow(events, progress, finished, failures, expected)
    return finished, failures


def _task(cell: Config, found: Found | None, threads: int, keep_state: bool) -> Task:
    run, is_start = (found.run, found.is_start) if found else (None, False)
    return Task(cell, None if is_start else run, threads, run if is_start else None, keep_state)


def _follow(
    events: Events,
    progress: StudyProgress,
    results: dict[Config, RunResult],
    failures: Failures,
    expected: Expectation | None,
) -> None:
    """Show the progress of the cells, and add to `results` and `failures` how they end."""
    for cell, event in events:
        match event:
            case str():
                named = cell.run_name in event
                progress.write(event if named else f"{cell.run_name}: {event}")
            case Progress(epochs=0):
                progress.begin(cell)
            case Progress():
                progress.show(cell, event)
            case RunResult():
                results[cell] = event
                accuracy = event.history[-1]["val_accuracy"]
                progress.end(
                    cell, f"validation accuracy {percent(accuracy)}, {event.seconds:.0f} s"
                )
                if expected:
                    expected.say()
            case Exception():
                failures[cell.run_name] = first_line(event)
                progress.end(cell, f"failed: {failures[cell.run_name]}", failed=True)


def _first(failures: Failures) -> str:
    name, reason = next(iter(failures.items()))
    return f"{name}: {reason}"
