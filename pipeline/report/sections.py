"""What a report says, section by section, and what a study can't say."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import plural
from pipeline.report.findings import Analysis, NetworkAnalysis
from pipeline.report.tables import Table, cost_table, effects_table, runs_table, variants_table
from pipeline.runs.record import STUCK
from pipeline.statistics.intervals import LATER_ALPHA, PLANNED_ALPHA
from pipeline.statistics.sentences import intervals_in_words
from pipeline.statistics.skewness import skewed_alarms

NORMAL_SEEDS = 30  # so many may show whether differences are far from normal

# What may differ between compared runs: a field of their records, or of their identities.
MIXTURES = {
    "code_digest": "the version of the code",
    "torch": "the version of torch",
    "device": "the device",
    "device_name": "the GPU",
    "threads": "the number of threads",
    "processor": "the processor",
}


class Section(NamedTuple):
    """A part of the report, in this order. figures: names, each with its caption.

    folded: all of it is opened by a click; reading: paragraphs that are, on how to read the tables.
    """

    title: str
    text: Sequence[str] = ()
    bullets: Sequence[str] = ()
    figures: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    reading: Sequence[str] = ()
    folded: bool = False


def report_sections(
    analysis: NetworkAnalysis, facts: Mapping[str, str], unused: Mapping[str, str]
) -> list[Section]:
    """Write the sections of a report: the effects first, then what they rest on.

    facts: how it was run. unused: runs that are not in the analysis, with the reason.
    """
    shown = analysis.shown
    at = "" if len(analysis.at_rates) == 1 else f" at {shown.title}"
    beside = [analysis.last_epoch] if analysis.last_epoch else []
    other = [key for key in analysis.outcomes if key not in (analysis.primary, *beside)]
    primary = analysis.outcomes[analysis.primary].label
    after = "" if beside else " after the last epoch"
    chosen = "" if analysis.design.exploratory else ", chosen in advance,"
    losses = ""
    if analysis.losses_differ:
        losses = " The variants were trained with different losses, which can't be compared."
    return [
        effects_section(
            analysis,
            f"The primary outcome{chosen} is the {primary}{after}."
            " Comparisons are paired: a seed decides the initial weights, image order and"
            " augmentation of all variants alike, and differences are taken seed by seed.",
            [
                "The interval accounts for the variation between seeds, on these test images."
                " “Other images too” also allows for the choice of test images. “Correlation” is"
                " that of the two variants over the seeds, and “without pairing” the interval if"
                " they had not shared seeds. Pairing shortens the interval if the correlation is"
                " clearly positive; otherwise it lengthens it, because pairing costs degrees of"
                " freedom."
            ],
            beside,
        ),
        _variants_section(analysis, at),
        *([_rates_section(analysis)] if len(analysis.by_rate) > 1 else []),
        Section(
            "Learning curves",
            figures=[
                (
                    "learning_curves",
                    f"Mean over seeds, with the range from lowest to highest{at}. Training values"
                    " are measured while the network learns, with whatever acts in training only,"
                    f" such as augmentation.{losses}",
                )
            ],
        ),
        Section(
            "Generalisation gap",
            [
                "Training accuracy minus the accuracy on unseen images, in the last epoch."
                " What acts in training only, such as augmentation, makes training harder, so the"
                " gap is smaller than without it and may be negative."
            ],
            figures=[("generalisation_gap", f"The gap of every run{at}.")],
        ),
        Section(
            "Cost",
            [
                "Times depend on the number of threads, and on what else ran at the same time. They"
                " show what the study cost on this machine, and are not tested for differences."
            ],
            figures=[("cost", f"Time and training speed of every run{at}.")],
            tables=[cost_table(analysis, shown)],
        ),
        Section(
            "All other outcomes",
            [
                "These outcomes were not chosen as primary, and nothing is corrected for testing"
                " several of them: treat them as exploratory."
            ],
            tables=[effects_table(analysis, [shown], other)],
            folded=True,
        ),
        _runs_section(analysis),
        not_counted_section(unused),
        Section("How it was run", tables=[Table(["what", "value"], list(facts.items()), True)]),
        Section("What this study can't say", bullets=[*limits(analysis), *analysis.notes]),
    ]


def effects_section(
    analysis: Analysis, how: str, more: Sequence[str] = (), beside: Sequence[str] = ()
) -> Section:
    """The section on effects.

    how: what is compared. more: on how to read the table. beside: outcomes next to the primary one.
    """
    outcome, design = analysis.outcomes[analysis.primary], analysis.design
    nouns = f"{analysis.noun}s" if analysis.pair else "runs"
    impossible = ", or would include what is impossible, such as an accuracy below 0 %"
    reading = [
        how,
        f"{design.reason} {intervals_in_words(design)} The intervals of all comparisons of an"
        " outcome hold jointly, in this and all other reports on these variants, with a"
        f" probability of at least 95 %: of the 5 % of errors, {100 * PLANNED_ALPHA:.0f} % are"
        f" allowed in a planned report, and {100 * LATER_ALPHA:.0f} % in all later ones together"
        " (5 % if none was planned, or the plan is to stop at an answer). P values include these"
        " corrections. An effect is settled exactly if its interval excludes 0, which is the same"
        f" as p < 0.05. Where {nouns} “can't tell”, the interval has no end yet"
        f"{impossible if np.isfinite(outcome.bounds).any() else ''}.",
        *more,
    ]
    if len(analysis.at_rates) > 1:
        reading.append(
            "The rows of the single learning rates hold jointly, separately from the rows of the"
            " best ones."
        )
    pictures = [("effects", f"Effects on {outcome.name}, with 95 % intervals.")]
    return Section(
        "Effects",
        figures=pictures if analysis.compared else [],
        tables=[effects_table(analysis, analysis.at_rates, [analysis.primary, *beside])],
        reading=reading,
    )


def not_counted_section(unused: Mapping[str, str]) -> Section:
    """The section that names the runs which are left out, with the reasons."""
    tables = [Table(["run", "reason"], list(unused.items()), words=True)] if unused else []
    return Section("Runs that are not counted", [] if unused else ["None."], tables=tables)


def _variants_section(analysis: NetworkAnalysis, at: str) -> Section:
    outcome = analysis.outcomes[analysis.primary]
    return Section(
        "Variants",
        [
            f"{outcome.name.capitalize()} of each variant: mean, standard deviation and 95 %"
            " interval of the mean over its seeds. These intervals hold one by one, not jointly."
        ],
        figures=[
            (
                "seeds",
                f"Every run{at}; a line joins the runs of one seed. Next to the dots, the mean with"
                " its 95 % interval.",
            )
        ],
        tables=[variants_table(analysis, analysis.at_rates)],
    )


def _rates_section(analysis: NetworkAnalysis) -> Section:
    outcome = analysis.outcomes[analysis.primary]
    text = []
    if analysis.main:
        chosen = ", ".join(f"{lr:g} for {v}" for v, lr in analysis.main.rates.items())
        text.append(
            "The learning rate of each variant was chosen by its mean accuracy on images held out"
            f" from the training split, not on the reported ones: {chosen}."
        )
        ends = {float(analysis.table["lr"].min()), float(analysis.table["lr"].max())}
        edge = [variant for variant, lr in analysis.main.rates.items() if lr in ends]
        if edge:
            text.append(
                f"For {', '.join(edge)} the chosen rate is the lowest or highest that was tried: a"
                " better one may lie outside this range."
            )
    text += analysis.sign_changes
    if analysis.compared and not analysis.sign_changes:
        text.append(
            "No effect is settled with one sign at one learning rate and the other sign at another."
        )
    caption = f"{outcome.name.capitalize()} by learning rate."
    return Section("Learning rates", text, figures=[("learning_rates", caption)])


def _runs_section(analysis: NetworkAnalysis) -> Section:
    text = []
    if analysis.table["reused"].any():
        text.append(
            "Runs marked “reused” had finished before this study used them, in another study or as"
            " single runs."
        )
    if analysis.table["learning"].eq(STUCK).any():
        text.append("“Stuck” runs have learned nothing: their loss is still that of a guess.")
    return Section("Runs", text, tables=[runs_table(analysis)])


def limits(analysis: NetworkAnalysis) -> list[str]:
    """What the study can't say, and what a reader may wrongly conclude from it."""
    first, seeds = analysis.results[0], analysis.table["seed"].nunique()
    config, caveat = first.config, first.data_caveat
    unknown = [caveat] if caveat else []
    here = [plural(config.epochs, "epoch"), f"batch size {config.batch_size}"]
    here += sorted({result.optimizer for result in analysis.results})
    counted = "the last epoch counts"
    if analysis.last_epoch:
        counted = f"{analysis.outcomes[analysis.primary].name} counts"
    unknown.append(
        "Whether the effects hold for another network, data set, optimiser or number of epochs"
        f" (here: {'; '.join(here)}). {counted.capitalize()}, and if curves cross near the end,"
        " that may be chance."
    )
    if len(analysis.by_rate) == 1:
        unknown.append(
            f"Whether they hold at a learning rate other than {config.lr:g}: an effect can change"
            " its sign with it. A study with several (lr=0.003,0.001,0.0003) shows that."
        )
    if config.validation == "test":
        unknown.append(
            "How good the networks are on images that nobody has looked at: nothing was chosen on"
            " the validation images here, but they were read after every epoch."
        )
    if any(result.correct is None for result in analysis.results):
        unknown.append(
            "How much of an effect is due to these test images: for some runs it was not recorded"
            " which images they classify correctly. The intervals account for the variation between"
            " seeds only."
        )
    if seeds < NORMAL_SEEDS:
        alarms = ""
        if seeds > 1 and analysis.comparisons:
            alarms = " " + skewed_alarms(analysis.design, seeds, analysis.comparisons)
        unknown.append(
            "Whether the differences are normally distributed, as the intervals assume:"
            f" {plural(seeds, 'seed')} can't show it.{alarms}"
        )
    unknown.append(
        "How long it takes elsewhere: times are from this machine, with whatever else ran on it."
    )
    if analysis.main and analysis.main.label == "best":
        unknown.append(
            "What a learning rate chosen on other networks would give: the rates were chosen on"
            " held-out images, but with the same networks that are reported, and a lucky seed"
            " raises both accuracies. That favours a variant with several rates that are about as"
            " good."
        )
    for (variant, other), (parameter, count) in analysis.other_weights.items():
        more = f" and {plural(count - 1, 'more parameter')}" if count > 1 else ""
        unknown.append(
            "How much of an effect is due to other initial weights: in"
            f" {variant}, {parameter}{more} {'do' if count > 1 else 'does'} not start out as in"
            f" {other}."
        )
    for name, words in MIXTURES.items():
        if len({getattr(r, name, getattr(r.identity, name, "")) for r in analysis.results}) > 1:
            unknown.append(f"What difference {words} made: it was not the same for all runs.")
    return unknown
