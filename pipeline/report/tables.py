"""The tables of a report: cells as text, for HTML, Markdown and the terminal."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import percent, plural
from pipeline.report.findings import Analysis, Finding, NetworkAnalysis, RateResult
from pipeline.report.runs_analysis import AnyAnalysis, RunsAnalysis
from pipeline.runs.record import STUCK
from pipeline.statistics.comparisons import Comparison, Summary
from pipeline.statistics.intervals import Interval
from pipeline.statistics.outcomes import OutcomeMeasure, digits
from pipeline.statistics.sentences import capitalized

SMALLEST_P = 0.0001  # below it, digits say nothing more


class Table(NamedTuple):
    """Cells as text. words: all columns are words or paths, not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


def format_summary(analysis: AnyAnalysis) -> str:
    """A table of the variants for a terminal."""
    if isinstance(analysis, NetworkAnalysis):
        settings = [analysis.main] if analysis.main else analysis.by_rate
        header, rows, _ = variants_table(analysis, settings)
    else:
        header, rows, _ = measured_table(analysis)
    return str(pd.DataFrame(rows, columns=header).to_string(index=False))


def variants_table(analysis: NetworkAnalysis, settings: Sequence[RateResult]) -> Table:
    """A row per variant and learning rate."""
    outcome = analysis.outcomes[analysis.primary]
    last = analysis.last_epoch
    header = ["variant", "lr", "seeds", outcome.label, "sd", "95 % interval"]
    header += [*(["last epoch"] if last else []), "loss", "parameters"]
    rows = []
    for at_rate in settings:
        sizes = at_rate.table.groupby("variant")["parameters"].first()
        for variant, one in at_rate.summaries[analysis.primary].items():
            lost = at_rate.summaries[analysis.loss].get(variant)
            best = " (best)" if at_rate.label == "best" else ""
            rows.append(
                [
                    variant,
                    f"{at_rate.rates[variant]:g}{best}",
                    str(one.seeds),
                    percent(one.mean),
                    "-" if one.sd is None else outcome.show(one.sd, extra=1),
                    interval_of_mean(one, outcome),
                    *([percent(at_rate.summaries[last][variant].mean)] if last else []),
                    f"{lost.mean:.3f}" if lost else "-",
                    f"{sizes[variant]:,}",
                ]
            )
    return Table(header, rows)


def cost_table(analysis: NetworkAnalysis, at_rate: RateResult) -> Table:
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
    images, paired = isinstance(analysis, NetworkAnalysis), bool(analysis.pair)
    header = ["effect", *(["on"] if outcomes else []), *(["lr"] if rates else [])]
    header += [f"{analysis.noun}s", "difference", "95 % interval", "p"]
    header += [*(["other images too"] if images else [])]
    header += [*(["correlation", "without pairing"] if paired else []), "variants"]
    rows = []
    for at_rate in settings:
        for key in keys:
            name = analysis.outcomes[key].label
            for finding in at_rate.findings[key]:
                effect = [capitalized(finding.contrast.words), *([name] if outcomes else [])]
                effect += [at_rate.label] if rates else []
                cells = _numbers(finding, analysis.noun)
                shown = [
                    *cells[:4],
                    *(cells[4:5] if images else []),
                    *(cells[5:] if paired else []),
                ]
                rows.append([*effect, *shown, finding.contrast.label])
    return Table(header, rows)


def runs_table(analysis: NetworkAnalysis) -> Table:
    """A row per run."""
    table, outcome = analysis.table, analysis.outcomes[analysis.primary]
    last = analysis.last_epoch
    header = ["run", outcome.label, *(["last epoch"] if last else []), "loss", "seconds"]
    header += ["run id", "commit", "model"]
    rows = [
        [
            row.run + " (stuck)" * (row.learning == STUCK) + " (reused)" * row.reused,
            percent(getattr(row, analysis.primary)),
            *([percent(getattr(row, last))] if last else []),
            f"{getattr(row, analysis.loss):.3f}",
            f"{row.seconds:.0f}",
            row.run_id,
            re.sub(r"^(.{7})[0-9a-f]*", r"\1", row.commit) or "-",
            row.model or "-",
        ]
        for row in table.itertuples()
    ]
    return Table(header, rows)


