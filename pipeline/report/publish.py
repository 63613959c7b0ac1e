"""Publish a report: log it to MLflow, and return it."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd

from pipeline.errors import plural
from pipeline.machine import describe_machine
from pipeline.report.files import as_markdown, effect_metrics, effects, report_files
from pipeline.report.findings import NetworkAnalysis
from pipeline.report.runs_analysis import AnyAnalysis
from pipeline.report.tables import format_summary
from pipeline.runs.plan import Plan
from pipeline.runs.record import RunRecord
from pipeline.store.interface import link, where_to_look
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import MAX_CHARACTERS
from pipeline.upstream import local_path, shell_quote

MAX_REASONS = 3  # why runs are not counted, on a terminal
OF_ANOTHER = re.compile("(repeated by|is a child of) .*")
MAX_LINKS = 30  # in a description, which MLflow cuts at 8,000 characters


def publish(
    analysis: AnyAnalysis,
    subtitle: str,
    unused: Mapping[str, str],
    facts: Mapping[str, str],
    elsewhere: Mapping[str, tuple[str, str]],
    told: Sequence[str] = (),
) -> "Published":
    """Log the report of `analysis` to the active run.

    subtitle: what the runs are. unused: runs that are not counted, with the reason. facts: how it
    was run. elsewhere: experiment and id of the runs that are no children of this one, by name.
    told: lines that follow the answer on a terminal.
    """
    run = mlflow.active_run()
    assert run
    files = report_files(analysis, subtitle, facts, unused)
    about = "\n".join(filter(None, [subtitle, analysis.variants_in_words]))
    lines = [about, "", *(f"- {line}" for line in analysis.headline)]
    description, links = "\n".join(map(as_markdown, lines)), _links(elsewhere)
    if len(description + links) <= MAX_CHARACTERS:
        description += links
    place = _log_report(files, description[:MAX_CHARACTERS], effect_metrics(analysis))
    where = str(run.info.experiment_id), run.info.run_id
    return Published(analysis, about, files["report.html"].decode(), unused, told, *where, place)


@dataclass(frozen=True, repr=False)
class Published:
    """A report, and what it rests on.

    effects, runs, curves: as tables. report: as HTML, shown by itself in a notebook. unused: runs
    that are not counted, with the reason. place: of the file, if it is logged; the ids are those of
    the run that has it.
    """

    analysis: AnyAnalysis
    about: str
    report: str
    unused: Mapping[str, str]
    told: Sequence[str] = ()
    experiment_id: str = ""
    run_id: str = ""
    place: str = ""

    @property
    def effects(self) -> pd.DataFrame:
        """A row for each comparison, outcome and learning rate, in the outcome's own unit."""
        return pd.DataFrame(effects(self.analysis)["effects"])

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run."""
        return self.analysis.table

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each run and epoch."""
        return self.analysis.curves

    def __repr__(self) -> str:
        return f"<report of run {self.run_id}>" if self.run_id else "<report>"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.report)}" width="100%" height="600"></iframe>'

    def __str__(self) -> str:
        """The answer, for a terminal."""
        lines = [f"\n{self.about}\n\n{format_summary(self.analysis)}\n"]
        lines += [*self.analysis.headline, "", *self.told]
        where = "in the report" if self.place else "in `unused`"
        lines += _not_counted(self.unused, where)
        if self.place:
            lines.append(f"Report: {self.place}")
            lines.append(where_to_look(self.experiment_id, self.run_id, "report.html"))
        return "\n".join(lines)


def _not_counted(unused: Mapping[str, str], where: str) -> list[str]:
    """How many runs are not counted, and the most frequent reasons, without the names in them.

    where: all reasons are.
    """
    if not unused:
        return []
    kinds = Counter(OF_ANOTHER.sub(r"\1 another run", reason) for reason in unused.values())
    count = plural(len(unused), "run")
    return [
        f"Not counted: {count}, with all reasons {where}:",
        *(f"  {plural(n, 'run')}: {why}" for why, n in kinds.most_common(MAX_REASONS)),
        *(["  …"] if len(kinds) > MAX_REASONS else []),
    ]


