"""How many seeds it takes to know each effect to within a margin, and what design that makes."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

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


def choose_design(plan: Plan, reported: Set[Plan]) -> Design:
    """Choose intervals that are valid for a plan, and after earlier reports.

    reported: the plans with which any of these variants and seeds were reported before.
    """
    if reported - {plan}:
        return after_reports(reported - {plan}, plan.margin)
    if plan.margin:
        return Design(
            "two-stage",
            "The number of seeds was chosen so that each effect would be known to within"
            f" ± {f'{plan.margin:g} {plan.unit}'.rstrip()}, with at most {len(plan.seeds)} seeds of"
            " each variant.",
            PLANNED_ALPHA,
            plan.margin,
        )
    return PLANNED


def after_reports(plans: Set[Plan], margin: float = 0.0) -> Design:
    """The design of seeds that were added after reports with these plans."""
    planned = [plan for plan in plans if not plan.chosen_later]
    first = min(planned or plans, key=lambda plan: plan.words)
    return Design(
        "anytime",
        f"An earlier report (plan: {first.words}) contains some of these runs, so the choice of"
        " seeds may depend on its results.",
        LATER_ALPHA if planned else ALPHA,
        margin,
    )


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

        How many it needs follows from the first ones, so they must be complete.
        """
        while not self.failures and (missing := self.missing(self.needed())):
            yield [cell for cell in missing if cell.seed < FIRST_SEEDS] or missing

    def missing(self, needed: Mapping[str, int]) -> list[Config]:
        """The cells that are needed, and neither finished nor failed."""
        return [
            cell
            for cell in self.study.cells
            if cell.seed < needed[cell.variant]
            and cell not in self.finished
            and cell.run_name not in self.failures
        ]

    def needed(self) -> dict[str, int]:
        """How many seeds of each variant: never fewer than the first ones."""
        needed = dict.fromkeys(self.study.grid.variants, FIRST_SEEDS)
        if not self.finished:
            return needed
        analysis = self.study.analyse(list(self.finished.values()), self.design)
        findings = analysis.shown.findings[analysis.primary]
        for finding in findings:
            seeds = _seeds_of_effect(finding, self.study.grid, self.design, len(findings))
            for variant in finding.contrast.variants:
                needed[variant] = max(needed[variant], seeds)
        return needed

    def say(self) -> None:
        """Say what is expected, and store it."""
        trained = Counter(cell.variant for cell in self.finished)
        complete = min(trained[variant] for variant in self.study.grid.variants)
        about, basis = "", ""
        if complete < 2:  # no spread yet
            about, basis = "at least ", f" (at most {len(self.study.grid.seeds)} of each)"
        elif complete < FIRST_SEEDS:
            about, basis = "about ", f" (estimated from {complete} of each)"
        needed = self.needed()
        missing = self.missing(needed)
        seeds = ", ".join(f"{count} of {variant}" for variant, count in needed.items())
        time = self.forecast.in_words(self.forecast.seconds(dict.fromkeys(missing, 0)))
        more = f"{plural(len(missing), 'more run')}, {time}"
        done = "trained" if self.study.verb == "train" else "run"
        message = f"seeds needed: {about}{seeds}{basis}; {more if missing else f'all are {done}'}"
        log.info(message)
        client = mlflow.MlflowClient()
        in_store(client.set_tag)(self.study_id, "seeds_needed", message)


def _seeds_of_effect(finding: Finding, grid: Grid, design: Design, comparisons: int) -> int:
    one, margin = finding.comparison, grid.margin / finding.outcome.scale
    if not one.sd:  # one seed, or no spread
        return FIRST_SEEDS
    sd = one.sd
    if one.interval:  # it may rest on the first seeds only
        half = (one.interval.high - one.interval.low) / 2
        sd = half * math.sqrt(one.seeds) / design.critical_t(one.seeds, comparisons)
    return seeds_for_margin(sd, margin, one.seeds, len(grid.seeds), comparisons, design)
