"""What else differs between the runs that are compared, and may be the cause of an effect."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from pipeline.errors import shortlist
from pipeline.runs.others import Candidate, is_setting, mean_the_same
from pipeline.study.variants import cut, in_order, plain

NOT_SET = "not set"
MOST = 0.75  # of two variants' runs that differ in a parameter


class Chosen(NamedTuple):
    """A run that is compared. pair: what it shares with one run of each other variant, or ''."""

    run: Candidate
    variant: str
    pair: str


@dataclass(frozen=True)
class Differences:
    """follows: what differs with the variant, in words. notes: what differs besides."""

    follows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def differences_of(runs: Sequence[Chosen]) -> Differences:
    """Name the parameters, commits and data sets that differ beside what was asked for."""
    follows, everywhere, mixed = list[str](), list[str](), list[str]()
    for key in dict.fromkeys(key for one in runs for key in one.run.others):
        values = defaultdict[str, Counter[str]](Counter)  # by variant
        in_pair = defaultdict[str, set[str]](set)
        for one in runs:
            value = one.run.others.get(key, NOT_SET)
            values[one.variant][value] += 1
            in_pair[one.pair].add(value)
        every = set().union(*values.values())
        if len(every) < 2 or _is_asked_for(key, runs):
            continue
        is_shared = 2 * len(every) <= len(runs)  # as settings are; results hardly ever
        if any(_apart(*two, is_shared) for two in combinations(values.values(), 2)):
            told = (
                f"{shortlist(map(cut, in_order(some)), 2)} ({name})"
                for name, some in values.items()
            )
            follows.append(f"{plain(key)}: {shortlist(told)}")
        elif not is_setting(key):
            continue
        elif len(every) == len(runs):
            everywhere.append(plain(key))
        elif "" in in_pair or any(len(some) > 1 for some in in_pair.values()):
            mixed.append(f"{plain(key)} ({shortlist(map(cut, in_order(every)), 4)})")
    notes = []
    if mixed:
        more = f"Runs of a variant also differ in {shortlist(mixed)}; where=… chooses."
        notes.append(more)
    if everywhere:
        notes.append(f"Different in every run: {shortlist(everywhere)}.")
    return Differences(follows, notes)


def _apart(one: Counter[str], other: Counter[str], is_shared: bool) -> bool:
    """Whether a parameter tells two variants apart: always, or in most of their runs."""
    if one.keys().isdisjoint(other):
        return is_shared or min(len(one), len(other)) == 1
    shares = (abs(one[v] / one.total() - other[v] / other.total()) for v in one | other)
    return is_shared and sum(shares) / 2 >= MOST  # the total variation distance


def _is_asked_for(key: str, runs: Sequence[Chosen]) -> bool:
    """Whether a parameter says what tells variants or pairs apart, as a tag of its name may.

    Or a setting of the variant: autologging may call `depth` max_depth.
    """
    asked = [{**one.run.by, **one.run.pair, **one.run.settings} for one in runs]
    return any(
        all(
            mean_the_same(k.get(name), one.run.others.get(key))
            for k, one in zip(asked, runs, strict=True)
        )
        for name in asked[0]
    )
