"""The report of a study: one page that leads with the answer, and the numbers behind it."""

import io
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import jinja2
import pandas as pd

from pipeline.analysis import Analysis, Finding, Setting
from pipeline.figures import study_figures
from pipeline.statistics import BCA_MIN_SEEDS, Interval, Outcome

DOTS_PER_INCH = 130
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


# What runs may differ in and still be compared, by the tag that says so.
MIXTURES = {
    "code_digest": "the version of the code",
    "torch": "the version of torch",
    "device": "the device",
    "device_name": "the GPU",
    "threads": "the number of threads, which decides the times above all,",
}


class Table(NamedTuple):
    """Cells as text. words: all columns are words or paths, not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


class Section(NamedTuple):
    """A part of the report. figures: names of pictures, each with its caption."""

    title: str
    text: Sequence[str] = ()
    bullets: Sequence[str] = ()
    figures: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()


def report_files(
    analysis: Analysis,
    subtitle: str,
    facts: Mapping[str, str],
    unused: Mapping[str, str],
    limits: Sequence[str],
) -> dict[str, bytes]:
    """Write the report; return its files by path: a page, the same as Markdown, data, pictures.

    facts: how it was run. unused: runs that are not in the analysis, with the reason. limits: what
    such a study can't say.
    """
    pictures = {}
    for name, figure in study_figures(analysis).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        pictures[name] = buffer.getvalue()
    content = {
        "title": _title(analysis),
        "subtitle": subtitle,
        "headline": analysis.headline,
        "sections": _sections(analysis, facts, unused, limits),
        "pictures": {name: b64encode(picture).decode() for name, picture in pictures.items()},
    }
    return {
        "report.html": ENVIRONMENT.get_template("report.html.j2").render(content).encode(),
        "report.md": ENVIRONMENT.get_template("report.md.j2").render(content).encode(),
        "results.csv": analysis.table.to_csv(index=False).encode(),
        "curves.csv": _curves(analysis).to_csv(index=False).encode(),
        "effects.json": json.dumps(effects(analysis), indent=2).encode(),
        **{f"figures/{name}.png": picture for name, picture in pictures.items()},
    }


def _curves(analysis: Analysis) -> pd.DataFrame:
    """One row per run and epoch, with all metrics of that epoch."""
    return pd.DataFrame(
        {"run": result.config.run_name, "run_id": result.run_id, "epoch": n, **epoch}
        for result in analysis.results
        for n, epoch in enumerate(result.history, start=1)
    )


def effects(analysis: Analysis) -> dict[str, object]:
    """Every summary and every comparison, for programs. Numbers are in the metric's own unit."""
    summaries, comparisons = [], []
    for setting in analysis.settings:
        for key in analysis.outcomes:
            summaries += [
                {"setting": setting.title, "metric": key, "variant": variant}
                | {"lr": setting.rates[variant], **asdict(summary)}
                for variant, summary in setting.summaries[key].items()
            ]
            comparisons += [
                {
                    "setting": setting.title,
                    "metric": key,
                    "treatment": finding.pair.treatment,
                    "control": finding.pair.control,
                    "sentence": finding.sentence,
                    **asdict(finding.comparison),
                }
                for finding in setting.findings[key]
            ]
    return {
        "primary_metric": analysis.primary,
        "headline": analysis.headline,
        "target_accuracy": analysis.target,
        "summaries": summaries,
        "effects": comparisons,
        "notes": list(analysis.notes),
    }


def effect_metrics(analysis: Analysis) -> dict[str, float]:
    """The effects on the primary outcome as metrics, by which studies can be sorted.

    Such as `bn_vs_base`, with `bn_vs_base_low` and `_high` for the interval; `…_lr0.01` where no
    learning rate is the main one.
    """
    metrics = {}
    for setting in [analysis.main] if analysis.main else analysis.by_rate:
        suffix = "" if analysis.main else f"_lr{setting.label}"
        for finding in setting.findings[analysis.primary]:
            metrics[finding.pair.name + suffix] = finding.comparison.difference
            if finding.comparison.interval:
                low, high = finding.comparison.interval
                metrics[f"{finding.pair.name}{suffix}_low"] = low
                metrics[f"{finding.pair.name}{suffix}_high"] = high
    return metrics


