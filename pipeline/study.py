"""A study: which runs it consists of, which of them are done already, and what they say."""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import torch
from mlflow.entities import Run

from pipeline import finished, liveness, registry, resume, tracking
from pipeline.analysis import analyse, chosen_rates
from pipeline.config import Config
from pipeline.data import load
from pipeline.data.dataset import ImageDataset
from pipeline.device import choose_device, choose_precision
from pipeline.errors import InputError, MachineError
from pipeline.grid import REGISTER, describe, plan
from pipeline.jobs import Event, Progress, Task, share_threads, side_by_side
from pipeline.machine import choose_jobs
from pipeline.progress import Board
from pipeline.publish import publish
from pipeline.results import RunResult, differences, recipe
from pipeline.runs import THREADS, code_digest, train_run
from pipeline.store import StoreError, first_line

Failures = dict[str, str]  # the reason, by the name of the run


def run_study(
    config: Config,
    variants: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    *,
    name: str,
    register: str,
    reuse: str,
    jobs: int,
) -> None:
    """Train every variant with every seed and learning rate, and write the report.

    A parent run, and a child run for each cell; all else is `config`'s. Cells that are finished
    already, by the same code (`reuse="same"`) or by any, are not run again. A child that fails is
    listed, and the others go on. `jobs` of them run side by side (0: as many as the machine has
    room for, and one on a GPU), each with its share of the threads.

    Raises InputError if the study `name` (`auto`: none) has another recipe; MachineError, at the
    end, if a child has failed.
    """
    started = time.monotonic()
    grid = describe(variants, seeds, rates)
    given = _given_study()
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    data = load(config.dataset, config.data_dir, config.train_images, config.validation)
    shared = recipe(config, {**data.tags, "precision": precision})
    if name != "auto":
        _check_name(name, shared)
    settings = {
        "variants": ",".join(variants),
        "seeds": ",".join(map(str, seeds)),
        **{k: v for k, v in config.as_dict().items() if k not in ("variant", "seed")},
        "lr": ",".join(map(str, rates)),
        "name": name,
        "register": register,
        "reuse": reuse,
        "jobs": jobs or "auto",
    }
    cells = plan(config, variants, seeds, rates)
    at_once, why = choose_jobs(jobs, len(cells), THREADS, device.type == "cuda")
    tags = {
        "kind": "study",
        "study": name,
        "recipe": json.dumps(shared),
        "grid": grid,
        "jobs_chosen": why,
        **data.tags,
    }
    liveness.mark_dead_runs()
    if given:
        _check_same(given, name, shared, grid)
    with tracking.track("ablation" if name == "auto" else name, settings, tags) as parent:
        tracking.log_dataset(data, "training", "validation", *(["test"] if data.test else []))
        where = {"data_digest": data.digest, "precision": precision, "device": device.type}
        code = {"code_digest": code_digest(), "torch": torch.__version__}
        done: dict[Config, RunResult] = {}
        begun: dict[Config, Run] = {}
        if reuse != "none":
            done = _finished_cells(parent, where | code if reuse == "same" else where, cells)
            begun = _begun_cells(parent, where | code, cells)
        todo = [cell for cell in cells if cell not in done]
        if todo:
            print(why, flush=True)
        if at_once == 1:
            events = _one_by_one(todo, begun, parent, data)
        else:
            threads = dict(zip(cells, share_threads(len(cells), at_once, THREADS), strict=True))
            tasks = [Task(cell, begun.get(cell), threads[cell]) for cell in todo]
            events = side_by_side(tasks, parent, at_once)
        results, failures = _follow(events, cells, done)
        if not results:
            raise MachineError(f"all {len(cells)} runs failed; {_first(failures)}")
        results = _register(results, data, register)
        took = f"{timedelta(seconds=round(time.monotonic() - started))}"
        reused = f", {len(done)} of {len(cells)} runs reused from before" if done else ""
        facts = {
            "wall time": f"{took}{reused}",
            "runs side by side": f"{why}; together they have {THREADS} threads",
            "registered models": REGISTER[register],
        }
        publish(analyse(results), failures, facts)
        if failures:
            raise MachineError(
                f"{len(failures)} of {len(cells)} runs failed; {_first(failures)}; the same command"
                " again repeats them and keeps the others"
            )


def _check_name(name: str, shared: Mapping[str, object]) -> None:
    """Raise InputError if a study called `name` has another recipe."""
    for run in finished.studies_named(name):
        before = json.loads(run.data.tags["recipe"])
        if before != shared:
            raise InputError(
                f"a study named {name!r} exists with {differences(before, shared)}; give this one"
                " another name"
            )


def _cell(config: Config) -> Config:
    """What decides a run's numbers beside data, device and precision, which the tags name."""
    return replace(config, data_dir="auto", device="auto", precision="auto")


