"""Compare finished runs, however they were started, after checking that they can be compared."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow.entities import Run

from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.errors import InputError, plural, shortlist
from pipeline.report.analysis import analyse
from pipeline.report.contrasts import contrasts
from pipeline.report.publish import BY_COMPARE, REPORTED, publish
from pipeline.runs.lifecycle import track
from pipeline.runs.queries import experiment_id, find_runs, get_runs
from pipeline.runs.run_result import (
    IncompleteRunError,
    RunResult,
    config_of,
    differences,
    has_settings,
    read_result,
    recipe,
    recorded_ablation,
)
from pipeline.statistics.intervals import ALPHA, PLANNED_ALPHA, Design
from pipeline.store import liveness
from pipeline.store.initialization import check_experiment_of
from pipeline.study.grid import SEEDS_AUTO, Grid
from pipeline.study.margin import after_reports

Cells = Mapping[tuple[str, int, float], Run]  # by variant, seed and learning rate; newest first

UNPLANNED = Design(
    "anytime",
    "The runs were chosen for this comparison, and no plan says how many there would be.",
    ALPHA,
)
MOST_REASONS = 3  # why runs are not compared, on the terminal; the report has all
OTHERS = (
    "For others: --last N (the newest), --experiment NAME, or their ids or names (python -m"
    " pipeline list)"
)


def compare_runs(
    references: Sequence[str], experiment: str, ablation: str, last: int | None = None
) -> None:
    """Write the report of a study on the given runs, or on all training runs of the experiment.

    Or on its `last` ones that have finished. What was chosen is printed first.

    Runs can be compared if they have the same recipe and data. The group that allows the most
    comparisons is used; the others are listed with what differs. If a cell has several runs, the
    newest counts. The report goes to the runs' experiment.

    ablation: a reference to that of the runs; `auto` is the one that they were started with.

    Raises InputError for an unknown run, experiment or ablation, and if nothing can be compared.
    """
    liveness.mark_dead_runs()
    found = get_runs(references) or find_runs(experiment_id(experiment), {})[:last]
    if not found:
        raise InputError(f"experiment {experiment!r} has no finished training run to compare")
    definition, chosen, unused, results = _read_comparable(found, ablation)
    check_experiment_of(chosen[0])
    configs = [result.config for result in results]
    variants, seeds = {one.variant for one in configs}, {one.seed for one in configs}
    grid = Grid(list(variants), list(seeds), list({one.lr for one in configs}))
    swept = len(grid.rates) > 1
    results = [one._replace(config=replace(one.config, is_swept=swept)) for one in results]
    analysis = analyse(definition, results, _design(results))
    if not analysis.compared:
        names = shortlist(sorted(config_of(run).run_name for run in chosen))
        reasons = "".join(f"; {run}: {reason}" for run, reason in list(unused.items())[:3])
        raise InputError(
            "nothing to compare: it takes two variants that the ablation compares, with the same"
            f" recipe, seed and learning rate, but the runs are only: {names}{reasons}"
        )
    named = f"last {last}" if last else "all"
    if references:
        named = ",".join(run.info.run_id for run in found)
    else:
        print(_selection(results, len(found), "newest " * bool(last), experiment))
        for why, count in Counter(unused.values()).most_common(MOST_REASONS):
            print(f"{plural(count, 'run')} not compared: {why}")
        print(OTHERS, flush=True)
    settings = {"runs": named, "experiment": experiment}
    tags = {
        "kind": "comparison",
        "ablation": definition.name,
        "dataset": configs[0].dataset,
    }
    name = f"comparison of {grid.title(definition.name, configs[0])}"
    with track(name, settings, tags, chosen[0].info.experiment_id):
        publish(analysis, unused, {}, grid.plan + BY_COMPARE)


def _selection(results: Sequence[RunResult], count: int, which: str, experiment: str) -> str:
    """Say which of so many runs of an experiment are compared."""
    seeds = defaultdict(set)
    for result in results:
        seeds[result.config.variant].add(result.config.seed)
    variants = defaultdict(list)
    for variant, some in seeds.items():
        variants[tuple(sorted(some))].append(variant)
    parts = (
        f"{shortlist(names)} with {plural(len(some), 'seed')}: {shortlist(some)}"
        for some, names in variants.items()
    )
    of = f"{len(results)} of the" if len(results) < count else "the"
    runs = f"{of} {which}{count} finished training runs of experiment {experiment!r}"
    return f"Comparing {runs}: {'; '.join(parts)}"


def _read_comparable(
    found: Sequence[Run], ablation: str
) -> tuple[Ablation, list[Run], dict[str, str], list[RunResult]]:
    """Read the runs that can be compared; those that can't be read are left out."""
    known: dict[str, RunResult] = {}
    unreadable: dict[str, str] = {}
    while True:
        definition, chosen, unused = comparable(found, ablation)
        for run in chosen:
            try:
                known[run.info.run_id] = known.get(run.info.run_id) or read_result(run)
            except IncompleteRunError as error:
                unreadable[_name(run)] = str(error)
                found = [one for one in found if one is not run]
        if all(run.info.run_id in known for run in chosen):
            return definition, chosen, unused | unreadable, [known[r.info.run_id] for r in chosen]
        if not found:
            name, reason = next(iter(unreadable.items()))
            raise InputError(f"no run can be read; {name}: {reason}")


