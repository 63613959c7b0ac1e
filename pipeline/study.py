"""A study: which runs it consists of, which of them are done already, and what they say."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import torch
from mlflow.entities import Run
from tqdm import tqdm

from pipeline import finished, registry, tracking
from pipeline.analysis import analyse, chosen_rates
from pipeline.config import Config
from pipeline.data import load
from pipeline.data.dataset import ImageDataset
from pipeline.device import choose_device, choose_precision
from pipeline.errors import InputError, MachineError
from pipeline.grid import REGISTER, plan
from pipeline.publish import publish
from pipeline.results import RunResult, differences, recipe
from pipeline.runs import code_digest, train_run
from pipeline.training import BAR_INTERVAL

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
) -> None:
    """Train every variant with every seed and learning rate, and write the report.

    A parent run, and a child run for each cell; all else is `config`'s. Cells that are finished
    already, by the same code (`reuse="same"`) or by any, are not run again. A child that fails is
    listed, and the others go on.

    Raises InputError if the study `name` (`auto`: none) has another recipe; MachineError, at the
    end, if a child has failed.
    """
    started = time.monotonic()
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
    }
    grid = {"variants": variants, "seeds": seeds, "rates": rates}
    tags = {
        "kind": "study",
        "study": name,
        "recipe": json.dumps(shared),
        "grid": json.dumps(grid),
        **data.tags,
    }
    cells = plan(config, variants, seeds, rates)
    with tracking.track("ablation" if name == "auto" else name, settings, tags) as parent:
        tracking.log_dataset(data, "training", "validation", *(["test"] if data.test else []))
        where = {"data_digest": data.digest, "precision": precision, "device": device.type}
        if reuse == "same":
            where |= {"code_digest": code_digest(), "torch": torch.__version__}
        done = {} if reuse == "none" else _finished_cells(parent, where, cells)
        results, failures = _run_cells(cells, done, data)
        if not results:
            raise MachineError(f"all {len(cells)} runs failed; {_first(failures)}")
        results = _register(results, data, register)
        took = f"{timedelta(seconds=round(time.monotonic() - started))}"
        reused = f", {len(done)} of {len(cells)} runs reused from before" if done else ""
        facts = {"wall time": f"{took}{reused}", "registered models": REGISTER[register]}
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
    """Find the cells that have a finished run in the experiment; the newest of each.

    A run of a study that did not finish itself, and that this one contains, becomes a child here.
    """
    found: dict[Config, RunResult] = {}
    wanted = {_cell(config): config for config in cells}
    for run in finished.find_runs(parent.info.experiment_id, where):
        config = wanted.get(_cell(finished.config_of(run)))
        if config and config not in found:
            found[config] = finished.read_result(run)._replace(reused=True)
            maker = finished.parent_of(run)
            deleted = maker is None and "mlflow.parentRunId" in run.data.tags
            if deleted or (maker and _is_continued(maker, parent)):
                finished.set_parent(run, parent)
    return found


def _is_continued(before: Run, now: Run) -> bool:
    """Whether the study `before` was stopped or failed, and all its cells are also `now`'s."""
    old, new = (json.loads(run.data.tags.get("grid", "{}")) for run in (before, now))
    contained = bool(old) and all(set(old[axis]) <= set(new[axis]) for axis in old)
    return before.info.status in ("FAILED", "KILLED") and contained


def _run_cells(
    cells: Sequence[Config], done: Mapping[Config, RunResult], data: ImageDataset
) -> tuple[list[RunResult], Failures]:
    """Run the cells that are not done. Returns all results, in the order of `cells`."""
    results, failures = dict(done), Failures()
    todo = [cell for cell in cells if cell not in done]
    if done:
        print(f"{len(done)} of {len(cells)} runs are finished already and are reused", flush=True)
    # disable=None: a bar only on a terminal. Elsewhere the lines below tell how far it is.
    with tqdm(
        total=len(cells), initial=len(done), unit="run", mininterval=BAR_INTERVAL, disable=None
    ) as bar:
        for cell in todo:
            bar.set_description_str(f"Study, {len(failures)} failed, running {cell.run_name}")
            try:
                result = train_run(cell, data, register=False)
            except Exception as error:  # whatever it is, it is this run's; the others go on
                failures[cell.run_name] = tracking.first_line(error)
                outcome = f"failed: {failures[cell.run_name]}"
            else:
                results[cell] = result
                accuracy = result.history[-1]["val_accuracy"]
                outcome = f"validation accuracy {accuracy:.1%}, {result.seconds:.0f} s"
            bar.update()
            ended = len(results) + len(failures)
            bar.write(f"[{ended}/{len(cells)}] {cell.run_name}: {outcome}")
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
