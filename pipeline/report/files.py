"""The files of a report: a page that leads with the answer, and the numbers behind it."""

import io
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jinja2
import pandas as pd

from pipeline.errors import shortlist
from pipeline.report.figures import study_figures
from pipeline.report.findings import Analysis
from pipeline.report.sections import report_sections
from pipeline.statistics.comparisons import Comparison

DOTS_PER_INCH = 130
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline.report"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


def report_files(
    analysis: Analysis,
    subtitle: str,
    facts: Mapping[str, str],
    unused: Mapping[str, str],
) -> dict[str, bytes]:
    """Render the report; return its files by path: HTML and Markdown pages, data, figures.

    facts: how it was run. unused: runs that are not in the analysis, with the reason.
    """
    pictures = {}
    for name, figure in study_figures(analysis).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        pictures[name] = buffer.getvalue()
    content = {
        "title": _title(analysis),
        "subtitle": subtitle,
        "variants": analysis.variants_in_words,
        "headline": analysis.headline,
        "sections": report_sections(analysis, facts, unused),
        "pictures": {name: b64encode(picture).decode() for name, picture in pictures.items()},
    }
    return {
        "report.html": TEMPLATES.get_template("report.html.j2").render(content).encode(),
        "report.md": TEMPLATES.get_template("report.md.j2").render(content).encode(),
        "results.csv": analysis.table.to_csv(index=False).encode(),
        "curves.csv": curves(analysis).to_csv(index=False).encode(),
        "effects.json": json.dumps(effects(analysis), indent=2).encode(),
        **{f"figures/{name}.png": picture for name, picture in pictures.items()},
    }


def curves(analysis: Analysis) -> pd.DataFrame:
    """One row per run and epoch, with all metrics of that epoch."""
    return pd.DataFrame(
        {"run": result.config.run_name, "run_id": result.run_id, "epoch": n, **epoch.metrics}
        for result in analysis.results
        for n, epoch in enumerate(result.history, start=1)
    )


def effects(analysis: Analysis) -> dict[str, object]:
    """Every summary and comparison, for programs. Numbers are in the metric's own unit."""
    summaries, comparisons = [], []
    for at_rate in analysis.at_rates:
        for key in analysis.outcomes:
            summaries += [
                {"setting": at_rate.title, "metric": key, "variant": variant}
                | {"lr": at_rate.rates[variant], **asdict(summary)}
                for variant, summary in at_rate.summaries[key].items()
            ]
            comparisons += [
                {
                    "setting": at_rate.title,
                    "metric": key,
                    "treatment": finding.contrast.sides[0],
                    "control": finding.contrast.sides[1],
                    "sentence": finding.sentence,
                    **_paired(finding.comparison),
                    "shown": finding.shown.interval,
                }
                for finding in at_rate.findings[key]
            ]
    return {
        "primary_metric": analysis.primary,
        "headline": analysis.headline,
        "target_accuracy": analysis.target,
        "design": asdict(analysis.design),
        "summaries": summaries,
        "effects": comparisons,
        "notes": list(analysis.notes),
    }


def effect_metrics(analysis: Analysis) -> dict[str, float]:
    """The effects on the primary outcome as metrics, for sorting studies.

    E.g. `wide_vs_plain`, with `wide_vs_plain_low` and `_high` for the interval, if it is shown;
    `…_lr0.01` if no learning rate is the main one.
    """
    metrics = {}
    for at_rate in [analysis.main] if analysis.main else analysis.by_rate:
        suffix = "" if analysis.main else f"_lr{at_rate.label}"
        for finding in at_rate.findings[analysis.primary]:
            metrics[finding.contrast.name + suffix] = finding.comparison.difference
            if finding.shown.interval:
                low, high = finding.shown.interval
                metrics[f"{finding.contrast.name}{suffix}_low"] = low
                metrics[f"{finding.contrast.name}{suffix}_high"] = high
    return metrics


def _paired(comparison: Comparison) -> dict[str, Any]:
    """The fields of a comparison; all of a study's are paired."""
    return {name: value for name, value in asdict(comparison).items() if name != "sizes"}


def _title(analysis: Analysis) -> str:
    """Name the ablation, and the variants that were trained: `own: plain, wide`."""
    trained = {result.config.variant for result in analysis.results}
    variants = [variant for variant in analysis.ablation.variants if variant in trained]
    return f"{analysis.ablation.name}: {shortlist(variants)}"
