"""Publish a report: log it to MLflow, and print its answer and location."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow

from pipeline.errors import plural
from pipeline.machine import describe_machine
from pipeline.report.files import effect_metrics, report_files
from pipeline.report.findings import Analysis
from pipeline.report.tables import format_summary
from pipeline.runs.run_result import RunResult, recipe
from pipeline.store.interface import link, where_to_look
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import PARENT_TAG
from pipeline.upstream import local_path, shell_quote

REPORTED = "reported_with"  # a training run's tag: the plan of the first report that contains it
MOST_LINKS = 30  # in a description, which MLflow cuts at 8,000 characters
BY_COMPARE = ", by compare"  # the end of such a plan if it was none: runs were chosen later


def publish(
    analysis: Analysis, unused: Mapping[str, str], facts: Mapping[str, str], plan: str
) -> None:
    """Log the report of `analysis` to the active run; print the answer and the report's location.

    unused: runs that are not counted, with the reason. facts: how it was run, beyond what every
    report says about it. plan: how the study came to its seeds; each run keeps that of its first
    report, because a later one with more seeds needs other intervals.
    """
    run = mlflow.active_run()
    assert run
    first, seeds = analysis.results[0], analysis.table["seed"].nunique()
    few = f"{analysis.few_images}, " if analysis.few_images else ""
    subtitle = (
        f"{first.config.dataset}, {few}{plural(first.config.epochs, 'epoch')},"
        f" {plural(len(analysis.results), 'run')} with {plural(seeds, 'seed')}, {analysis.rates}."
    )
    about = "\n".join(filter(None, [subtitle, analysis.variants_in_words]))
    files = report_files(analysis, subtitle, {**_provenance(analysis), **facts}, unused)
    description = "\n".join([about, "", *(f"- {line}" for line in analysis.headline)])
    description += _links(analysis.results, run.info.run_id)
    _mark_reported(analysis, plan)
    place = _log_report(files, description, effect_metrics(analysis))

    print(f"\n{about}\n\n{format_summary(analysis)}\n")
    print("\n".join([*analysis.headline, ""]))
    registered = [result for result in analysis.results if result.registered]
    if registered:
        print(f"Registered {facts.get('registered models', 'before')}:")
    for result in registered:
        assert result.registered
        name, uri = result.registered.name, result.registered.uri
        aliases = "".join(f", models:/{name}@{alias}" for alias in result.registered.aliases)
        print(f"  {result.config.run_name} as {uri}{aliases}")
    for result in registered:
        assert result.registered
        for note in result.registered.notes:
            print(f"  {note}")
    if unused:
        print(f"Not counted: {plural(len(unused), 'run')}, with the reasons in the report")
    print(f"Report: {place}")
    print(where_to_look(run.info.experiment_id, run.info.run_id, "report.html"))


def _provenance(analysis: Analysis) -> dict[str, str]:
    """What every report says about how it was run."""
    first = analysis.results[0]
    seconds = sum(result.seconds for result in analysis.results)
    commits = {result.commit for result in analysis.results} - {""}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "numpy"))
    settings = {
        f"settings of {result.config.variant}": _settings(result) for result in analysis.results
    }
    made_of = ("network", "criterion", "optimizer", "schedule", "augmentation")
    parts = [_part(name, analysis.results) for name in made_of if name in first.tags]
    return {
        **{name: stated for name, stated in settings.items() if stated},
        **({"images": first.tags["images"]} if "images" in first.tags else {}),
        **({"parts": ", ".join(parts)} if parts else {}),
        "command": f"python -m pipeline {' '.join(map(shell_quote, sys.argv[1:]))}",
        "recipe": ", ".join(f"{k} {v}" for k, v in recipe(first.config, first.tags).items()),
        "commit of the runs": ", ".join(sorted(commits)) or "unknown: not run from a git checkout",
        "device of the runs": ", ".join(sorted({_device(result) for result in analysis.results})),
        "machines of the runs": machines_of(analysis.results) or "unknown, of earlier versions",
        "time of the runs": f"{timedelta(seconds=round(seconds))}, all epochs together",
        "machine of this report": describe_machine(),
        "versions": f"Python {sys.version.split()[0]}, {packages}",
    }


def _links(results: Sequence[RunResult], study_id: str) -> str:
    """A paragraph of links to the runs that are no children, which MLflow would list."""
    links = []
    for one in results:
        if one.tags.get(PARENT_TAG) != study_id:
            links.append(f"[{one.config.run_name}]({link(one.experiment_id, one.run_id)})")
    if not links:
        return ""
    more = f" and {len(links) - MOST_LINKS} more, in the report" if len(links) > MOST_LINKS else ""
    return f"\n\nRuns from before: {', '.join(links[:MOST_LINKS])}{more}"


@in_store
def _mark_reported(analysis: Analysis, plan: str) -> None:
    for result in analysis.results:
        if REPORTED not in result.tags:
            mlflow.MlflowClient().set_tag(result.run_id, REPORTED, plan)


@in_store
def _log_report(files: Mapping[str, bytes], description: str, metrics: Mapping[str, float]) -> str:
    """Log files by path, the run's description, and metrics to the active run.

    Returns where `report.html` is: a path if the store is a folder, else a URI.
    """
    with TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        mlflow.log_artifacts(folder)
    mlflow.set_tag("mlflow.note.content", description)
    mlflow.log_metrics(dict(metrics))
    address, here = str(mlflow.get_artifact_uri("report.html")), Path.cwd()
    local = local_path(address)
    if local is None:
        return address
    return str(local.relative_to(here) if local.is_relative_to(here) else local)


def _part(name: str, results: Sequence[RunResult]) -> str:
    """What the runs have as this part: `optimizer Adam`, or `optimizer Adam (a) or SGD (b, c)`."""
    variants: dict[str, dict[str, None]] = {}
    for result in results:
        variants.setdefault(result.tags.get(name, "unknown"), {})[result.config.variant] = None
    if len(variants) == 1:
        return f"{name} {next(iter(variants))}"
    kinds = (f"{kind} ({', '.join(names)})" for kind, names in variants.items())
    return f"{name} {' or '.join(kinds)}"


def _settings(result: RunResult) -> str:
    """A variant's settings in words; empty if its run did not record them."""
    settings = json.loads(result.tags.get("settings", "{}"))
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def machines_of(results: Sequence[RunResult]) -> str:
    """How many runs were trained where; empty if none says so, as of earlier versions."""
    places = Counter(
        f"{result.tags['node']} ({result.tags['processor']})"
        for result in results
        if "node" in result.tags
    )
    return "; ".join(f"{plural(runs, 'run')} on {place}" for place, runs in places.items())


def _device(result: RunResult) -> str:
    tags = result.tags
    return (
        f"{tags.get('device_name', tags['device'])} with {plural(int(tags['threads']), 'thread')}"
    )
