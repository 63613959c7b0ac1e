"""Which of others' runs are compared, as which variants; why not the rest; what else differs."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple, TypeVar

from pipeline.ablation.wording import Wording
from pipeline.config import check_text
from pipeline.errors import InputError, plural, printable, shortlist, shown
from pipeline.report.contrasts import Contrast, contrasts_of
from pipeline.runs.others import COMMIT, DATA, Candidate, Value, as_number, as_values

MAX_VARIANTS = 24
MAX_VALUE = 60  # characters of a value that is named
NOT_SET = "not set"
ENDINGS = ("was deleted", "has not ended", "did not end well", "has no ")

Setting = tuple[Value, ...]
K = TypeVar("K")


class Chosen(NamedTuple):
    """A run that is compared. pair: what it shares with one run of each other variant, or ''."""

    run: Candidate
    variant: str
    pair: str


@dataclass
class Selection:
    """The runs that are compared.

    settings: of each variant by name, the baseline first. order: of the pairs' names. unused: why
    others are not compared, by name. follows: what else differs with the variant, in words;
    notes: what else differs besides.
    """

    settings: dict[str, dict[str, Value]]
    contrasts: list[Contrast]
    runs: list[Chosen]
    unused: dict[str, str]
    unexpected: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)  # runs without a finite outcome, by variant
    follows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def select(
    candidates: Sequence[Candidate], by: Sequence[str], pair: Sequence[str], baseline: str | None
) -> Selection:
    """Choose the runs that can be compared, and name all others with the reason.

    by: the keys whose values are the variants. pair: those whose values make two runs a pair; none
    for independent samples. baseline: values of a variant, all of them or a part; None is the
    first in order.

    Raises InputError if there are no two variants to compare.
    """
    unused = {one.name: one.problem for one in candidates if one.problem}
    usable = [one for one in candidates if not one.problem]
    if not usable:
        raise InputError(f"no run can be compared{_reasons(unused.values())}")
    meaning = {key: as_values({one.by[key] for one in usable}) for key in by}
    pairs = {key: as_values({one.pair[key] for one in usable}) for key in pair}

    def variant_of(one: Candidate) -> Setting:
        return tuple(meaning[key][one.by[key]] for key in by)

    def pair_of(one: Candidate) -> Setting:
        return tuple(pairs[key][one.pair[key]] for key in pair)

    usable = _alike(usable, variant_of, pair_of, bool(pair), unused)
    if pair:
        usable = _newest(usable, variant_of, pair_of, unused)
    names = _names_of(usable, by, variant_of)
    if len(names) < 2:
        (only,) = names.values()
        raise InputError(
            f"nothing to compare: {plural(len(usable), 'run')} of one variant,"
            f" {only}{_reasons(unused.values())}; by names what tells variants apart"
        )
    if len(names) > MAX_VARIANTS:
        raise InputError(
            f"by has {len(names)} variants ({shortlist(names.values(), 3)}); at most"
            f" {MAX_VARIANTS} can be compared: choose some with where"
        )
    order = _ordered(names, baseline, by)
    named = [_named([one[place] for one in order]) for place in range(len(by))]
    settings = {
        names[one]: {
            key: known.get(value, value)
            for key, known, value in zip(_short(by), named, one, strict=True)
        }
        for one in order
    }
    compared = [
        replace(one, singular=" instead of " in one.subject)
        for one in contrasts_of(Wording(settings, _zeros(settings)))
    ]
    by_pair = defaultdict[Setting, dict[str, Candidate]](dict)
    for one in usable:
        by_pair[pair_of(one)][names[variant_of(one)]] = one
    pair_names = _distinct({one: ", ".join(map(_written, one)) for one in by_pair})
    chosen = []
    for one in usable:
        variant = names[variant_of(one)]
        if pair and not _has_partner(variant, by_pair[pair_of(one)], compared):
            shown_pair = ", ".join(f"{key} {_cut(one.pair[key])}" for key in pair)
            unused[one.name] = f"without partner: no variant to compare it with has {shown_pair}"
        else:
            chosen.append(Chosen(one, variant, pair_names[pair_of(one)]))
    if not chosen:
        raise InputError(
            f"nothing to compare: no two variants share a value of {' and '.join(pair)}"
            f"{_reasons(unused.values())}; pair=none compares them as independent samples"
        )
    place = {names[one]: number for number, one in enumerate(order)}
    chosen.sort(key=lambda one: (_sortable(pair_of(one.run)), place[one.variant], one.run.started))
    present = {one.variant for one in chosen}
    selection = Selection(
        {variant: own for variant, own in settings.items() if variant in present},
        [one for one in compared if set(one.variants) <= present],
        chosen,
        unused,
    )
    selection.unexpected = [n for n, why in unused.items() if not why.startswith(ENDINGS)]
    selection.lost = _lost(candidates, meaning, names)
    _name_differences(selection)
    return selection


def _alike(
    usable: list[Candidate],
    variant_of: Callable[[Candidate], Setting],
    pair_of: Callable[[Candidate], Setting],
    paired: bool,
    unused: dict[str, str],
) -> list[Candidate]:
    """Leave out the few runs that differ from most in another parameter, within a variant.

    Only if those that remain have at least half of the pairs: what differs in every run, such as
    a folder, or is a result, such as a number of iterations, is no setting that was changed.
    """

    def score(runs: Iterable[Candidate]) -> int:
        if not paired:  # one run of each variant is a repetition, such as that of a seed
            counts = Counter(map(variant_of, runs))
            return counts.total() if len(counts) > 1 and max(counts.values()) > 1 else 0
        variants = _grouped(runs, pair_of).values()
        return sum(len(set(map(variant_of, some))) > 1 for some in variants)

    keys = dict.fromkeys(key for one in usable for key in one.others if key not in (COMMIT, DATA))
    for key in keys:
        groups = defaultdict[str, list[Candidate]](list)
        for one in usable:
            groups[one.others.get(key, NOT_SET)].append(one)
        if len(groups) < 2 or not _is_mixed(key, usable, variant_of, pair_of, paired):
            continue
        best = max(groups, key=lambda v: (score(groups[v]), len(groups[v]), _newest_of(groups[v])))
        if 2 * score(groups[best]) < max(1, score(usable)):
            continue
        values = shortlist(map(_cut, _in_order(groups)))
        for value, runs in groups.items():
            if value != best:
                why = f"also differ in {_plain(key)}: {values}; only {_cut(best)} is compared"
                unused.update((one.name, why) for one in runs)
        usable = groups[best]
    return usable


def _is_mixed(
    key: str,
    usable: Sequence[Candidate],
    variant_of: Callable[[Candidate], Setting],
    pair_of: Callable[[Candidate], Setting],
    paired: bool,
) -> bool:
    """Whether a parameter differs within a variant, and not just from pair to pair."""
    within_variant, within_pair = (
        any(
            len({one.others.get(key) for one in runs}) > 1
            for runs in _grouped(usable, group_of).values()
        )
        for group_of in (variant_of, lambda one: pair_of(one) if paired else ())
    )
    return within_variant and within_pair


def _newest(
    usable: Sequence[Candidate],
    variant_of: Callable[[Candidate], Setting],
    pair_of: Callable[[Candidate], Setting],
    unused: dict[str, str],
) -> list[Candidate]:
    """Of several runs of a variant and pair, the newest."""
    kept = []
    for runs in _grouped(usable, lambda one: (variant_of(one), pair_of(one))).values():
        *older, newest = sorted(runs, key=lambda one: one.started)
        for one in older:
            other = [n for n, v in newest.others.items() if one.others.get(n, NOT_SET) != v]
            other = [_plain(n) for n in other if n not in (COMMIT, DATA)]
            apart = f", with another {shortlist(other, 3)}" if other else ""
            unused[one.name] = f"repeated by {newest.name}{apart}"
        kept.append(newest)
    return kept


def _names_of(
    usable: Sequence[Candidate], by: Sequence[str], variant_of: Callable[[Candidate], Setting]
) -> dict[Setting, str]:
    """The names of variants: `adam`, `depth=3`, `adam, warmup=100`."""
    return _distinct({setting: _name_of(setting, by) for setting in map(variant_of, usable)})


def _name_of(setting: Setting, by: Sequence[str]) -> str:
    parts = (
        _written(value) if isinstance(value, str) else f"{name}={_written(value)}"
        for name, value in zip(_short(by), setting, strict=True)
    )
    return _cut(", ".join(parts))


def _distinct(names: Mapping[K, str]) -> dict[K, str]:
    """Names with a number where several would be the same."""
    found, taken = dict[K, str](), Counter(names.values())
    for key, name in names.items():
        numbered, number = name, 1
        while taken[name] > 1 and numbered in (*taken, *found.values()):
            numbered, number = f"{name} ({number})", number + 1
        found[key] = numbered
    return found


def _named(values: Iterable[Value]) -> dict[Value, str]:
    """Texts as they are named in sentences: on one line, and not too long."""
    return _distinct({one: _cut(one) for one in values if isinstance(one, str)})


def _zeros(settings: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[Value, str]]:
    """Words for 0: it is a number as others are, whereas False says that something is off."""
    return {
        name: {0: f"{name.replace('_', ' ')} 0"}
        for name in next(iter(settings.values()))
        if any(own[name] == 0 and own[name] is not False for own in settings.values())
    }


def _written(value: Value) -> str:
    """A value as people write it, on one line: 10 for 10.0."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return printable(str(value))


