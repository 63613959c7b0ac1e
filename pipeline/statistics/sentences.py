"""A comparison in words."""

from pipeline.statistics.comparisons import Comparison, Outcome


def sentence(subject: str, comparison: Comparison, outcome: Outcome) -> str:
    """Say what `subject` ("BatchNorm") does to the outcome, and how certain that is."""
    name, seeds, scale = outcome.name, comparison.seeds, outcome.scale
    difference = comparison.difference * scale
    low, high = (bound * scale for bound in comparison.interval or [comparison.difference] * 2)
    near, far = sorted((abs(low), abs(high)))
    few = outcome.decimals  # or more, if a bound would otherwise look like 0
    number = f"z,.{next((n for n in range(few, few + 3) if round(near, n)), few)}f"
    verb = "raises" if difference > 0 else "lowers"
    effect = f"{subject} {verb} {name} by {abs(difference):{number}} {outcome.unit}".rstrip()
    if difference == 0:
        effect = f"{subject} leaves {name} unchanged"
    if seeds == 1:
        return f"{effect} in one seed, which gives no uncertainty: not settled."
    if comparison.sd == 0:
        return f"{effect} in each of {seeds} seeds, without any spread."
    if comparison.settled:
        return f"{effect} (95 % CI {near:{number}} to {far:{number}}, {seeds} seeds)."
    size = f"{difference:+{number}} {outcome.unit}".rstrip()
    unsettled = f"Whether {subject} changes {name} is not settled: {size}"
    if comparison.interval is None:
        return f"{unsettled} in {seeds} seeds, too few for an interval."
    interest = f"{outcome.effect_of_interest * scale:g} {outcome.unit}".rstrip()
    interest = interest.removesuffix("s") if interest.startswith("1 ") else interest
    if far < outcome.effect_of_interest * scale:
        known = f"Any effect is smaller than {interest}."
    else:
        more = (comparison.seeds_to_settle or 0) - seeds
        needed = f"About {more} more seed{'s' if more > 1 else ''} would settle"
        settling = needed if more > 0 else "This many seeds would probably have settled"
        known = f"{settling} an effect of {interest}."
    return f"{unsettled} (95 % CI {low:+{number}} to {high:+{number}}, {seeds} seeds). {known}"
