"""The files of a report: a page that leads with the answer, and the numbers behind it."""

import io
import json
import re
import warnings
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jinja2

from pipeline.report.figures import study_figures
from pipeline.report.findings import Analysis, NetworkAnalysis
from pipeline.report.runs_analysis import AnyAnalysis
from pipeline.report.runs_pages import runs_figures, runs_sections
from pipeline.report.sections import report_sections
from pipeline.statistics.comparisons import Comparison

DOTS_PER_INCH = 130
NOT_IN_NAMES = re.compile(r"[^\w.-]+")  # of metrics, for any store and system
MAX_EFFECT = 220  # characters of an effect's name; MLflow takes 250
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline.report"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


def report_files(
    analysis: AnyAnalysis,
    subtitle: str,
    facts: Mapping[str, str],
    unused: Mapping[str, str],
) -> dict[str, bytes]:
    """Render the report; return its files by path: HTML and Markdown pages, data, figures.

    facts: how it was run. unused: runs that are not in the analysis, with the reason.
    """
    pictures = {}
    if isinstance(analysis, NetworkAnalysis):
        figures, sections = study_figures(analysis), report_sections(analysis, facts, unused)
    else:
        figures, sections = runs_figures(analysis), runs_sections(analysis, facts, unused)
    for name, figure in figures.items():
        buffer = io.BytesIO()
        with warnings.catch_warnings():  # of names in letters that the font does not have
            warnings.filterwarnings("ignore", "Glyph ")
            figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        pictures[name] = buffer.getvalue()
    content = {
        "title": analysis.title,
        "subtitle": subtitle,
        "variants": analysis.variants_in_words,
        "headline": analysis.headline,
        "sections": sections,
        "pictures": {name: b64encode(picture).decode() for name, picture in pictures.items()},
    }
    return {
        "report.html": TEMPLATES.get_template("report.html.j2").render(content).encode(),
        "report.md": TEMPLATES.get_template("report.md.j2").render(content).encode(),
        "results.csv": analysis.table.to_csv(index=False).encode(),
        "curves.csv": analysis.curves.to_csv(index=False).encode(),
        "effects.json": json.dumps(effects(analysis), indent=2).encode(),
        **{f"figures/{name}.png": picture for name, picture in pictures.items()},
    }


def effects(analysis: Analysis) -> dict[str, object]:
    """Every summary and comparison, for programs. Numbers are in the metric's own unit."""
    summaries, comparisons = [], []
    for at_rate in analysis.at_rates:
        for key in analysis.outcomes:
            summaries += [
                {"setting": at_rate.title, "metric": key, "variant": variant}
                | ({"lr": at_rate.rates[variant]} if at_rate.label else {})
                | asdict(summary)
                for variant, summary in at_rate.summaries[key].items()
            ]
            comparisons += [
                {
                    "setting": at_rate.title,
                    "metric": key,
                    "treatment": finding.contrast.sides[0],
                    "control": finding.contrast.sides[1],
                    "sentence": finding.sentence,
                    **_known(finding.comparison),
                    "shown": finding.shown.interval,
                }
                for finding in at_rate.findings[key]
            ]
    return {
        "primary_metric": analysis.primary,
        "headline": analysis.headline,
        **analysis.for_programs,
        "design": asdict(analysis.design),
        "summaries": summaries,
        "effects": comparisons,
        "notes": list(analysis.notes),
    }


def effect_metrics(analysis: Analysis) -> dict[str, float]:
    """The effects on the primary outcome as metrics, for sorting studies.

    E.g. `wide_vs_plain`, with `wide_vs_plain_low` and `_high` for the interval, if it is shown;
    `…_lr0.01` if no learning rate is the main one. Of variants named by values, `adam, warmup=100`,
    what MLflow takes in a name: `adam warmup 100_vs_adam warmup 0`.
    """
    metrics: dict[str, float] = {}
    for at_rate in [analysis.main] if analysis.main else analysis.by_rate:
        suffix = "" if analysis.main else f"_lr{at_rate.label}"
        for number, finding in enumerate(at_rate.findings[analysis.primary]):
            name = NOT_IN_NAMES.sub(" ", finding.contrast.name)[:MAX_EFFECT].strip(" .") + suffix
            if name in metrics:  # of values that differ in other characters alone
                name = f"{name} {number}"
            metrics[name] = finding.comparison.difference
            if finding.shown.interval:
                metrics[f"{name}_low"], metrics[f"{name}_high"] = finding.shown.interval
    return metrics


def _known(comparison: Comparison) -> dict[str, Any]:
    """The fields of a comparison; those that are paired have no sizes of samples."""
    known = asdict(comparison)
    return known if comparison.sizes else {n: v for n, v in known.items() if n != "sizes"}
