"""Put a report where people find it: in MLflow, and on the terminal."""

import shlex
import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version

from pipeline import tracking
from pipeline.analysis import Analysis
from pipeline.report import effect_metrics, format_summary, limits, report_files
from pipeline.results import RunResult, recipe


def publish(analysis: Analysis, unused: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Log the report of `analysis` with the active run; print the answer, and where the report is.

    unused: runs that are not counted, with the reason. facts: how it was run, beside what every
    report says of it.
    """
    first = analysis.results[0]
    seeds = analysis.table["seed"].nunique()
    subtitle = (
        f"{first.config.dataset}, {first.config.epochs} epochs, {len(analysis.results)} runs"
        f" with {seeds} seed{'s' * (seeds > 1)}."
    )
    total = sum(result.seconds for result in analysis.results)
    commits = {result.commit for result in analysis.results} - {""}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "numpy"))
    told = {
        "command": f"python -m pipeline {shlex.join(sys.argv[1:])}",
        "recipe": ", ".join(f"{k} {v}" for k, v in recipe(first.config, first.tags).items()),
        "commit of the runs": ", ".join(sorted(commits)) or "unknown: not run from a git checkout",
        "device of the runs": ", ".join(sorted({_device(result) for result in analysis.results})),
        "time of the runs": f"{timedelta(seconds=round(total))}, all epochs together",
        "machine of this report": tracking.describe_machine(),
        "versions": f"Python {sys.version.split()[0]}, {packages}",
        **facts,
    }
    files = report_files(analysis, subtitle, told, unused, limits(analysis))
    headline = "\n".join(f"- {subtitle} {line}" for line in analysis.headline)
    place = tracking.log_report(files, headline, effect_metrics(analysis))
    # The last one that was registered of a variant has its alias.
    newest = {r.config.variant: r for r in analysis.results if r.registered}
    registered = [
        f"Registered: models:/{one.registered.name}@{variant} is {one.config.run_name}"
        for variant, one in newest.items()
        if one.registered
    ]
    print(f"\n{subtitle}\n\n{format_summary(analysis)}\n")
    print("\n".join([*analysis.headline, "", *registered]))
    print(f"Report: {place}")
    print("See the runs: make ui (or mlflow ui), then http://127.0.0.1:5000")


def _device(result: RunResult) -> str:
    tags = result.tags
    return f"{tags.get('device_name', tags['device'])} with {tags['threads']} threads"
