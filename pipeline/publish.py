"""Put a report where people find it: in MLflow, and on the terminal."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version

import mlflow
from mlflow.utils.string_utils import quote

from pipeline import tracking
from pipeline.analysis import Analysis
from pipeline.machine import describe_machine
from pipeline.report import effect_metrics, format_summary, limits, report_files
from pipeline.results import RunResult, recipe
from pipeline.store import where_to_look


def publish(analysis: Analysis, unused: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Log the report of `analysis` with the active run; print the answer, and where the report is.

    unused: runs that are not counted, with the reason. facts: how it was run, beside what every
    report says of it.
    """
    first = analysis.results[0]
    seeds = analysis.table["seed"].nunique()
    subtitle = (
        f"{first.config.dataset}, {_count(first.config.epochs, 'epoch')},"
        f" {_count(len(analysis.results), 'run')} with {_count(seeds, 'seed')}, {analysis.rates}."
    )
    total = sum(result.seconds for result in analysis.results)
    commits = {result.commit for result in analysis.results} - {""}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "numpy"))
    told = {
        "command": f"python -m pipeline {' '.join(map(quote, sys.argv[1:]))}",
        "recipe": ", ".join(f"{k} {v}" for k, v in recipe(first.config, first.tags).items()),
        "commit of the runs": ", ".join(sorted(commits)) or "unknown: not run from a git checkout",
        "device of the runs": ", ".join(sorted({_device(result) for result in analysis.results})),
        "time of the runs": f"{timedelta(seconds=round(total))}, all epochs together",
        "machine of this report": describe_machine(),
        "versions": f"Python {sys.version.split()[0]}, {packages}",
        **facts,
    }
    files = report_files(analysis, subtitle, told, unused, limits(analysis))
    headline = "\n".join([subtitle, "", *(f"- {line}" for line in analysis.headline)])
    run = mlflow.active_run()
    assert run
    place = tracking.log_report(files, headline, effect_metrics(analysis))
    registered = [
        f"  {result.config.run_name} as {result.registered.uri}"
        + "".join(f", models:/{result.registered.name}@{a}" for a in result.registered.aliases)
        for result in analysis.results
        if result.registered
    ]
    if registered:
        registered.insert(0, f"Registered {facts.get('registered models', 'before')}:")
    print(f"\n{subtitle}\n\n{format_summary(analysis)}\n")
    print("\n".join([*analysis.headline, "", *registered]))
    if unused:
        print(f"Not counted: {_count(len(unused), 'run')}, with the reasons in the report")
    print(f"Report: {place}")
    print(f"See the runs: {where_to_look(run.info.run_id)}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _device(result: RunResult) -> str:
    tags = result.tags
    return (
        f"{tags.get('device_name', tags['device'])} with {_count(int(tags['threads']), 'thread')}"
    )