def measured_table(analysis: RunsAnalysis) -> Table:
    """A row per variant, with the primary outcome, and the means of the others."""
    outcome, primary = analysis.outcomes[analysis.primary], analysis.primary
    others = [key for key in analysis.outcomes if key != primary]
    header = ["variant", "runs", outcome.name, "sd", "95 % interval"]
    rows = []
    for variant, one in analysis.shown.summaries[primary].items():
        sd = "-" if one.sd is None else outcome.show(one.sd, extra=1)
        interval = interval_of_mean(one, outcome, analysis.noun)
        row = [variant, str(one.seeds), outcome.show(one.mean), sd, interval]
        for key in others:
            summary = analysis.shown.summaries[key].get(variant)
            row.append(analysis.outcomes[key].show(summary.mean) if summary else "-")
        rows.append(row)
    return Table([*header, *(analysis.outcomes[key].name for key in others)], rows)


def settings_table(analysis: RunsAnalysis) -> Table:
    """A row per variant, with the values that make it one, and what else differs."""
    settings = analysis.what.settings
    names = list(dict.fromkeys(name for own in settings.values() for name in own))
    rows = [
        [variant, *(str(settings[variant].get(name, "-")) for name in names)]
        for variant in analysis.shown.variants
    ]
    return Table(["variant", *names], rows, words=True)


def measured_runs_table(analysis: RunsAnalysis) -> Table:
    """A row per run."""
    pair = [analysis.noun] if analysis.pair else []
    names = [outcome.name for outcome in analysis.outcomes.values()]
    rows = [
        [
            row["run"],
            row["variant"],
            *([row["pair"]] if pair else []),
            *(
                outcome.show(row[key], extra=1) if np.isfinite(row[key]) else "-"
                for key, outcome in analysis.outcomes.items()
            ),
            row["run_id"] or "-",
        ]
        for row in analysis.table.to_dict("records")
    ]
    return Table(["run", "variant", *pair, *names, "run id"], rows)


def can_not_tell(count: int, noun: str = "seed") -> str:
    """What is shown instead of an interval that reaches impossible values, or has no end."""
    return f"{plural(count, noun)} can't tell"


def counted(one: Comparison, noun: str) -> str:
    """What a comparison rests on: `5 seeds`, or `5 and 7 runs`."""
    sizes = _sizes(one)
    return f"{sizes} {noun}{'s' * (sizes != '1')}"


def _sizes(one: Comparison) -> str:
    return " and ".join(f"{size:,}" for size in one.sizes or [one.seeds])


def _numbers(finding: Finding, noun: str) -> list[str]:
    one, shown, outcome = finding.comparison, finding.shown, finding.outcome

    def show(*numbers: float) -> str:
        # One decimal more than means have: whether an interval includes 0 must be visible.
        return outcome.show(*numbers, sign=True, extra=1)

    def cell(interval: Interval | None, is_known: object) -> str:
        if interval is None:
            return can_not_tell(one.seeds, noun) if is_known else "-"
        return show(*interval)

    return [
        _sizes(one),
        f"{show(one.difference)} {outcome.unit}".rstrip(),
        cell(shown.interval, one.sd),
        _p_value(one.p_value),
        cell(shown.images, one.images),
        "-" if one.correlation is None else digits(one.correlation, "+.2f"),
        cell(shown.unpaired, one.unpaired),
    ]


def interval_of_mean(one: Summary, outcome: OutcomeMeasure, noun: str = "seed") -> str:
    """The interval of a mean, or how many seeds would tell."""
    if one.shown:
        return outcome.show(*one.shown)
    if not one.sd:
        return "-"
    enough = f", about {one.seeds_to_show} would" if one.seeds_to_show else ""
    return f"{can_not_tell(one.seeds, noun)}{enough}"


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:.4f}"
