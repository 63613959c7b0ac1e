"""Draw a report's figures, without pyplot, which would keep all of them in memory."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.errors import plural
from pipeline.report.findings import Analysis, Finding, NetworkAnalysis, RateResult
from pipeline.report.tables import can_not_tell, counted
from pipeline.runs.run_figures import label_epochs
from pipeline.statistics.comparisons import Summary
from pipeline.statistics.outcomes import OutcomeMeasure
from pipeline.statistics.sentences import capitalized

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart, with its pale yellow
# last; dashes and markers for grey print.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#D55E00", "#56B4E9", "#000000", "#F0E442"),
)
DASHES = (
    *("-", "--", "-.", ":", (0, (8, 2))),
    *((0, (4, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (6, 1, 6, 1, 1, 1))),
)
MARKERS = "os^DvPX*"
# Characters in a line: of effects, of their variants in small letters, of a variant's name, and of
# what lies below and beside a picture.
LONG_LABEL, LONG_SMALL, LONG_NAME = 50, 60, 24
LONG_BELOW, LONG_BESIDE = 70, 50
LINE, SMALL_LINE = 0.17, 0.14  # inches
COSTS = {
    "seconds": OutcomeMeasure("time of a run", "seconds"),
    "images_per_second": OutcomeMeasure("training speed", "images/s"),
}
MAX_LEVEL = 60  # characters of all variants' names next to each other
INK, GREY, PALE = "#222222", "#666666", "#999999"


def study_figures(analysis: NetworkAnalysis) -> dict[str, Figure]:
    """The figures of a report, by name."""
    shown = analysis.shown
    figures = {"effects": effects_figure(analysis)} if analysis.compared else {}
    figures["seeds"] = seeds_figure(analysis, shown)
    if len(analysis.by_rate) > 1:
        figures["learning_rates"] = rates_figure(analysis)
    figures["learning_curves"] = study_curves(analysis, shown)
    gap = {"generalisation_gap": analysis.outcomes["generalisation_gap"]}
    figures["generalisation_gap"] = outcome_figure(analysis, shown, gap)
    figures["cost"] = outcome_figure(analysis, shown, COSTS)
    return figures


def effects_figure(analysis: Analysis) -> Figure:
    """Each effect on the primary outcome, at each learning rate."""
    rows = []
    for at_rate in analysis.at_rates:
        rate = "best lr" if at_rate.label == "best" else f"lr\N{NO-BREAK SPACE}{at_rate.label}"
        where = f", {rate}" if len(analysis.at_rates) > 1 else ""
        rows += [(f"{f.contrast.words}{where}", f) for f in at_rate.findings[analysis.primary]]
    return forest_plot(rows, analysis.outcomes[analysis.primary], analysis.noun)


def forest_plot(
    rows: Sequence[tuple[str, Finding]], outcome: OutcomeMeasure, noun: str = "seed"
) -> Figure:
    """Effects on an outcome, each with its words and its 95 % interval. noun: of what is paired."""
    big = [_wrapped(capitalized(words), LONG_LABEL) for words, _ in rows]
    names = [f"{f.contrast.label}, {counted(f.shown, noun)}" for _, f in rows]
    small = [_wrapped(name, LONG_SMALL) for name in names]
    above = np.array([LINE * (1 + label.count("\n")) for label in big])
    below = np.array([SMALL_LINE * (1 + label.count("\n")) for label in small])
    height = 0.2 + max(above + below)  # of a row, in inches
    unit = f" ({outcome.unit})" if outcome.unit else ""
    drawn = _wrapped(f"difference in {outcome.name}{unit}, with its 95 % interval", LONG_BELOW)
    around = 1.1 + LINE * drawn.count("\n")
    figure = Figure(figsize=(9, around + height * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (_, finding) in enumerate(rows):
        one, difference = finding.shown, finding.shown.difference * outcome.scale
        if one.interval:
            bounds = [end * outcome.scale for end in one.interval]
            axes.plot(bounds, (place, place), color=INK, linewidth=2)
        elif one.sd:
            right, align = (-9, "right") if difference > 0 else (9, "left")  # into the picture
            axes.annotate(
                can_not_tell(one.seeds, noun),
                (difference, place),
                (right, 0),
                textcoords="offset points",
                va="center",
                ha=align,
            )
        face = INK if one.settled else "white"
        axes.plot(difference, place, "o", color=INK, markerfacecolor=face, markersize=8)
    between = np.arange(len(rows)) + (above - below) / 2 / height  # of words and variants
    axes.yaxis.remove_overlapping_locs = False
    axes.set_yticks(between, big, va="bottom", parse_math=False)
    axes.set_yticks(between, small, minor=True, va="top", fontsize=8, color=GREY)
    axes.tick_params(axis="y", which="both", length=0, pad=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(drawn, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    handles = [_point("settled", INK), _point("not settled", "white")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    return figure


def seeds_figure(analysis: Analysis, at_rate: RateResult) -> Figure:
    """The primary outcome of every run, one line per seed, next to each variant's mean."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    outcome = analysis.outcomes[analysis.primary]
    draw_dots(axes, analysis, at_rate, analysis.primary, outcome, joined=True)
    return figure


