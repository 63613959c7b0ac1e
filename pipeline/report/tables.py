"""The tables of a report: cells as text, for HTML, Markdown and the terminal."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.errors import percent
from pipeline.report.findings import Analysis, Finding, RateResult
from pipeline.runs.record import STUCK
from pipeline.statistics.comparisons import Summary
from pipeline.statistics.intervals import Interval
from pipeline.statistics.outcomes import OutcomeMeasure, digits
from pipeline.statistics.sentences import capitalized

SMALLEST_P = 0.0001  # below it, digits say nothing more


class Table(NamedTuple):
    """Cells as text. words: all columns are words or paths, not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


def format_summary(analysis: Analysis) -> str:
    """A table of the variants for a terminal."""
    settings = [analysis.main] if analysis.main else analysis.by_rate
    header, rows, _ = variants_table(analysis, settings)
    return str(pd.DataFrame(rows, columns=header).to_string(index=False))


def variants_table(analysis: Analysis, settings: Sequence[RateResult]) -> Table:
    """A row per variant and learning rate."""
    outcome = analysis.outcomes[analysis.primary]
    header = ["variant", "lr", "seeds", outcome.name, "sd", "95 % interval", "loss", "parameters"]
    loss = analysis.primary.replace("accuracy", "loss")
    rows = []
    for at_rate in settings:
        sizes = at_rate.table.groupby("variant")["parameters"].first()
        for variant, one in at_rate.summaries[analysis.primary].items():
            lost = at_rate.summaries[loss].get(variant)
            best = " (best)" if at_rate.label == "best" else ""
            rows.append(
                [
                    variant,
                    f"{at_rate.rates[variant]:g}{best}",
                    str(one.seeds),
                    percent(one.mean),
                    "-" if one.sd is None else outcome.show(one.sd, extra=1),
                    _interval_of_mean(one, outcome),
                    f"{lost.mean:.3f}" if lost else "-",
                    f"{sizes[variant]:,}",
                ]
            )
    return Table(header, rows)


def cost_table(analysis: Analysis, at_rate: RateResult) -> Table:
    """A row per variant: parameters, times and speed."""
    columns = {"parameters": "parameters", "seconds": "seconds", "images_per_second": "images/s"}
    if analysis.target:
        goal = f"to {percent(analysis.target, 0)}"
        columns |= {"epochs_to_target": f"epochs {goal}", "seconds_to_target": f"seconds {goal}"}
    means = at_rate.table.groupby("variant")[list(columns)].mean()
    rows = [
        [variant, *(f"{value:,.{1 if value < 100 else 0}f}" for value in means.loc[variant])]
        for variant in at_rate.rates
    ]
    return Table(["variant (means)", *columns.values()], rows)


def effects_table(analysis: Analysis, settings: Sequence[RateResult], keys: Sequence[str]) -> Table:
    """A row per comparison, outcome and learning rate; one outcome is left to the caption."""
    rates, outcomes = len(analysis.by_rate) > 1, len(keys) > 1
    header = ["effect", *(["on"] if outcomes else []), *(["lr"] if rates else []), "seeds"]
    header += ["difference", "95 % interval", "p", "other images too", "correlation"]
    header += ["without pairing", "variants"]
    rows = []
    for at_rate in settings:
        for key in keys:
            name = analysis.outcomes[key].name.removeprefix("the ")
            for finding in at_rate.findings[key]:
                effect = [capitalized(finding.contrast.words), *([name] if outcomes else [])]
                effect += [at_rate.label] if rates else []
                rows.append([*effect, *_numbers(finding), finding.contrast.label])
    return Table(header, rows)


def runs_table(analysis: Analysis) -> Table:
    """A row per run."""
    table, outcome = analysis.table, analysis.outcomes[analysis.primary]
    header = ["run", outcome.name, "loss", "seconds", "run id", "commit", "model"]
    rows = [
        [
            row.run + " (stuck)" * (row.learning == STUCK) + " (reused)" * row.reused,
            percent(getattr(row, analysis.primary)),
            f"{getattr(row, analysis.primary.replace('accuracy', 'loss')):.3f}",
            f"{row.seconds:.0f}",
            row.run_id,
            re.sub(r"^(.{7})[0-9a-f]*", r"\1", row.commit) or "-",
            row.model or "-",
        ]
        for row in table.itertuples()
    ]
    return Table(header, rows)


def can_not_tell(seeds: int) -> str:
    """What is shown instead of an interval that reaches impossible values, or has no end."""
    return f"{seeds} seeds can't tell"


def _numbers(finding: Finding) -> list[str]:
    one, shown, outcome = finding.comparison, finding.shown, finding.outcome

    def show(*numbers: float) -> str:
        # One decimal more than means have: whether an interval includes 0 must be visible.
        return outcome.show(*numbers, sign=True, extra=1)

    def cell(interval: Interval | None, is_known: object) -> str:
        if interval is None:
            return can_not_tell(one.seeds) if is_known else "-"
        return show(*interval)

    return [
        str(one.seeds),
        f"{show(one.difference)} {outcome.unit}",
        cell(shown.interval, one.sd),
        _p_value(one.p_value),
        cell(shown.images, one.images),
        "-" if one.correlation is None else digits(one.correlation, "+.2f"),
        cell(shown.unpaired, one.unpaired),
    ]


def _interval_of_mean(one: Summary, outcome: OutcomeMeasure) -> str:
    if one.shown:
        return outcome.show(*one.shown)
    if not one.sd:
        return "-"
    enough = f", about {one.seeds_to_show} would" if one.seeds_to_show else ""
    return f"{can_not_tell(one.seeds)}{enough}"


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:.4f}"
