"""The figures and sections of a report on anybody's runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.errors import plural
from pipeline.outcome import mean_of
from pipeline.report.figures import COLOURS, draw_dots, effects_figure, looks_of, name_axis
from pipeline.report.runs_analysis import RunsAnalysis
from pipeline.report.sections import NORMAL_SEEDS, Section, effects_section, not_counted_section
from pipeline.report.tables import (
    Table,
    effects_table,
    measured_runs_table,
    measured_table,
    settings_table,
)
from pipeline.statistics.skewness import skewed_alarms

MAX_OPEN = 40  # runs that are listed without a click
GRID = 200  # steps at which a mean curve is computed
# Why repetitions may vary less than they should.
SHARE = {
    "fold": "folds of one cross-validation share training data, and vary less than new data would.",
    "seed": "runs that differ in their seed alone share their data, and say nothing about others.",
}


@rc_context({"text.parse_math": False})  # names are not formulas, even with two dollars
def runs_figures(analysis: RunsAnalysis) -> dict[str, Figure]:
    """The figures of a report, by name."""
    figures = {"effects": effects_figure(analysis)} if analysis.compared else {}
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    outcome = analysis.outcomes[analysis.primary]
    paired = bool(analysis.pair)
    draw_dots(figure.subplots(), analysis, analysis.shown, analysis.primary, outcome, joined=paired)
    figures["runs"] = figure
    if metrics := _with_curves(analysis):
        figures["curves"] = _curves_figure(analysis, metrics)
    return figures


def _with_curves(analysis: RunsAnalysis) -> list[str]:
    """The outcomes that some run has measured more than once."""
    return [
        one.metric
        for one in analysis.what.outcomes
        if any(len(run.curves.get(one.metric, ())) > 1 for run in analysis.runs)
    ]


def _curves_figure(analysis: RunsAnalysis, metrics: Sequence[str]) -> Figure:
    """Each outcome by step: of each variant the mean, and the range of its runs."""
    figure = Figure(figsize=(7, 0.8 + 3.4 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 1, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_curves(axes, analysis, metric)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = max(1, min(4, 90 // (max(map(len, labels), default=1) + 8)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _draw_curves(axes: Axes, analysis: RunsAnalysis, metric: str) -> None:
    outcome = next(one for one in analysis.outcomes.values() if one.name == metric)
    looks = looks_of(analysis)
    for variant in analysis.shown.variants:
        curves = [
            np.array([point for point in run.curves[metric] if np.isfinite(point[1])])
            for run in analysis.runs
            if run.variant == variant and len(run.curves.get(metric, ()))
        ]
        curves = [curve for curve in curves if len(curve)]
        if not curves:
            continue
        steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
        if len(steps) > GRID:
            steps = np.linspace(steps[0], steps[-1], GRID)
        # A run counts from its first step to its last one.
        values = np.array(
            [np.interp(steps, curve[:, 0], curve[:, 1], np.nan, np.nan) for curve in curves]
        )
        values *= outcome.scale
        counted = np.isfinite(values).sum(axis=0)
        mean = np.nansum(values, axis=0) / np.maximum(counted, 1)
        mean[counted == 0] = np.nan
        look = looks[variant] | {"markevery": max(1, len(steps) // 10)}
        axes.plot(steps, mean, **look, label=f"{variant} ({plural(len(curves), 'run')})")
        if len(curves) > 1 and _has_ranges(analysis):
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    name_axis(axes, outcome, outcome.unit)
    axes.grid(alpha=0.3)


def _has_ranges(analysis: RunsAnalysis) -> bool:
    """Whether curves show ranges, which would hide each other if there were many."""
    return len(analysis.shown.variants) <= len(COLOURS)


def runs_sections(
    analysis: RunsAnalysis, facts: Mapping[str, str], unused: Mapping[str, str]
) -> list[Section]:
    """Write the sections of a report: the effects first, then what they rest on.

    facts: how the comparison was made. unused: runs that are not in it, with the reason.
    """
    primary = analysis.what.outcomes[0]
    outcome = analysis.outcomes[analysis.primary]
    beside = list(analysis.outcomes)[1:2] if mean_of(primary.value) else []  # the last step alone
    others = [key for key in analysis.outcomes if key not in (analysis.primary, *beside)]
    how = (
        f"Comparisons are paired: the difference is taken for each {analysis.noun} that both"
        " variants have, so that whatever it does to both alike cancels out."
        if analysis.pair
        else "The runs are taken as independent samples, and the variants may have different"
        " variances: Welch's interval, or its counterpart that is valid at every look."
    )
    counts = f": {primary.words} counts" if analysis.has_steps else ""
    best = ""
    if primary.value in ("max", "min"):
        best = (
            " It is the extreme one of many noisy values, chosen for what it shows: on new data the"
            " run's model will hardly be as extreme, least of all where a curve is noisy or long."
        )
    joined = f"; a line joins the runs of one {analysis.noun}" if analysis.pair else ""
    sections = [
        effects_section(
            analysis,
            f"The primary outcome is {outcome.name}{counts}.{best} {how}",
            beside=beside,
        ),
        Section(
            "Variants",
            [
                f"{outcome.name} of each variant: mean, standard deviation and 95 % interval of"
                " the mean over its runs. These intervals hold one by one, not jointly."
            ],
            figures=[
                (
                    "runs",
                    f"Every run that is counted{joined}. Next to the dots, the mean with its 95 %"
                    " interval.",
                )
            ],
            tables=[measured_table(analysis)],
        ),
    ]
    if _with_curves(analysis):
        ranges = ", with the range from lowest to highest" if _has_ranges(analysis) else ""
        caption = f"By step: mean over the runs of a variant{ranges}."
        sections.append(Section("Curves", figures=[("curves", caption)]))
    if others:
        text = (
            "These outcomes were not named first, and nothing is corrected for testing several of"
            " them: treat them as exploratory."
        )
        table = effects_table(analysis, [analysis.shown], others)
        sections.append(Section("All other outcomes", [text], tables=[table], folded=True))
    how_compared = Table(["what", "value"], list(facts.items()), words=True)
    return [
        *sections,
        Section("Settings", tables=[settings_table(analysis)]),
        Section(
            "Runs", tables=[measured_runs_table(analysis)], folded=len(analysis.runs) > MAX_OPEN
        ),
        not_counted_section(unused),
        Section("How it was compared", tables=[how_compared]),
        Section("What this comparison can't say", bullets=[*_limits(analysis), *analysis.notes]),
    ]


def _limits(analysis: RunsAnalysis) -> list[str]:
    """What the comparison can't say, and what a reader may wrongly conclude from it."""
    noun = analysis.noun if analysis.pair else "run"
    counts = [one.seeds for one in analysis.shown.summaries[analysis.primary].values()]
    limits = [
        "Whether the settings of a variant are what makes the difference: what else differs is"
        " named as far as the runs have recorded it, as parameters, commits and digests of data.",
        "Whether the runs used the same data: MLflow's digest of a data set covers a sample of its"
        " rows, and leaves out some types of columns. Equal digests are no proof.",
        f"Whether {noun}s are independent of each other, as the intervals assume:"
        f" {SHARE.get(noun, SHARE['fold'])}",
    ]
    if counts and min(counts) < NORMAL_SEEDS:
        alarms = ""
        if min(counts) > 1 and analysis.comparisons and analysis.pair:
            alarms = " " + skewed_alarms(analysis.design, min(counts), analysis.comparisons)
        limits.append(
            "Whether the values are normally distributed, as the intervals assume:"
            f" {plural(min(counts), noun)} can't show it.{alarms}"
        )
    if any(one.margin is None for one in analysis.what.outcomes[:1]):
        limits.append(
            "Whether variants are equally good: that takes a margin, the largest difference that"
            " does not matter."
        )
    return limits