def _ordered(
    names: Mapping[Setting, str],
    baseline: str | None,
    by: Sequence[str],
) -> list[Setting]:
    """The variants in order, with the baseline first."""
    order = sorted(names, key=_sortable)
    if baseline is None:
        return order
    check_text("baseline", baseline)
    words = defaultdict[Setting, set[str]](set)
    for setting in order:
        for key, short, value in zip(by, _short(by), setting, strict=True):
            text = str(value) if isinstance(value, str) else _written(value)
            words[setting] |= {text, f"{short}={text}", f"{key}={text}"}
    given = baseline.strip()
    for parts in ([given], [_as_written(part.strip()) for part in given.split(",")]):
        found = [one for one in order if names[one] == given or set(parts) <= words[one]]
        if found:
            return [found[0], *(one for one in order if one != found[0])]
    raise InputError(
        f"no variant is {shown(baseline)}; baseline must be one of"
        f" {shortlist((names[one] for one in order), 12)}"
    )


def _as_written(part: str) -> str:
    """What `1.0` or `depth=1e0` is called: `1`, `depth=1`."""
    name, equals, text = part.rpartition("=")
    number = as_number(text)
    return part if number is None else f"{name}{equals}{_written(number)}"


def _has_partner(variant: str, here: Mapping[str, Candidate], compared: Sequence[Contrast]) -> bool:
    return any(variant in one.variants and set(one.variants) <= here.keys() for one in compared)


