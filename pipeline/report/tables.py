"""The tables of a report: cells as text, for HTML, Markdown and the terminal."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.report.findings import Analysis, Finding, Setting
from pipeline.statistics.comparisons import Outcome, Summary
from pipeline.statistics.intervals import Interval


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


def variants_table(analysis: Analysis, settings: Sequence[Setting]) -> Table:
    """A row per variant and learning rate."""
    outcome = analysis.outcomes[analysis.primary]
    header = ["variant", "lr", "seeds", outcome.name, "sd", "95 % interval", "loss", "parameters"]
    loss = analysis.primary.replace("accuracy", "loss")
    rows = []
    for setting in settings:
        sizes = setting.table.groupby("variant")["parameters"].first()
        for variant, one in setting.summaries[analysis.primary].items():
            lost = setting.summaries[loss].get(variant)
            best = " (best)" if setting.label == "best" else ""
            rows.append(
                [
                    variant,
                    f"{setting.rates[variant]:g}{best}",
                    str(one.seeds),
                    f"{one.mean:.1%}",
                    f"{one.sd * outcome.scale:.2f}" if one.sd is not None else "-",
                    _interval_of_mean(one, outcome),
                    f"{lost.mean:.3f}" if lost else "-",
                    f"{sizes[variant]:,}",
                ]
            )
    return Table(header, rows)


def cost_table(analysis: Analysis, setting: Setting) -> Table:
    """A row per variant: parameters, times and speed."""
    columns = {"parameters": "parameters", "seconds": "seconds", "images_per_second": "images/s"}
    if analysis.target:
        goal = f"to {analysis.target:.0%}"
        columns |= {"epochs_to_target": f"epochs {goal}", "seconds_to_target": f"seconds {goal}"}
    means = setting.table.groupby("variant")[list(columns)].mean()
    rows = [
        [variant, *(f"{value:,.{1 if value < 100 else 0}f}" for value in means.loc[variant])]
        for variant in setting.rates
    ]
    return Table(["variant (means)", *columns.values()], rows)


def effects_table(analysis: Analysis, settings: Sequence[Setting], keys: Sequence[str]) -> Table:
    """A row per comparison, outcome and learning rate."""
    several = len(analysis.by_rate) > 1
    header = ["comparison", "outcome", *(["lr"] if several else []), "seeds", "difference"]
    header += ["95 % interval", "p", "other images too", "correlation", "without pairing"]
    rows = []
    for setting in settings:
        for key in keys:
            for finding in setting.findings[key]:
                what = [finding.contrast.label, finding.outcome.name.removeprefix("the ")]
                rows.append([*what, *([setting.label] if several else []), *_numbers(finding)])
    return Table(header, rows)


def runs_table(analysis: Analysis) -> Table:
    """A row per run."""
    table, outcome = analysis.table, analysis.outcomes[analysis.primary]
    header = ["run", outcome.name, "loss", "seconds", "run id", "commit", "model"]
    rows = [
        [
            row.run + " (stuck)" * (row.learning == "stuck") + " (reused)" * row.reused,
            f"{getattr(row, analysis.primary):.2%}",
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

    def cell(interval: Interval | None, is_known: object) -> str:
        if interval is None:
            return can_not_tell(one.seeds) if is_known else "-"
        # One decimal more than means have: whether it includes 0 must be visible.
        return _interval(interval, outcome, f"+z,.{outcome.decimals + 1}f")

    return [
        str(one.seeds),
        f"{one.difference * outcome.scale:+z,.{outcome.decimals + 1}f} {outcome.unit}",
        cell(shown.interval, one.sd),
        "-" if one.p_value is None else f"{one.p_value:.2g}",
        cell(shown.images, one.images),
        "-" if one.correlation is None else f"{one.correlation:+.2f}",
        cell(shown.unpaired, one.unpaired),
    ]


def _interval_of_mean(one: Summary, outcome: Outcome) -> str:
    if one.shown:
        return _interval(one.shown, outcome, f"z,.{outcome.decimals}f")
    if not one.sd:
        return "-"
    enough = f", about {one.seeds_to_show} would" if one.seeds_to_show else ""
    return f"{can_not_tell(one.seeds)}{enough}"


def _interval(interval: Interval, outcome: Outcome, form: str) -> str:
    return " to ".join(format(bound * outcome.scale, form) for bound in interval)
