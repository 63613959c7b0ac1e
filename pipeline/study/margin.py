"""How many seeds a study needs to know each effect to within a margin, and how it came to them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from pipeline.config import Config
from pipeline.report.analysis import analyse
from pipeline.report.findings import INTERACTION, TWO_BY_TWO, Finding
from pipeline.report.publish import REPORTED
from pipeline.runs.run_result import RunResult
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.intervals import PLANNED, Design, seeds_for_margin
from pipeline.study.grid import Grid


def choose_design(grid: Grid, reused: Iterable[RunResult]) -> Design:
    """Choose intervals that are valid for the grid's plan, and for what was reported before."""
    earlier = {result.tags.get(REPORTED, grid.plan) for result in reused} - {grid.plan}
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


def seeds_needed(results: Sequence[RunResult], grid: Grid, design: Design) -> dict[str, int]:
    """How many seeds of each variant the margin needs, judged by the finished runs."""
    needed = dict.fromkeys(grid.variants, FIRST_SEEDS)
    analysis = analyse(results, design)
    assert analysis.main  # seeds=auto has one learning rate
    findings = analysis.main.findings[analysis.primary]
    for finding in findings:
        seeds = _seeds_of_effect(finding, grid, design, len(findings))
        pair = finding.pair
        for variant in TWO_BY_TWO if pair == INTERACTION else (pair.treatment, pair.control):
            needed[variant] = max(needed[variant], seeds)
    return needed


def _seeds_of_effect(finding: Finding, grid: Grid, design: Design, comparisons: int) -> int:
    one, margin = finding.comparison, grid.margin / finding.outcome.scale
    if not one.sd:  # one seed, or no spread
        return FIRST_SEEDS
    sd = one.sd
    if one.interval:  # it may rest on the first seeds only
        half = (one.interval.high - one.interval.low) / 2
        sd = half * math.sqrt(one.seeds) / design.critical_t(one.seeds, comparisons)
    return seeds_for_margin(sd, margin, one.seeds, len(grid.seeds), comparisons, design)


def expectation(needed: Mapping[str, int], finished: Mapping[Config, RunResult], jobs: int) -> str:
    """Say how many seeds each variant needs, and how long the missing runs take."""
    have = {(config.variant, config.seed) for config in finished}
    cells = {(variant, seed) for variant, count in needed.items() for seed in range(count)}
    missing = len(cells - have)
    seeds = ", ".join(f"{count} of {variant}" for variant, count in needed.items())
    seconds = sum(result.seconds for result in finished.values()) / len(finished)
    wait = timedelta(seconds=round(seconds * missing / jobs))
    return f"seeds needed: {seeds}; {missing} more run{'s' * (missing != 1)}, about {wait}"
