"""A comparison, and the design behind it, in words."""

import re
from collections.abc import Mapping

from pipeline.errors import plural
from pipeline.statistics.comparisons import MAX_LOOK_AHEAD, Comparison
from pipeline.statistics.intervals import Design
from pipeline.statistics.outcomes import OutcomeMeasure


def intervals_in_words(design: Design) -> str:
    """How the intervals of a design are made, and what they allow for."""
    if design.name == "planned":
        return "The intervals are Student's t intervals."
    if design.name == "fixed-width":
        return (
            "After each stage, the spread of the differences decided whether more seeds were"
            " needed; what the effects are was not looked at (a sequential interval of fixed"
            " width). Where the margin is reached, the interval is the mean ± the margin, or"
            " shorter, if 5 seeds were enough or if other effects needed more seeds."
        )
    anytime = (
        "a confidence sequence, which stays valid however often results are looked at and seeds are"
        " added, and is longer than a t interval."
    )
    if not design.ends:
        return f"So the intervals are {anytime}"
    return (
        f"So the intervals allow for a look after each seed up to {design.most}, the number that"
        f" was named as the most before the first run. Beyond that, they are {anytime}"
    )


def sentence(
    subject: str,
    comparison: Comparison,
    outcome: OutcomeMeasure,
    stuck: Mapping[str, int] | None = None,
    noun: str = "seed",
    singular: bool = False,
) -> str:
    """Say what `subject` ("mixup") does to the outcome, and how certain that is.

    stuck: how many of its runs have learned nothing, by variant; those that have none are left out.
    noun: what is counted: what pairs the runs, or the runs themselves if nothing does.
    singular: that the subject is, even if it looks like a plural.
    """
    name, sizes, difference = outcome.name, comparison.sizes, comparison.difference
    count = f"{comparison.seeds} {noun}s"
    if sizes:
        count = f"{sizes[0]:,} and {sizes[1]:,} {noun}s"
    low, high = comparison.interval or (difference, difference)
    near, far = sorted((abs(low), abs(high)))
    extra = outcome.more_for(near)
    ending = "" if is_plural(subject) and not singular else "s"
    verb = f"raise{ending}" if difference > 0 else f"lower{ending}"
    begin = capitalized(subject)
    by = outcome.show(abs(difference), extra=extra)
    effect = f"{begin} {verb} {name} by {by} {outcome.unit}".rstrip()
    if difference == 0:
        effect = f"{begin} leave{ending} {name} unchanged"
    link = "where" if comparison.interval or comparison.sd == 0 else "and"
    also = f", {link} {learned_nothing(stuck, comparison.seeds)}" if stuck else ""
    if comparison.seeds == 1:
        none = f"{count}, which give" if sizes else f"one {noun}, which gives"
        return f"{effect} in {none} no uncertainty: not settled{also}."
    if comparison.sd == 0:
        each = "" if sizes else "each of "
        return f"{effect} in {each}{count}, without any spread{also}."
    if comparison.settled:
        return f"{effect} (95 % CI {outcome.show(near, far, extra=extra)}, {count}){also}."
    size = f"{outcome.show(difference, sign=True, extra=extra)} {outcome.unit}".rstrip()
    unsettled = f"Whether {subject} change{ending} {name} is not settled: {size}"
    known = f"(95 % CI {outcome.show(low, high, sign=True, extra=extra)}, {count})"
    if comparison.interval is None:
        no_interval = "can't tell" if comparison.p_value else "give no interval yet"
        known = f"in {count}, which {no_interval}"
    verdict = _verdict(comparison, outcome, noun)
    return " ".join(filter(None, [f"{unsettled} {known}{also}.", verdict]))


def _verdict(comparison: Comparison, outcome: OutcomeMeasure, noun: str) -> str:
    """Whether an unsettled effect may be one of interest, or what would settle such a one."""
    interest, enough = outcome.effect_of_interest, comparison.seeds_to_settle
    if interest is None:
        return ""
    size = amount(interest, outcome)
    if comparison.interval and max(map(abs, comparison.interval)) < interest:
        return f"With 95 % confidence, any effect is smaller than {size}."
    effect = f"a true effect of {size}"
    each = " of each" if comparison.sizes else ""
    if enough is None:
        return f"To settle {effect} would take over {MAX_LOOK_AHEAD:,} {noun}s{each}."
    if (more := enough - comparison.seeds) <= 0:
        return f"So many {noun}s settle {effect} with 80 % probability or more."
    needed = f"{plural(enough, noun)} of each" if comparison.sizes else plural(more, f"more {noun}")
    return f"About {needed} would settle {effect} with 80 % probability."


def amount(number: float, outcome: OutcomeMeasure) -> str:
    """An amount that somebody has named, in the metric's own unit: `1 point`."""
    words = f"{number * outcome.scale:g} {outcome.unit}".rstrip()
    return words.removesuffix("s") if words.startswith("1 ") else words


def learned_nothing(stuck: Mapping[str, int], runs: int) -> str:
    """Say how many of so many runs of each variant: `2 of 5 runs of plain have learned nothing`."""
    counts = [f"{one} of {plural(runs, 'run')} of {variant}" for variant, one in stuck.items()]
    verb = "has" if sum(stuck.values()) == 1 else "have"
    return f"{' and '.join(counts)} {verb} learned nothing"


def capitalized(words: str) -> str:
    """Begin words as a sentence begins, and leave all other letters as they are."""
    return words[:1].upper() + words[1:]


def is_plural(subject: str) -> bool:
    """Whether the verb after `subject` is in the plural: `skip connections on top of mixup`."""
    noun = re.split(r" (?:with|without|on|instead|but|while|of|in|for|to|at)\b", subject)[0]
    if re.match(r"\w+ing ", noun):  # removing skip connections
        return False
    return " together" in subject or bool(re.search("[^aius]s$", noun))