def format_summary(analysis: Analysis) -> str:
    """A table of the variants for a terminal."""
    settings = [analysis.main] if analysis.main else analysis.by_rate
    header, rows, _ = _variants_table(analysis, settings)
    return str(pd.DataFrame(rows, columns=header).to_string(index=False))


def limits(analysis: Analysis) -> list[str]:
    """What the study can't say, and what a reader may take from it by mistake."""
    config, seeds = analysis.results[0].config, analysis.table["seed"].nunique()
    told = []
    if config.dataset == "synthetic":
        told.append(
            "Anything about photographs: the built-in images are drawn shapes, which show that the"
            " pipeline works."
        )
    told.append(
        "Whether the effects hold for another network, data set, optimiser or number of epochs than"
        f" this one (epochs: {config.epochs}; Adam; batch size {config.batch_size}). The last epoch"
        " counts, and curves that cross near it may have crossed by chance."
    )
    if len(analysis.by_rate) == 1:
        told.append(
            f"Whether they hold at another learning rate than {config.lr:g}: an effect can change"
            " its sign with it. A study with several (lr=0.003,0.001,0.0003) tells."
        )
    if config.validation == "test":
        told.append(
            "How good the networks are on images that nobody has looked at: validation is the"
            " train=False split. It chose nothing here, but it has been read after every epoch."
        )
    told.append(
        "How much of an effect is due to these test images: the seeds vary weights, order,"
        " augmentation and dropout, not the images. The intervals are about training again, not"
        " about collecting other images."
    )
    if seeds < BCA_MIN_SEEDS:
        told.append(
            f"Whether the differences are normally distributed, as the t-interval takes them to be:"
            f" {seeds} seed{'s' * (seeds > 1)} can't show it."
        )
    told.append(
        "How long it takes elsewhere: times are of this machine, with whatever else ran on it."
    )
    if analysis.main and analysis.main.label == "best":
        told.append(
            "What a rate chosen on other networks would give: the rates were chosen by held-out"
            " images, but on the networks that are reported, whose luck with their seeds both"
            " accuracies share. That favours a variant with several rates that are about as good."
        )
    for name, words in MIXTURES.items():
        if len({result.tags.get(name) for result in analysis.results}) > 1:
            told.append(f"Whether {words} mattered: it was not the same for all runs.")
    return told