def _design(results: Sequence[RunResult]) -> Design:
    """Choose intervals: those of the only report there was, if these are all of its runs."""
    plans = {result.tags.get(REPORTED, "") for result in results}
    first = min(plans)
    if len(plans) == 1 and first and not first.endswith(BY_COMPARE):
        reported = {_cell(config_of(run)) for run in find_runs(None, {REPORTED: first})}
        if reported == {_cell(result.config) for result in results}:
            reason = f"The first report on these runs had exactly these (plan: {first})."
            return Design("two-stage" if SEEDS_AUTO in first else "planned", reason, PLANNED_ALPHA)
    earlier = plans - {""}
    return after_reports(earlier) if earlier else UNPLANNED


def _cell(config: Config) -> tuple[str, int, float]:
    return config.variant, config.seed, config.lr


def comparable(
    found: Sequence[Run], reference: str = AUTO
) -> tuple[Ablation, list[Run], dict[str, str]]:
    """Split runs into the group that allows the most comparisons, and the rest with the reasons.

    If groups tie, the larger is used, then the newer. Returns the group's ablation, too. With a
    `reference` to an ablation, only runs of that one can be in the group.
    """
    groups: dict[str, dict[tuple[str, int, float], Run]] = defaultdict(dict)
    unused = {}
    for run in sorted(found, key=lambda run: -run.info.start_time):
        config = config_of(run)
        cells = groups[json.dumps(recipe(config, run.data.tags))]
        newest = cells.setdefault(_cell(config), run)
        if newest is not run:
            unused[_name(run)] = f"repeated by run {newest.info.run_id[:8]}"
    named = load_ablation(reference) if reference != AUTO else None
    ablations = {key: _ablation_of(key, cells, named) for key, cells in groups.items()}

    def rank(key: str) -> tuple[bool, int, int, int]:
        cells, ablation = groups[key], ablations[key]
        compared = contrasts(ablation) if isinstance(ablation, Ablation) else None
        pairs = sum(
            (one.control[0], *cell[1:]) in cells
            for one in compared or []
            for cell in cells
            if (cell[0],) == one.treatment  # an interaction has two
        )
        newest = max(run.info.start_time for run in cells.values())
        return compared is not None, pairs, len(cells), newest

    shared = max(groups, key=rank)
    ablation = ablations[shared]
    if isinstance(ablation, InputError):
        raise ablation
    for key, cells in groups.items():
        if key != shared:
            reason = differences(json.loads(key), json.loads(shared))
            unused |= {_name(run): reason for run in cells.values()}
    order = list(ablation.variants)
    chosen = {
        cell: run
        for cell, run in groups[shared].items()
        if cell[0] in order and has_settings(run.data.tags, ablation.values(cell[0]))
    }
    for cell in groups[shared].keys() - chosen.keys():
        reason = f"{ablation.name} has no variant {cell[0]} with its settings now"
        unused[_name(groups[shared][cell])] = reason
    if not chosen:
        raise InputError(
            f"{ablation.name} has none of the runs' variants: it has {shortlist(order)}"
        )
    ordered = sorted(chosen, key=lambda cell: (cell[1:], order.index(cell[0])))
    return ablation, [chosen[cell] for cell in ordered], unused


def _ablation_of(key: str, cells: Cells, named: Ablation | None) -> Ablation | InputError:
    """The ablation of a group, which is that of its newest run, or why there is none."""
    if named and json.loads(key)["ablation"] != named.name:
        return InputError(f"none of the runs is of ablation {named.name!r}, which --ablation names")
    try:
        return named or recorded_ablation(config_of(next(iter(cells.values()))).ablation)
    except InputError as error:
        return error


def _name(run: Run) -> str:
    return f"{config_of(run).run_name} ({run.info.run_id[:8]})"
