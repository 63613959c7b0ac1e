"""A comparison, and the design behind it, in words."""

import re
from collections.abc import Mapping

from pipeline.errors import plural
from pipeline.statistics import FIRST_SEEDS
from pipeline.statistics.comparisons import MAX_LOOK_AHEAD, Comparison, OutcomeMeasure

# How long the intervals of a design are.
INTERVALS = {
    "planned": "The intervals are Student's t intervals.",
    "anytime": "So the intervals are a confidence sequence, which stays valid however often results"
    " are looked at and seeds are added, and is longer than a t interval.",
    "two-stage": f"The standard deviation of the first {FIRST_SEEDS} seeds decided how many were"
    " trained (Stein's two-stage procedure), and the intervals rest on that standard deviation.",
}


def sentence(
    subject: str,
    comparison: Comparison,
    outcome: OutcomeMeasure,
    stuck: Mapping[str, int] | None = None,
    noun: str = "seed",
) -> str:
    """Say what `subject` ("mixup") does to the outcome, and how certain that is.

    stuck: how many of its runs have learned nothing, by variant; those that have none are left out.
    """
    name, seeds, scale = outcome.name, comparison.seeds, outcome.scale
    difference = comparison.difference * scale
    low, high = (bound * scale for bound in comparison.interval or [comparison.difference] * 2)
    near, far = sorted((abs(low), abs(high)))
    few = outcome.decimals  # or more, if a bound would otherwise look like 0
    number = f"z,.{next((n for n in range(few, few + 3) if round(near, n)), few)}f"
    ending = "" if is_plural(subject) else "s"
    verb = f"raise{ending}" if difference > 0 else f"lower{ending}"
    begin = capitalized(subject)
    effect = f"{begin} {verb} {name} by {abs(difference):{number}} {outcome.unit}".rstrip()
    if difference == 0:
        effect = f"{begin} leave{ending} {name} unchanged"
    link = "where" if comparison.interval or comparison.sd == 0 else "and"
    also = f", {link} {learned_nothing(stuck, seeds)}" if stuck else ""
    if seeds == 1:
        return f"{effect} in one seed, which gives no uncertainty: not settled{also}."
    if comparison.sd == 0:
        return f"{effect} in each of {seeds} seeds, without any spread{also}."
    if comparison.settled:
        return f"{effect} (95 % CI {near:{number}} to {far:{number}}, {seeds} {noun}s){also}."
    size = f"{digits(difference, f'+{number}')} {outcome.unit}".rstrip()
    unsettled = f"Whether {subject} change{ending} {name} is not settled: {size}"
    bounds = " to ".join(digits(bound, f"+{number}") for bound in (low, high))
    known = f"(95 % CI {bounds}, {seeds} {noun}s)"
    if comparison.interval is None:
        no_interval = "can't tell" if comparison.p_value else "give no interval yet"
        known = f"in {seeds} seeds, which {no_interval}"
    interest = f"{outcome.effect_of_interest * scale:g} {outcome.unit}".rstrip()
    interest = interest.removesuffix("s") if interest.startswith("1 ") else interest
    if comparison.interval and far < outcome.effect_of_interest * scale:
        verdict = f"With 95 % confidence, any effect is smaller than {interest}."
    elif comparison.seeds_to_settle is None:
        verdict = f"To settle a true effect of {interest} would take over {MAX_LOOK_AHEAD:,} seeds."
    elif (more := comparison.seeds_to_settle - seeds) > 0:
        number_of_seeds = f"About {plural(more, 'more seed')}"
        verdict = (
            f"{number_of_seeds} would settle a true effect of {interest} with 80 % probability."
        )
    else:
        verdict = f"So many seeds settle a true effect of {interest} with 80 % probability or more."
    return f"{unsettled} {known}{also}. {verdict}"


def learned_nothing(stuck: Mapping[str, int], runs: int) -> str:
    """Say how many of so many runs of each variant: `2 of 5 runs of plain have learned nothing`."""
    counts = [f"{one} of {plural(runs, 'run')} of {variant}" for variant, one in stuck.items()]
    verb = "has" if sum(stuck.values()) == 1 else "have"
    return f"{' and '.join(counts)} {verb} learned nothing"


def capitalized(words: str) -> str:
    """Begin words as a sentence begins, and leave all other letters as they are."""
    return words[:1].upper() + words[1:]


def digits(number: float, form: str) -> str:
    """Format a number for readers: with a minus sign, which is longer than a hyphen."""
    return format(number, form).replace("-", "−")


def is_plural(subject: str) -> bool:
    """Whether the verb after `subject` is in the plural: `skip connections on top of mixup`."""
    noun = re.split(r" (?:with|without|on|instead|but|while|of|in|for|to|at)\b", subject)[0]
    if re.match(r"\w+ing ", noun):  # removing skip connections
        return False
    return " together" in subject or bool(re.search("[^aius]s$", noun))
