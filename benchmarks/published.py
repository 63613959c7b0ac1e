"""Remake the published reports from their data: `python -m benchmarks.published [--check]`.

Writes each report of docs/results/ again, as reports are worded and drawn now, from the results
and curves there, and docs/images/effects.png from two of them. What the data don't say, such as
the command and the machine, is kept as the report says it.

--check writes nothing: it compares every number of each effects.json, also those in sentences, with
what the results and curves give now: in sentences exactly, elsewhere to within 1e-9 of the number,
since the last digits depend on the order of operations. Wording may differ. Exit status 1 if a
number does.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.outcome import mean_of
from pipeline.report.analysis import analyse
from pipeline.report.figures import forest_plot
from pipeline.report.files import DOTS_PER_INCH, effects, report_files
from pipeline.report.findings import Finding, NetworkAnalysis, RateResult
from pipeline.runs.identity import Identity
from pipeline.runs.plan import LAST
from pipeline.runs.record import RunRecord
from pipeline.statistics.intervals import Design, Interval
from pipeline.statistics.possible import shown_comparison
from pipeline.training.history import Epoch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
ABLATIONS = {"residual": str(ROOT / "ablations" / "residual.py")}  # the others: the tutorial's
# The effects in README's picture: the study, and the comparison.
README = (("variants", "bn_vs_base"), ("dropout", "dropout_vs_bn"))
NEVER_PUBLISHED = np.array([], dtype=bool)

# By setting, metric, treatment and control: the interval that allows for other test images.
Images = Mapping[tuple[str, ...], list[float] | None]


def published(study: str) -> NetworkAnalysis:
    """Analyse the published results of a study again."""
    folder = RESULTS / study
    runs = pd.read_csv(folder / "results.csv", dtype={"model": str})
    curves = pd.read_csv(folder / "curves.csv")
    stated = json.loads((folder / "effects.json").read_text())
    by_run = dict(list(curves.drop(columns=["run", "epoch"]).groupby("run_id")))
    results = [_result(study, run, by_run[run.run_id]) for run in runs.itertuples()]
    ablation = load_ablation(ABLATIONS.get(study, AUTO))
    value = stated["primary_metric"].rpartition("_")[2]  # val_accuracy_mean5
    value = value if mean_of(value) else LAST
    analysis = analyse(ablation, results, Design(**stated["design"]), value)
    images: Images = {
        (one["setting"], one["metric"], one["treatment"], one["control"]): one["images"]
        for one in stated["effects"]
    }
    main, *others = (_with_images(one, images) for one in analysis.at_rates)
    return replace(
        analysis,
        # For each run it was recorded which images it classifies correctly.
        results=[replace(one, correct=NEVER_PUBLISHED) for one in results],
        table=analysis.table.assign(model=runs["model"].fillna("")),
        main=main,
        by_rate=others or [main],
    )


def readme_figure() -> Figure:
    """The picture that README begins with."""
    found = []
    for study, name in README:
        analysis = published(study)
        assert analysis.main
        findings = analysis.main.findings[analysis.primary]
        found += [one for one in findings if one.contrast.name == name]
    return forest_plot([(one.contrast.words, one) for one in found], found[0].outcome)


def _result(study: str, run: Any, epochs: pd.DataFrame) -> RunRecord:
    config = Config(
        ablation=ABLATIONS.get(study, AUTO),
        variant=run.variant,
        dataset="cifar100",
        epochs=len(epochs),
        lr=run.lr,
        seed=run.seed,
        validation="holdout" if hasattr(run, "test_accuracy") else "test",
    )
    ablation = load_ablation(config.ablation)
    known = asdict(config) | {"ablation": ablation.name, "threads": 0}
    rows = epochs.drop(columns="run_id").iterrows()
    history = tuple(Epoch(**row.dropna().to_dict()) for _, row in rows)
    return RunRecord(
        run_id=run.run_id,
        identity=Identity(**{one.name: known.get(one.name, "") for one in fields(Identity)}),
        config=config,
        settings=ablation.values(run.variant),
        network="",
        criterion="CrossEntropyLoss",
        optimizer="Adam",
        schedule="",
        augmentation="",
        num_classes=100,
        num_parameters=run.parameters,
        other_weights={},
        total_images=50_000,
        validation_digest="",
        validation_scheme="",
        commit=run.commit,
        learning=run.learning,
        history=history,
        reused=bool(run.reused),
    )


def _with_images(at_rate: RateResult, images: Images) -> RateResult:
    """The setting with the intervals that can't be computed from what is published."""

    def complete(finding: Finding) -> Finding:
        interval = images[at_rate.title, finding.key, *finding.contrast.sides]
        if interval is None:
            return finding
        comparison = replace(finding.comparison, images=Interval(*interval))
        summaries = at_rate.summaries[finding.key]
        means = [summaries[variant].mean for variant in finding.contrast.variants]
        shown = shown_comparison(comparison, finding.outcome, means)
        return replace(finding, comparison=comparison, shown=shown)

    findings = {key: [complete(one) for one in ones] for key, ones in at_rate.findings.items()}
    return replace(at_rate, findings=findings)


def _write(study: str) -> None:
    """Write a study's report again; the results and curves stay."""
    folder = RESULTS / study
    old = (folder / "report.md").read_text()
    subtitle = old.splitlines()[2]
    facts = old.partition("\n## How it was run\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", facts, re.MULTILINE)[2:])
    for path, content in report_files(published(study), subtitle, rows, {}).items():
        if path.endswith((".md", ".json", ".png")):
            (folder / path).write_bytes(content)


def _check(study: str) -> bool:
    """Compare the published numbers of a study with those that its data give; say what differs."""
    stated = dict(_numbers(json.loads((RESULTS / study / "effects.json").read_text())))
    computed = dict(_numbers(json.loads(json.dumps(effects(published(study))))))
    different = [p for p in stated | computed if not _same(stated.get(p), computed.get(p))]
    for place in different:
        print(f"{study}{place}: {stated.get(place)} published, {computed.get(place)} computed")
    print(f"{study}: {len(stated) - len(different)} of {len(stated)} values follow from its data")
    return not different


def _same(stated: list[Any] | None, computed: list[Any] | None) -> bool:
    match stated, computed:
        case [float(one)], [float(other)]:
            return math.isclose(one, other, rel_tol=1e-9)
    return stated == computed


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its place. Of a text, its numbers, sorted: another wording may move them."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _numbers(one, f"{place}.{key}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _numbers(one, f"{place}[{index}]")
    elif isinstance(value, str):
        yield place, sorted(re.findall(r"[−+]?\d[\d,.]*\b", value))
    else:
        yield place, [value]  # a number, or null, which is not the same as nothing there


def main() -> None:
    """Write everything again, or compare."""
    parser = argparse.ArgumentParser(description="Remake the published reports from their data.")
    parser.add_argument("--check", action="store_true", help="compare the numbers, write nothing")
    studies = sorted(folder.name for folder in RESULTS.iterdir())
    if parser.parse_args().check:
        same = [_check(study) for study in studies]
        sys.exit(0 if all(same) else 1)
    for study in studies:
        _write(study)
    readme_figure().savefig(ROOT / "docs" / "images" / "effects.png", dpi=DOTS_PER_INCH)


if __name__ == "__main__":
    main()
