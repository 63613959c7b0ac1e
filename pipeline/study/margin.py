"""How many seeds a study needs to know each effect to within a margin, and how it came to them."""

import math
from collections.abc import Mapping, Set
from datetime import timedelta

import mlflow
from mlflow.entities import Run
from tqdm import tqdm

from pipeline.config import Config
from pipeline.report.analysis import analyse
from pipeline.report.findings import INTERACTION, TWO_BY_TWO, Finding
from pipeline.runs.run_result import RunResult
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import PLANNED, Design, seeds_for_margin
from pipeline.store.waiting import in_store
from pipeline.study.grid import Grid


def choose_design(grid: Grid, reported: Set[str]) -> Design:
    """Choose intervals that are valid for the grid's plan, and after earlier reports.

    reported: the plans with which any of these variants and seeds were reported before.
    """
    earlier = reported - {grid.plan}
    if earlier:
        return Design(
            "anytime",
            f"An earlier report contains some of these runs (with {min(earlier)}), so seeds may"
            " have been added because of what it said.",
        )
    if grid.margin:
        return Design(
            "two-stage",
            f"Seeds were added until each effect was known to within ± {grid.margin:g} points, or"
            f" there were {len(grid.seeds)}.",
        )
    return PLANNED


class Expectation:
    """How many seeds of each variant the margin needs, judged by the runs in `finished`.

    It says so on the terminal and in the study's tag, and how long the missing runs take.
    """

    def __init__(
        self,
        study: Run,
        grid: Grid,
        design: Design,
        jobs: int,
        finished: Mapping[Config, RunResult],
    ) -> None:
        self.study, self.grid, self.design = study, grid, design
        self.jobs, self.finished = jobs, finished
        self.run_seconds: float | None = None  # by the first epoch, until a run has finished

    def needed(self) -> dict[str, int]:
        """How many seeds of each variant: never fewer than the first ones."""
        needed = dict.fromkeys(self.grid.variants, FIRST_SEEDS)
        if not self.finished:
            return needed
        analysis = analyse(list(self.finished.values()), self.design)
        assert analysis.main  # seeds=auto has one learning rate
        findings = analysis.main.findings[analysis.primary]
        for finding in findings:
            seeds = _seeds_of_effect(finding, self.grid, self.design, len(findings))
            pair = finding.pair
            for variant in TWO_BY_TWO if pair == INTERACTION else (pair.treatment, pair.control):
                needed[variant] = max(needed[variant], seeds)
        return needed

    def time_first_epoch(self, config: Config, seconds: float) -> None:
        """Estimate the time of a run, if nothing is known about it yet."""
        if self.run_seconds is None and not self.finished:
            self.run_seconds = seconds * config.epochs
            self.say()

    def say(self) -> None:
        """Print what is expected, and store it."""
        needed = self.needed()
        have = {(config.variant, config.seed) for config in self.finished}
        complete = min(sum(variant == v for v, _ in have) for variant in needed)
        if complete < 2:  # no spread yet
            basis = f"at least (at most {len(self.grid.seeds)} of each)"
        elif complete < FIRST_SEEDS:
            basis = f"expected after {complete} of each"
        else:
            basis = "needed"
        cells = {(variant, seed) for variant, count in needed.items() for seed in range(count)}
        missing = len(cells - have)
        seeds = ", ".join(f"{count} of {variant}" for variant, count in needed.items())
        more = f"{missing} more run{'s' * (missing != 1)}, {self._time(missing)}"
        message = f"seeds {basis}: {seeds}; {more}"
        tqdm.write(message)
        client = mlflow.MlflowClient()
        in_store(client.set_tag)(self.study.info.run_id, "seeds_needed", message)

    def _time(self, runs: int) -> str:
        """How long that many runs take, in words."""
        seconds = self.run_seconds
        if self.finished:
            seconds = sum(one.seconds for one in self.finished.values()) / len(self.finished)
        if seconds is None:
            return "and the first epoch will show how long they take"
        return f"about {timedelta(seconds=round(seconds * runs / self.jobs))}"


def _seeds_of_effect(finding: Finding, grid: Grid, design: Design, comparisons: int) -> int:
    one, margin = finding.comparison, grid.margin / finding.outcome.scale
    if not one.sd:  # one seed, or no spread
        return FIRST_SEEDS
    sd = one.sd
    if one.interval:  # it may rest on the first seeds only
        half = (one.interval.high - one.interval.low) / 2
        sd = half * math.sqrt(one.seeds) / design.critical_t(one.seeds, comparisons)
    return seeds_for_margin(sd, margin, one.seeds, len(grid.seeds), comparisons, design)
