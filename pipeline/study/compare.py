"""Compare finished runs, however they were started, after checking that they can be compared."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import MOVED, load_ablation
from pipeline.config import AUTO, Config
from pipeline.errors import InputError, plural, shortlist
from pipeline.report.analysis import analyse
from pipeline.report.contrasts import contrasts
from pipeline.report.publish import Published, publish_study
from pipeline.runs.identity import differences
from pipeline.runs.lifecycle import track
from pipeline.runs.plan import LAST, Plan
from pipeline.runs.queries import Found, experiment_id, find_runs, get_runs
from pipeline.runs.record import RunRecord
from pipeline.runs.results import IncompleteRunError, read_results
from pipeline.statistics.intervals import ALPHA, Design
from pipeline.store import liveness
from pipeline.store.initialization import check_experiment_of
from pipeline.store.lookup import SHORT_ID
from pipeline.study.grid import Grid
from pipeline.study.margin import after_reports, choose_design

log = logging.getLogger(__name__)

Cell = tuple[str, int, float]  # variant, seed and learning rate
Unused = dict[str, str]  # by run, why it is not compared

UNPLANNED = Design(
    "anytime",
    "The runs were chosen for this comparison, and no plan says how many there would be.",
    ALPHA,
)
MAX_REASONS = 3  # why runs are not compared, on the terminal; the report has all
OTHERS = (
    "For others: --last N (the newest), --experiment NAME, or their ids or names (python -m"
    " pipeline list)"
)


def compare_runs(
    references: Sequence[str], experiment: str, ablation: str, last: int | None = None
) -> Published:
    """Publish the report of a study on the given runs, or on all training runs of the experiment.

    Or on its `last` ones that have finished. What was chosen is said first.

    Runs can be compared if they have the same recipe and data. The group that allows the most
    comparisons is used; the others are listed with what differs, and those that can't be
    understood with the reason. If a cell has several runs, the newest counts. The report goes to
    the runs' experiment.

    ablation: a reference to that of the runs; `auto` is the one that they were started with.

    Raises InputError for an unknown run, experiment or ablation, and if nothing can be compared.
    """
    liveness.mark_dead_runs()
    found = Found(get_runs(references))
    if not references:
        found = find_runs(experiment_id(experiment), {})
        found.records = found.records[:last]
    if not found.records:
        note = f"; {found.note}" if found.note else ""
        raise InputError(f"experiment {experiment!r} has no finished training run to compare{note}")
    definition, results, unused = _read_comparable(found, ablation)
    check_experiment_of(results[0].run_id, results[0].experiment_id)
    cells = [_cell(record.config) for record in results]
    variants, seeds, rates = (list(dict.fromkeys(axis)) for axis in zip(*cells, strict=True))
    value = _value(results)
    grid = Grid(variants, seeds, rates, value=value)
    design = _design(results, grid.plan.for_comparison())
    analysis = analyse(definition, results, design, value)
    if not analysis.compared:
        names = shortlist(sorted(record.config.run_name for record in results))
        others = [one for one in unused.items() if one[0] not in found.unreadable]
        reasons = "".join(f"; {run}: {reason}" for run, reason in others[:MAX_REASONS])
        raise InputError(
            "nothing to compare: it takes two variants that the ablation compares, with the same"
            f" recipe, seed and learning rate, but the runs are only: {names}{reasons}"
        )
    named = f"last {last}" if last else "all"
    if references:
        named = ",".join(record.run_id for record in found.records)
    else:
        log.info(_selection(results, len(found.records), "newest " * bool(last), experiment))
        log.info(OTHERS)
    settings = {"runs": named, "experiment": experiment}
    dataset = results[0].identity.dataset
    values = {"kind": "comparison", "ablation": definition.name, "dataset": dataset}
    name = f"comparison of {grid.title(definition.name, results[0].config)}"
    with track(name, settings, values, results[0].experiment_id):
        plan = replace(grid.plan.for_comparison(), follows=design.follows)
        return publish_study(analysis, unused, {}, plan)


def _selection(results: Sequence[RunRecord], count: int, which: str, experiment: str) -> str:
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
    found: Found[RunRecord], ablation: str
) -> tuple[Ablation, list[RunRecord], Unused]:
    """Read the runs that can be compared; those that can't be read are left out."""
    known: dict[str, RunRecord] = {}
    unreadable, left = dict(found.unreadable), list(found.records)
    while True:
        definition, chosen, unused = comparable(left, ablation)
        for record in chosen:
            try:
                known[record.run_id] = known.get(record.run_id) or read_results(record)
            except IncompleteRunError as error:
                unreadable[_name(record)] = str(error)
                left.remove(record)
        if all(record.run_id in known for record in chosen):
            results = [known[record.run_id] for record in chosen]
            return definition, results, unused | unreadable
        if not left:
            name, reason = next(iter(unreadable.items()))
            raise InputError(f"no run can be read; {name}: {reason}")