def _sections(
    analysis: Analysis,
    facts: Mapping[str, str],
    unused: Mapping[str, str],
    limits: Sequence[str],
) -> list[Section]:
    shown = analysis.main or analysis.by_rate[0]
    settings = analysis.settings
    outcome = analysis.outcomes[analysis.primary]
    at = "" if len(settings) == 1 else f" at {shown.title}"
    few = shown.table["seed"].nunique() < BCA_MIN_SEEDS
    reading = [
        f"The outcome named in advance is {outcome.name} after the last epoch. Each comparison is"
        " paired: a seed gives every variant the same initial weights, order of images and"
        " augmentation, and the differences are taken seed by seed. Intervals are Student's t at"
        " 95 %; p values are of the paired t-test, corrected by Holm's method over the comparisons"
        " that are read together. “Better” is the fraction of seeds in which the first variant was"
        " the better one. “Detectable” is the smallest effect that so many seeds find with a"
        " probability of 80 %; it does not count the correction, nor does the number of seeds that"
        " would settle an effect."
    ]
    if len(settings) > 1:
        reading.append(
            "The rows of the single learning rates are read, and corrected, together, apart from"
            " those of the best ones."
        )
    if few:
        reading.append(
            f"The BCa bootstrap interval is a second opinion, and too short with fewer than"
            f" {BCA_MIN_SEEDS} seeds: verdicts rest on t."
        )
    sections = [
        Section(
            "Effects",
            reading,
            figures=[("effects", f"Effects on {outcome.name}, with 95 % intervals.")]
            if analysis.compared
            else [],
            tables=[_effects_table(analysis, settings, [analysis.primary])],
        ),
        Section(
            "Variants",
            [
                f"{outcome.name.capitalize()} of each variant: mean, standard deviation and 95 %"
                " interval of the mean over its seeds."
            ],
            figures=[
                (
                    "seeds",
                    f"Every run{at}; a line joins the runs of one seed. Beside the dots"
                    " the mean with its 95 % interval.",
                )
            ],
            tables=[_variants_table(analysis, settings)],
        ),
    ]
    if len(analysis.by_rate) > 1:
        sections.append(_rates_section(analysis, outcome))
    other = [key for key in analysis.outcomes if key != analysis.primary]
    sections += [
        Section(
            "Learning curves",
            figures=[
                (
                    "learning_curves",
                    f"Mean over seeds, and the range from the lowest to the"
                    f" highest{at}. Training is measured while the network learns, with"
                    " augmentation and dropout.",
                )
            ],
        ),
        Section(
            "Generalisation gap",
            [
                "Training accuracy minus that of unseen images, in the last epoch. Augmentation and"
                " dropout make training harder, so the gap is smaller than without them and may be"
                " negative."
            ],
            figures=[("generalisation_gap", f"The gap of every run{at}.")],
        ),
        Section(
            "Cost",
            figures=[("cost", f"Time of every run and its speed in training{at}.")],
            tables=[_cost_table(analysis, shown)],
        ),
        Section(
            "All other outcomes",
            [
                "Not named in advance; each is corrected for its own comparisons only, so take"
                " them as hints."
            ],
            tables=[_effects_table(analysis, [shown], other)],
        ),
        _runs_section(analysis),
        Section(
            "Runs that are not counted",
            [] if unused else ["None."],
            tables=[Table(["run", "reason"], list(unused.items()), words=True)] if unused else [],
        ),
        Section("How it was run", tables=[Table(["what", "value"], list(facts.items()), True)]),
        Section("What this study can't say", bullets=[*limits, *analysis.notes]),
    ]
    return sections


def _rates_section(analysis: Analysis, outcome: Outcome) -> Section:
    text = []
    if analysis.main:
        chosen = ", ".join(f"{lr:g} for {v}" for v, lr in analysis.main.rates.items())
        text.append(
            "The learning rate of each variant was chosen by its mean accuracy on images held out"
            f" of the training split, not on the reported ones: {chosen}."
        )
        ends = {float(analysis.table["lr"].min()), float(analysis.table["lr"].max())}
        edge = [variant for variant, lr in analysis.main.rates.items() if lr in ends]
        if edge:
            text.append(
                f"For {', '.join(edge)} that is an end of the grid: a better one may lie beyond."
            )
    text += analysis.sign_changes
    if analysis.compared and not analysis.sign_changes:
        text.append(
            "No effect is settled with one sign at one learning rate and another at another."
        )
    caption = f"{outcome.name.capitalize()} by learning rate."
    return Section("Learning rates", text, figures=[("learning_rates", caption)])


def _runs_section(analysis: Analysis) -> Section:
    table, outcome = analysis.table, analysis.outcomes[analysis.primary]
    header = ["run", outcome.name, "loss", "seconds", "run id", "commit", "model"]
    rows = [
        [
            row.run + " (stuck)" * (row.learning == "stuck") + " (reused)" * row.reused,
            f"{getattr(row, analysis.primary):.2%}",
            f"{getattr(row, analysis.primary.replace('accuracy', 'loss')):.3f}",
            f"{row.seconds:.0f}",
            row.run_id,
            re.sub(r"^(.{7})[0-9a-f]*", r"\1", row.commit) or "-",
            row.model or "-",
        ]
        for row in table.itertuples()
    ]
    text = []
    if table["reused"].any():
        text += [
            "“Reused” are runs that an earlier study, or a command of their own, had finished."
        ]
    if table["learning"].eq("stuck").any():
        text += ["“Stuck” are runs that learned nothing: their loss is no better than a guess's."]
    return Section("Runs", text, tables=[Table(header, rows)])