def _lost(
    candidates: Sequence[Candidate],
    meaning: Mapping[str, Mapping[str, Value]],
    names: Mapping[Setting, str],
) -> dict[str, int]:
    """How many runs of each variant have diverged, or ended without the outcome.

    Of a variant that has no other runs, too.
    """
    lost = Counter[str]()
    for one in candidates:
        if one.is_lost and one.by.keys() == meaning.keys():
            setting = tuple(
                {**as_values([text]), **meaning[key]}[text] for key, text in one.by.items()
            )
            lost[names.get(setting) or _name_of(setting, list(meaning))] += 1
    return dict(lost)


def _name_differences(selection: Selection) -> None:
    """Name what differs beside the settings of the variants."""
    variants = _grouped(selection.runs, lambda one: one.variant)
    pairs = _grouped(selection.runs, lambda one: one.pair)
    follows: dict[str, dict[str, list[str]]] = {}
    everywhere, mixed = [], []
    for key in dict.fromkeys(key for one in selection.runs for key in one.run.others):
        values = {
            name: {one.run.others.get(key, NOT_SET) for one in runs}
            for name, runs in variants.items()
        }
        every = set().union(*values.values())
        if len(every) < 2 or _is_the_same(key, selection.runs):
            continue
        apart = any(
            values[one].isdisjoint(values[other]) and min(len(values[one]), len(values[other])) < 2
            for one, other in combinations(values, 2)
        )
        in_pairs = all(len({o.run.others.get(key) for o in runs}) == 1 for runs in pairs.values())
        if apart:
            follows[key] = {name: _in_order(some) for name, some in values.items()}
        elif len(every) == len(selection.runs):
            everywhere.append(_plain(key))
        elif not in_pairs or "" in pairs:
            mixed.append(f"{_plain(key)} ({shortlist(map(_cut, _in_order(every)), 4)})")
    selection.follows = [
        f"{_plain(key)}: "
        + shortlist(f"{shortlist(map(_cut, some), 2)} ({name})" for name, some in each.items())
        for key, each in follows.items()
    ]
    if mixed:
        selection.notes.append(
            f"The runs also differ in {shortlist(mixed)}, not by variant; where=… chooses."
        )
    if everywhere:
        selection.notes.append(f"Different in every run: {shortlist(everywhere)}.")


def _is_the_same(key: str, runs: Sequence[Chosen]) -> bool:
    """Whether a parameter says what tells variants or pairs apart, as a tag of its name may."""
    keys = [{**one.run.by, **one.run.pair} for one in runs]
    return any(
        all(k[name] == one.run.others.get(key) for k, one in zip(keys, runs, strict=True))
        for name in keys[0]
    )


def _grouped(runs: Iterable, key: Callable) -> dict:  # type: ignore[type-arg]
    groups = defaultdict(list)
    for one in runs:
        groups[key(one)].append(one)
    return groups


def _newest_of(runs: Iterable[Candidate]) -> int:
    return max(one.started for one in runs)


def _sortable(setting: Setting) -> tuple[tuple[bool, float, str], ...]:
    return tuple(
        (isinstance(v, str), 0.0 if isinstance(v, str) else float(v or 0), _padded(str(v)))
        for v in setting
    )


def _padded(text: str) -> str:
    """A text that sorts by the numbers in it: fold2 before fold10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(20), text)


def _in_order(values: Iterable[str]) -> list[str]:
    known = as_values(values)
    return sorted(known, key=lambda text: _sortable((known[text],)))


def _short(by: Sequence[str]) -> list[str]:
    """Names of settings, without `params.` where that leaves them apart."""
    plain = [_plain(key) for key in by]
    return plain if len(set(plain)) == len(plain) else list(by)


def _plain(key: str) -> str:
    return key.removeprefix("params.").removeprefix("tags.")


def _cut(text: str) -> str:
    text = printable(text)
    return (text or "''") if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def _reasons(reasons: Iterable[str]) -> str:
    """The most frequent reasons, for an error."""
    counts = Counter(reasons).most_common(3)
    return "".join(f"; {plural(count, 'run')}: {reason}" for reason, count in counts)