def _value(results: Sequence[RunRecord]) -> str:
    """Which of a run's accuracies counts: as all earlier reports have it, or else the last."""
    values = {one.reported_with.value for one in results if one.reported_with}
    return values.pop() if len(values) == 1 else LAST


def _design(results: Sequence[RunRecord], plan: Plan) -> Design:
    """Choose intervals: those of the only report there was, if these are all of its runs."""
    plans = dict.fromkeys(one.reported_with for one in sorted(results, key=lambda one: one.started))
    earlier = [plan for plan in plans if plan]
    if len(plans) == len(earlier) == 1:
        (first,) = earlier
        same = find_runs(None, {"data_digest": results[0].identity.data_digest}).records
        reported = {_cell(one.config) for one in same if one.reported_with == first}
        if not (first.chosen_later or first.follows) and reported == {
            _cell(one.config) for one in results
        }:
            reason = f"The first report on these runs had exactly these (plan: {first.words})."
            return replace(choose_design(first, []), reason=reason)
    return after_reports(earlier, plan) if earlier else UNPLANNED


def _cell(config: Config) -> Cell:
    return config.variant, config.seed, config.lr


def comparable(
    found: Sequence[RunRecord], reference: str = AUTO
) -> tuple[Ablation, list[RunRecord], Unused]:
    """Split runs into the group that allows the most comparisons, and the rest with the reasons.

    If groups tie, the larger is used, then the newer. Returns the group's ablation, too. With a
    `reference` to an ablation, only runs of that one can be in the group.
    """
    groups: dict[str, dict[Cell, RunRecord]] = defaultdict(dict)
    unused: Unused = {}
    for record in sorted(found, key=lambda record: -record.started):
        cells = groups[json.dumps(record.identity.recipe)]
        newest = cells.setdefault(_cell(record.config), record)
        if newest is not record:
            unused[_name(record)] = f"repeated by run {newest.run_id[:SHORT_ID]}"
    named = load_ablation(reference) if reference != AUTO else None
    ablations = {key: _ablation_of(cells, named) for key, cells in groups.items()}

    def rank(key: str) -> tuple[bool, int, int, int]:
        cells, ablation = groups[key], ablations[key]
        compared = contrasts(ablation) if isinstance(ablation, Ablation) else None
        pairs = sum(
            (one.control[0], *cell[1:]) in cells
            for one in compared or []
            for cell in cells
            if (cell[0],) == one.treatment  # an interaction has two
        )
        newest = max(record.started for record in cells.values())
        return compared is not None, pairs, len(cells), newest

    shared = max(groups, key=rank)
    ablation = ablations[shared]
    if isinstance(ablation, InputError):
        raise ablation
    for key, cells in groups.items():
        if key != shared:
            reason = differences(json.loads(key), json.loads(shared))
            unused |= {_name(record): reason for record in cells.values()}
    order = list(ablation.variants)
    chosen = {}
    for cell, record in groups[shared].items():
        if cell[0] in order and record.fits(ablation.values(cell[0])):
            chosen[cell] = record
        else:
            reason = f"{ablation.name} has no variant {cell[0]} with its settings now"
            unused[_name(record)] = reason
    if not chosen:
        raise InputError(
            f"{ablation.name} has none of the runs' variants: it has {shortlist(order)}"
        )
    ordered = sorted(chosen, key=lambda cell: (cell[1:], order.index(cell[0])))
    return ablation, [chosen[cell] for cell in ordered], unused


def _ablation_of(cells: Mapping[Cell, RunRecord], named: Ablation | None) -> Ablation | InputError:
    """The ablation of a group, which is that of its newest run, or why there is none."""
    newest = next(iter(cells.values()))
    if named and newest.identity.ablation != named.name:
        return InputError(f"none of the runs is of ablation {named.name!r}, which --ablation names")
    try:
        return named or load_ablation(newest.config.ablation, MOVED)
    except InputError as error:
        return error


def _name(record: RunRecord) -> str:
    return f"{record.config.run_name} ({record.run_id[:SHORT_ID]})"