def outcome_figure(
    analysis: Analysis, at_rate: RateResult, outcomes: Mapping[str, OutcomeMeasure]
) -> Figure:
    """Outcomes or costs of every run, by column, one per panel."""
    figure = Figure(figsize=(5.5 * len(outcomes), 4), layout="constrained")
    panels = figure.subplots(1, len(outcomes), squeeze=False)[0]
    for axes, (key, outcome) in zip(panels, outcomes.items(), strict=True):
        draw_dots(axes, analysis, at_rate, key, outcome, joined=False)
        if key in COSTS:
            axes.set_ylim(bottom=0)  # costs are read as heights
    return figure


def rates_figure(analysis: NetworkAnalysis) -> Figure:
    """The primary outcome by learning rate: a line per variant, mean with 95 % interval."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    outcome = analysis.outcomes[analysis.primary]
    looks = looks_of(analysis)
    for place, variant in enumerate(v for v in looks if v in set(analysis.table["variant"])):
        shift = 1.02 ** (place - 1)  # so that intervals do not hide each other
        points = [
            (at_rate.rates[variant] * shift, at_rate.summaries[analysis.primary][variant])
            for at_rate in analysis.by_rate
            if variant in at_rate.summaries[analysis.primary]
        ]
        for rate, summary in points:
            if summary.shown:
                ends = np.multiply(summary.shown, outcome.scale)
                axes.plot((rate, rate), ends, color=looks[variant]["color"], linewidth=1)
        means = [summary.mean * outcome.scale for _, summary in points]
        axes.plot([rate for rate, _ in points], means, **looks[variant], label=variant)
    axes.set_xscale("log")
    rates = [at_rate.rates[next(iter(at_rate.rates))] for at_rate in analysis.by_rate]
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("learning rate (log scale)")
    name_axis(axes, outcome, "%", ", mean and 95 % interval")
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[0]) > 4:  # they would hide the lines
        figure.legend(loc="outside right upper", frameon=False)
    else:
        axes.legend()
    return figure


def study_curves(analysis: NetworkAnalysis, at_rate: RateResult) -> Figure:
    """Training and validation accuracy and loss by epoch: mean and range per variant."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    chosen, looks = set(at_rate.table["run_id"]), looks_of(analysis)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    splits = (("train", "training"), ("val", "validation"))
    for row, metric in zip(panels, ("accuracy", "loss"), strict=True):
        for axes, (prefix, split) in zip(row, splits, strict=True):
            for variant in at_rate.rates:
                runs = np.array(
                    [
                        [getattr(one, f"{prefix}_{metric}") for one in result.history]
                        for result in analysis.results
                        if result.config.variant == variant and result.run_id in chosen
                    ]
                ) * (100 if metric == "accuracy" else 1)
                epochs = range(1, runs.shape[1] + 1)
                look = looks[variant] | {"markevery": max(1, len(epochs) // 10)}
                label = f"{variant} ({plural(len(runs), 'seed')})"
                axes.plot(epochs, runs.mean(axis=0), **look, label=label)
                if len(runs) > 1:
                    low, high = runs.min(axis=0), runs.max(axis=0)
                    axes.fill_between(epochs, low, high, color=look["color"], alpha=0.2)
            axes.set_title(split)
            label_epochs(axes, metric)
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(4, 110 // (max(map(len, labels)) + 8)))  # as many as fit
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def draw_dots(
    axes: Axes,
    analysis: Analysis,
    at_rate: RateResult,
    key: str,
    outcome: OutcomeMeasure,
    *,
    joined: bool,
) -> None:
    """A column of dots per variant, one per run, next to the mean with its 95 % interval.

    joined: whether a line joins the runs of a pair.
    """
    variants, looks = at_rate.variants, looks_of(analysis)
    runs = at_rate.table
    if joined:
        pairs = runs.pivot(index=analysis.pair, columns="variant", values=key)[variants]
        for _, row in (pairs * outcome.scale).iterrows():
            axes.plot(range(len(variants)), row, color=PALE, linewidth=0.8, zorder=1)
    for place, variant in enumerate(variants):
        reached = runs.loc[runs["variant"] == variant, key].dropna() * outcome.scale
        colour, marker = looks[variant]["color"], looks[variant]["marker"]
        axes.scatter(
            [place] * len(reached), reached, s=30, color=colour, marker=marker, alpha=0.8, zorder=2
        )
        summary: Summary | None = at_rate.summaries.get(key, {}).get(variant)
        if summary and summary.shown:
            beside = place + 0.15
            ends = np.multiply(summary.shown, outcome.scale)
            axes.plot((beside, beside), ends, color=INK, linewidth=2)
            axes.plot(beside, summary.mean * outcome.scale, "_", color=INK, markersize=14)
    axes.set_xticks(range(len(variants)), [fill(variant, LONG_NAME) for variant in variants])
    if len(variants) * max(map(len, variants)) > MAX_LEVEL:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(variants) - 0.5)
    is_accuracy = key.endswith("accuracy") or outcome.bounds == (0, 1)
    in_percent = outcome.unit == "points" and is_accuracy
    name_axis(axes, outcome, "%" if in_percent else outcome.unit)
    axes.grid(axis="y", alpha=0.3)


def name_axis(axes: Axes, outcome: OutcomeMeasure, unit: str, more: str = "") -> None:
    """Say beside a picture what is drawn, and in which unit."""
    name = f"{outcome.label} ({unit})" if unit else outcome.label
    axes.set_ylabel(_wrapped(name + more, LONG_BESIDE), parse_math=False)


def looks_of(analysis: Analysis) -> dict[str, dict[str, Any]]:
    """How each variant's line is drawn; the same in all reports on the ablation."""
    return {variant: _look(place) for place, variant in enumerate(analysis.variants)}


def _look(place: int) -> dict[str, Any]:
    """The look of a line. From the ninth on, colours return with other dashes and markers."""
    times, which = divmod(place, len(COLOURS))
    other = (which + 3 * times) % len(COLOURS)
    return {
        **{"color": COLOURS[which], "linestyle": DASHES[other], "marker": MARKERS[other]},
        **{"markersize": 5, "linewidth": 2},
        "markerfacecolor": "white" if times % 2 else COLOURS[which],
    }


def _wrapped(text: str, width: int) -> str:
    return fill(text, width, break_on_hyphens=False)


def _point(label: str, face: str) -> Line2D:
    return Line2D(
        [], [], color=INK, marker="o", markerfacecolor=face, linestyle="none", label=label
    )