def publish_study(
    analysis: NetworkAnalysis, unused: Mapping[str, str], facts: Mapping[str, str], plan: Plan
) -> Published:
    """Log the report on networks to the active run.

    unused: runs that are not counted, with the reason. facts: how it was run, beyond what every
    report says about it. plan: how the study came to its seeds; each run keeps that of its first
    report, because a later one with more seeds needs other intervals.
    """
    first, seeds = analysis.results[0], analysis.table["seed"].nunique()
    few = f"{analysis.few_images}, " if analysis.few_images else ""
    subtitle = (
        f"{first.config.dataset}, {few}{plural(first.config.epochs, 'epoch')},"
        f" {plural(len(analysis.results), 'run')} with {plural(seeds, 'seed')}, {analysis.rates}."
    )
    run = mlflow.active_run()
    assert run
    runs = {
        one.config.run_name: (one.experiment_id, one.run_id)
        for one in analysis.results
        if one.parent != run.info.run_id
    }
    _mark_reported(analysis.results, plan)
    told = _registered(analysis.results, facts.get("registered models", "before"))
    return publish(analysis, subtitle, unused, {**_provenance(analysis), **facts}, runs, told)


def _registered(results: Sequence[RunRecord], which: str) -> list[str]:
    """A line for each model that is registered, and its notes."""
    models = [(one.config.run_name, one.registered) for one in results if one.registered]
    lines = [f"Registered {which}:"] if models else []
    for run, model in models:
        aliases = "".join(f", models:/{model.name}@{alias}" for alias in model.aliases)
        lines.append(f"  {run} as {model.uri}{aliases}")
    return lines + [f"  {note}" for _, model in models for note in model.notes]


def _provenance(analysis: NetworkAnalysis) -> dict[str, str]:
    """What every report says about how it was run."""
    results = analysis.results
    seconds = sum(result.seconds for result in results)
    commits = {result.shown_commit for result in results} - {""}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "numpy"))
    settings = {
        f"settings of {one.config.variant}": ", ".join(f"{k} {v}" for k, v in one.settings.items())
        for one in results
    }
    parts = ("network", "criterion", "optimizer", "schedule", "augmentation")
    recipe = results[0].identity.recipe
    return {
        **{name: stated for name, stated in settings.items() if stated},
        "images": results[0].identity.images,
        "parts": ", ".join(_part(name, results) for name in parts),
        "command": command(),
        "recipe": ", ".join(f"{name} {value}" for name, value in recipe.items()),
        "commit of the runs": ", ".join(sorted(commits)) or "unknown: not run from a git checkout",
        "device of the runs": ", ".join(sorted({_device(result) for result in results})),
        "machines of the runs": machines_of(results),
        "time of the runs": f"{timedelta(seconds=round(seconds))}, all epochs together",
        "machine of this report": describe_machine(),
        "versions": f"Python {sys.version.split()[0]}, {packages}",
    }


def command() -> str:
    """The command that was typed, if one was."""
    if Path(sys.argv[0]).stem not in ("__main__", "pipeline"):
        return "none: called from Python"
    return f"python -m pipeline {' '.join(map(shell_quote, sys.argv[1:]))}"


def _links(elsewhere: Mapping[str, tuple[str, str]]) -> str:
    """A paragraph of links to the runs that are no children, which MLflow would list."""
    links = [f"[{as_markdown(name)}]({link(*place)})" for name, place in elsewhere.items()]
    if not links:
        return ""
    more = f" and {len(links) - MAX_LINKS} more, in the report" if len(links) > MAX_LINKS else ""
    return f"\n\nRuns from before: {', '.join(links[:MAX_LINKS])}{more}"


@in_store
def _mark_reported(results: Sequence[RunRecord], plan: Plan) -> None:
    for result in results:
        if result.reported_with is None:
            mlflow.MlflowClient().set_tag(result.run_id, "reported_with", plan.as_json())


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


def _part(name: str, results: Sequence[RunRecord]) -> str:
    """What the runs have as this part: `optimizer Adam`, or `optimizer Adam (a) or SGD (b, c)`."""
    variants: dict[str, dict[str, None]] = {}
    for result in results:
        variants.setdefault(getattr(result, name), {})[result.config.variant] = None
    if len(variants) == 1:
        return f"{name} {next(iter(variants))}"
    kinds = (f"{kind} ({', '.join(names)})" for kind, names in variants.items())
    return f"{name} {' or '.join(kinds)}"


def machines_of(results: Sequence[RunRecord]) -> str:
    """How many runs were trained where."""
    places = Counter(f"{result.node} ({result.processor})" for result in results)
    return "; ".join(f"{plural(runs, 'run')} on {place}" for place, runs in places.items())


def _device(result: RunRecord) -> str:
    identity = result.identity
    device = result.device_name or identity.device
    return f"{device} with {plural(identity.threads, 'thread')}"