def _finished_cells(
    parent: Run, where: Mapping[str, str], cells: Sequence[Config]
) -> dict[Config, RunResult]:
    """Find the cells that have a finished run, with its model, in the experiment; the newest.

    A run of a study that this one continues becomes a child here.
    """
    found: dict[Config, RunResult] = {}
    wanted = {_cell(config): config for config in cells}
    for run in finished.find_runs(parent.info.experiment_id, where):
        config = wanted.get(_cell(finished.config_of(run)))
        result = finished.read_result(run) if config and config not in found else None
        if config and result and result.model_uri:
            found[config] = result._replace(reused=True)
            if _is_continued(run, parent):
                finished.set_parent(run, parent)
    return found


def _begun_cells(
    parent: Run, where: Mapping[str, str], cells: Sequence[Config]
) -> dict[Config, Run]:
    """Find the cells that a study which this one continues has begun, but not finished."""
    found: dict[Config, Run] = {}
    wanted = {_cell(config): config for config in cells}
    for run in finished.find_runs(parent.info.experiment_id, where, "FAILED", "KILLED"):
        config = wanted.get(_cell(finished.config_of(run)))
        known = run.data.params  # else it was stopped before it had begun
        if known and config and config not in found and _is_continued(run, parent):
            found[config] = run
            finished.set_parent(run, parent)
    return found


def _is_continued(run: Run, now: Run) -> bool:
    """Whether the study of `run` is `now`, or goes on there.

    It does if it has been deleted, or was stopped or failed and all its cells are also `now`'s.
    """
    maker = finished.parent_of(run)
    if maker is None:
        return "mlflow.parentRunId" in run.data.tags
    if maker.info.run_id == now.info.run_id:
        return True
    old, new = (json.loads(study.data.tags.get("grid", "{}")) for study in (maker, now))
    contained = bool(old) and all(set(old[axis]) <= set(new[axis]) for axis in old)
    return maker.info.status in ("FAILED", "KILLED") and contained


def _given_study() -> Run | None:
    """Return the study that `mlflow run --run-id` names. Raises InputError for any other run."""
    run = tracking.given_run()
    if run and run.data.tags["kind"] != "study":
        raise InputError(f"run {run.info.run_id} is no study; leave --run-id out to begin one")
    if run:
        resume.check_ended(run)
    return run


def _check_same(given: Run, name: str, shared: Mapping[str, object], grid: str) -> None:
    """Raise InputError if the study that `mlflow run --run-id` names is another one."""
    kept = given.data.tags
    before = {"name": kept["study"], **json.loads(kept["recipe"]), **json.loads(kept["grid"])}
    now = {"name": name, **shared, **json.loads(grid)}
    if before != now:
        told = differences(before, now)
        raise InputError(f"study {given.info.run_id} has {told}; it goes on only with the same")


def _one_by_one(
    cells: Sequence[Config], begun: Mapping[Config, Run], parent: Run, data: ImageDataset
) -> Generator[tuple[Config, Event]]:
    """Train the cells in this process, as `side_by_side` does in others."""
    for cell in cells:
        yield cell, Progress()
        try:
            yield cell, train_run(cell, data, False, begun.get(cell), parent)
        except StoreError:
            raise
        except Exception as error:  # whatever it is, it is this run's; the others go on
            yield cell, error


def _follow(
    events: Generator[tuple[Config, Event]],
    cells: Sequence[Config],
    done: Mapping[Config, RunResult],
) -> tuple[list[RunResult], Failures]:
    """Show how far the cells are. Returns all results, in the order of `cells`, and failures."""
    results, failures = dict(done), Failures()
    if done:
        print(f"{len(done)} of {len(cells)} runs are finished already and are reused", flush=True)
    with closing(events), closing(Board(len(cells), len(done))) as board:
        for cell, event in events:
            match event:
                case str():
                    board.write(f"{cell.run_name}: {event}")
                case Progress(epochs=0):
                    board.begin(cell)
                case Progress():
                    board.show(cell, event)
                case RunResult():
                    results[cell] = event
                    accuracy = event.history[-1]["val_accuracy"]
                    board.end(cell, f"validation accuracy {accuracy:.1%}, {event.seconds:.0f} s")
                case Exception():
                    failures[cell.run_name] = first_line(event)
                    board.end(cell, f"failed: {failures[cell.run_name]}", failed=True)
    return [results[cell] for cell in cells if cell in results], failures


def _register(results: Sequence[RunResult], data: ImageDataset, which: str) -> list[RunResult]:
    """Register the models that `which`, a key of REGISTER, names.

    A lucky seed would promise more than a new training gives, hence the median. It is that of the
    variant's chosen learning rate; where none is chosen, no model is.
    """
    chosen = {result.run_id for result in results} if which == "all" else set[str]()
    if which == "median":
        for variant, lr in (chosen_rates(results, []) or {}).items():
            runs = [r for r in results if (r.config.variant, r.config.lr) == (variant, lr)]
            runs.sort(key=lambda result: result.history[-1]["val_accuracy"])
            chosen.add(runs[(len(runs) - 1) // 2].run_id)
    registered = [registry.register(r, data) if r.run_id in chosen else r for r in results]
    return [registry.refresh(result) for result in registered]  # a later one may take an alias


def _first(failures: Failures) -> str:
    name, reason = next(iter(failures.items()))
    return f"{name}: {reason}"