def _variants_table(analysis: Analysis, settings: Sequence[Setting]) -> Table:
    outcome = analysis.outcomes[analysis.primary]
    header = ["variant", "lr", "seeds", outcome.name, "sd", "95 % interval", "loss", "parameters"]
    loss = analysis.primary.replace("accuracy", "loss")
    rows = []
    for setting in settings:
        sizes = setting.table.groupby("variant")["parameters"].first()
        for variant, one in setting.summaries[analysis.primary].items():
            lost = setting.summaries[loss].get(variant)
            best = " (best)" if setting.label == "best" else ""
            rows.append(
                [
                    variant,
                    f"{setting.rates[variant]:g}{best}",
                    str(one.seeds),
                    f"{one.mean:.1%}",
                    f"{one.sd * outcome.scale:.2f}" if one.sd is not None else "-",
                    _interval(one.interval, outcome, signed=False),
                    f"{lost.mean:.3f}" if lost else "-",
                    f"{sizes[variant]:,}",
                ]
            )
    return Table(header, rows)


def _cost_table(analysis: Analysis, setting: Setting) -> Table:
    columns = {"parameters": "parameters", "seconds": "seconds", "images_per_second": "images/s"}
    if analysis.target:
        goal = f"to {analysis.target:.0%}"
        columns |= {"epochs_to_target": f"epochs {goal}", "seconds_to_target": f"seconds {goal}"}
    means = setting.table.groupby("variant")[list(columns)].mean()
    rows = [
        [variant, *(f"{value:,.{1 if value < 100 else 0}f}" for value in means.loc[variant])]
        for variant in setting.rates
    ]
    return Table(["variant (means)", *columns.values()], rows)


def _effects_table(analysis: Analysis, settings: Sequence[Setting], keys: Sequence[str]) -> Table:
    several = len(analysis.by_rate) > 1
    header = ["comparison", "outcome", *(["lr"] if several else []), "seeds", "difference"]
    header += ["95 % interval (t)", "BCa", "better", "p", "p (Holm)", "detectable"]
    rows = []
    for setting in settings:
        for key in keys:
            for finding in setting.findings[key]:
                what = [finding.pair.label, finding.outcome.name.removeprefix("the ")]
                rows.append([*what, *([setting.label] if several else []), *_numbers(finding)])
    return Table(header, rows)


def _numbers(finding: Finding) -> list[str]:
    one, outcome = finding.comparison, finding.outcome

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    detectable = None if one.detectable_effect is None else one.detectable_effect * outcome.scale
    return [
        str(one.seeds),
        f"{one.difference * outcome.scale:+z,.{outcome.decimals}f} {outcome.unit}",
        _interval(one.interval, outcome),
        _interval(one.bootstrap, outcome),
        f"{one.probability:.0%}",
        number(one.p_value, ".2g"),
        number(one.p_holm, ".2g"),
        number(detectable, f",.{outcome.decimals}f"),
    ]


def _interval(interval: Interval | None, outcome: Outcome, *, signed: bool = True) -> str:
    if interval is None:
        return "-"
    form = f"{'+' if signed else ''}z,.{outcome.decimals}f"
    return " to ".join(format(bound * outcome.scale, form) for bound in interval)


def _title(analysis: Analysis) -> str:
    pairs = {(pair.treatment, pair.control) for pair in analysis.compared}
    subjects = []
    if pairs & {("bn", "base"), ("dropout", "base")}:
        subjects.append("BatchNorm")
    if pairs & {("dropout", "bn"), ("dropout", "base"), ("base_dropout", "base")}:
        subjects.append("Dropout")
    if not subjects:
        return "Nothing to compare"
    return f"{'Do' if len(subjects) > 1 else 'Does'} {' and '.join(subjects)} help?"
