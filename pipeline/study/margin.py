"""How many seeds it takes to know each effect to within a margin, and what design that makes."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import mlflow

from pipeline.ablation.definition import Ablation
from pipeline.config import Config
from pipeline.errors import InputError, plural
from pipeline.report.contrasts import contrasts
from pipeline.report.findings import Finding
from pipeline.runs.plan import Plan
from pipeline.runs.record import RunRecord
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import (
    ALPHA,
    LATER_ALPHA,
    PLANNED,
    PLANNED_ALPHA,
    WITHIN,
    Design,
    seeds_for_margin,
)
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast
from pipeline.study.grid import Grid
from pipeline.study.subject import Subject

log = logging.getLogger(__name__)


def check_effects(ablation: Ablation, grid: Grid) -> None:
    """Raise InputError if `seeds=auto` has no effect to measure."""
    pairs = [one.variants for one in contrasts(ablation) if not one.effect]
    if grid.margin and not any(set(pair) <= set(grid.variants) for pair in pairs):
        example = f", such as {','.join(reversed(pairs[0]))}" if pairs else ""
        raise InputError(
            f"seeds=auto needs an effect to measure; variants={','.join(grid.variants)} has no pair"
            f" to compare{example}"
        )


def choose_design(plan: Plan, reported: Sequence[Plan]) -> Design:
    """Choose intervals that are valid for a plan, and after earlier reports.

    reported: the plans with which any of these variants and seeds were reported, the oldest first.
    """
    if others := [one for one in reported if one != plan]:
        return after_reports(others, plan)
    plan = next(iter(reported), plan)  # the same, but what it says of the most seeds
    if not plan.margin:
        return replace(PLANNED, most=plan.most)
    most, within = len(plan.seeds), f"± {f'{plan.margin:g} {plan.unit}'.rstrip()}"
    until = f"each effect would be known to within {within}"
    if plan.stop_early:
        until += ", or shown to exceed that, or to be too small to matter"
    reason = f"Seeds were to be added until {until}, with at most {most} seeds of each variant."
    if plan.stop_early:
        return Design("anytime", reason, ALPHA, plan.margin, most, stop_early=True)
    return Design("fixed-width", reason, PLANNED_ALPHA, plan.margin, most)


def after_reports(reported: Sequence[Plan], plan: Plan) -> Design:
    """The design of a `plan` whose seeds were added after reports with other plans, oldest first.

    The end of looks that the first of them named holds, if seeds were only added since then.
    """
    first, same = reported[0], [one for one in reported if one.value == plan.value]
    exploratory = first.value != plan.value
    reason = f"An earlier report (plan: {first.words}) contains some of these runs, "
    reason += (
        "and counted another value of them: what counts here was chosen later, and this report is"
        " exploratory."
        if exploratory
        else "so the choice of seeds may depend on its results."
    )
    design = Design(
        "anytime",
        reason,
        LATER_ALPHA,
        plan.margin,
        stop_early=plan.stop_early,
        follows=True,
        exploratory=exploratory,
    )
    if exploratory:
        return design
    if all((one.chosen_later or one.stop_early) and not one.follows for one in same):
        return replace(design, alpha=ALPHA)  # no report has spent a part of it
    if not any(map(has_end, same)):
        return design
    seeds = [set(one.seeds) for one in (*same, plan)]
    is_growing = all(one <= more for one, more in itertools.pairwise(seeds))
    if is_growing and has_end(first) and not any(one.chosen_later for one in same):
        return replace(design, most=first.most, later_than=len(first.seeds))
    return replace(design, alpha=(1 - WITHIN) * LATER_ALPHA)


def has_end(plan: Plan) -> bool:
    """Whether looks after the report of a plan may have an end."""
    planned = replace(PLANNED, most=plan.most)
    return not (plan.margin or plan.chosen_later) and planned.after(len(plan.seeds)).ends


@dataclass
class Expectation:
    """How many seeds of each variant the margin needs, judged by the runs in `finished`.

    It says so in the study's tag, too, and how long the missing runs take.
    """

    study: Subject
    study_id: str
    design: Design
    forecast: Forecast
    finished: Mapping[Config, RunRecord]
    failures: Mapping[str, str]

    def stages(self) -> Iterator[Sequence[Config]]:
        """Yield the cells to train next, as long as the margin is found to need any.

        First those that are needed in any case. Then half of the seeds that seem to be missing, or
        as many as all jobs can train at once: the spread of more seeds may show that fewer do.
        """
        while not self.failures and (missing := self.missing(self.needed())):
            complete = self._order()[:FIRST_SEEDS]
            first = [cell for cell in missing if cell.seed in complete]
            by_seed = itertools.groupby(missing, key=lambda cell: cell.seed)
            seeds = [list(cells) for _, cells in by_seed]
            jobs = math.ceil(self.study.engine.jobs.number / len(seeds[0]))
            count = max(jobs, math.ceil(len(seeds) / 2))
            yield first or list(itertools.chain(*seeds[:count]))

    def missing(self, needed: Mapping[str, int]) -> list[Config]:
        """The cells that are needed, and neither finished nor failed."""
        place = {seed: n for n, seed in enumerate(self._order())}
        return [
            cell
            for cell in self.study.cells
            if place[cell.seed] < needed[cell.variant]
            and cell not in self.finished
            and cell.run_name not in self.failures
        ]

    def _order(self) -> list[int]:
        """The seeds: first those with the most runs, as of earlier studies that left some out."""
        runs = Counter(cell.seed for cell in self.finished)
        return sorted(self.study.grid.seeds, key=lambda seed: -runs[seed])

    def needed(self) -> dict[str, int]:
        """How many seeds of each variant: never fewer than the first ones."""
        needed = dict.fromkeys(self.study.grid.variants, FIRST_SEEDS)
        if not self.finished:
            return needed
        analysis = self.study.analyse(list(self.finished.values()), self.design)
        findings = analysis.shown.findings[analysis.primary]
        for finding in findings:
            seeds = self._needed_for(finding, len(findings))
            for variant in finding.contrast.variants:
                needed[variant] = max(needed[variant], seeds)
        return needed

    def _needed_for(self, finding: Finding, comparisons: int) -> int:
        """How many seeds an effect needs; those that it has, if they are enough."""
        one, grid = finding.comparison, self.study.grid
        if not one.sd:  # one seed, or no spread
            return FIRST_SEEDS
        margin, seeds = grid.margin / finding.outcome.scale, max(one.seeds, FIRST_SEEDS)
        if finding.is_known(margin) or (grid.stop_early and finding.answer(margin)):
            return seeds
        return seeds_for_margin(one.sd, margin, seeds, len(grid.seeds), comparisons, self.design)

    def say(self) -> None:
        """Say what is expected, and store it."""
        trained = Counter(cell.variant for cell in self.finished)
        complete = min(trained[variant] for variant in self.study.grid.variants)
        about, basis = "", ""
        needed = self.needed()
        missing = self.missing(needed)
        if complete < 2:  # no spread yet
            about, basis = "at least ", f" (at most {len(self.study.grid.seeds)} of each)"
        elif complete < FIRST_SEEDS:
            about, basis = "about ", f" (estimated from {complete} of each)"
        elif missing:
            about, basis = "about ", " (by the spread so far)"
        seeds = ", ".join(f"{count} of {variant}" for variant, count in needed.items())
        time = self.forecast.in_words(self.forecast.seconds(dict.fromkeys(missing, 0)))
        more = f"{plural(len(missing), 'more run')}, {time}"
        done = "trained" if self.study.verb == "train" else "run"
        message = f"seeds needed: {about}{seeds}{basis}; {more if missing else f'all are {done}'}"
        log.info(message)
        client = mlflow.MlflowClient()
        in_store(client.set_tag)(self.study_id, "seeds_needed", message)
