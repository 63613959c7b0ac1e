"""Which of others' runs are compared, and as which variants; why the rest is not."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.ablation.wording import Wording
from pipeline.errors import InputError, plural, shortlist
from pipeline.report.contrasts import Contrast, contrasts_of
from pipeline.runs.others import Candidate, Value, alike, as_values, is_setting, mean_the_same
from pipeline.study.differences import NOT_SET, Chosen, Differences, differences_of
from pipeline.study.variants import (
    Setting,
    cut,
    distinct,
    in_order,
    name_of,
    named_texts,
    names_of,
    ordered,
    plain,
    short_keys,
    sortable,
    written,
    zeros,
)

MAX_VARIANTS = 24
ENDINGS = ("was deleted", "has not ended", "did not end well", "has no ")


class Placed(NamedTuple):
    """A run that can be compared: the values of its variant and its pair, which may be ()."""

    run: Candidate
    variant: Setting
    pair: Setting


@dataclass(frozen=True)
class Selection:
    """The runs that are compared.

    settings: of each variant by name, the baseline first. unused: why others are not compared, by
    name; unexpected: those of them that a plan does not foresee. lost: how many runs of a variant
    have no finite outcome. differ: what else differs. only: settings that all compared runs have,
    and others have not.
    """

    settings: dict[str, dict[str, Value]]
    contrasts: list[Contrast]
    runs: list[Chosen]
    unused: dict[str, str]
    lost: dict[str, int]
    differ: Differences = field(default_factory=Differences)
    only: list[str] = field(default_factory=list)

    @property
    def unexpected(self) -> list[str]:
        """Runs that are not compared, though they have ended well and measured something."""
        return [name for name, why in self.unused.items() if not why.startswith(ENDINGS)]


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
    usable = alike([one for one in candidates if not one.problem])
    if not usable:
        raise InputError(f"no run can be compared{_reasons(unused)}")
    meaning = {key: as_values({one.by[key] for one in usable}) for key in by}
    pairs = {key: as_values({one.pair[key] for one in usable}) for key in pair}
    placed = [
        Placed(
            one,
            tuple(meaning[key][one.by[key]] for key in by),
            tuple(pairs[key][one.pair[key]] for key in pair),
        )
        for one in usable
    ]
    placed = _without_children(placed, unused)
    placed, only = _of_most(placed, unused)
    if pair:
        placed = _newest(placed, unused)
    names = names_of((one.variant for one in placed), by)
    _check_count(names, placed, unused)
    order = ordered(names, baseline, by)
    settings, compared = _settings(order, names, by)
    chosen = _with_partners(placed, names, pair, compared, unused)
    present = {one.variant for one in chosen}
    cells = {(one.variant, *one.run.pair.values()) for one in chosen} if pair else set()
    return Selection(
        {variant: own for variant, own in settings.items() if variant in present},
        [one for one in compared if set(one.variants) <= present],
        chosen,
        unused,
        _lost([one for one in candidates if _has(one, only)], meaning, names, cells),
        differences_of(chosen),
        [f"{plain(key)} {cut(value)}" for key, value in only.items()],
    )


def _check_count(
    names: Mapping[Setting, str], placed: Sequence[Placed], unused: Mapping[str, str]
) -> None:
    if len(names) < 2:
        (only,) = names.values()
        raise InputError(
            f"nothing to compare: {plural(len(placed), 'run')} of one variant,"
            f" {only}{_reasons(unused)}; give by what tells variants apart"
        )
    if len(names) > MAX_VARIANTS:
        raise InputError(
            f"by has {len(names)} variants ({shortlist(names.values(), 3)}); at most"
            f" {MAX_VARIANTS} can be compared: choose some with where"
        )


def _settings(
    order: Sequence[Setting], names: Mapping[Setting, str], by: Sequence[str]
) -> tuple[dict[str, dict[str, Value]], list[Contrast]]:
    """The settings of each variant by name, and the comparisons that follow from them."""
    texts = [named_texts(one[place] for one in order) for place in range(len(by))]
    settings = {
        names[one]: {
            key: known.get(value, value)
            for key, known, value in zip(short_keys(by), texts, one, strict=True)
        }
        for one in order
    }
    made = contrasts_of(Wording(settings, zeros(settings)))
    return settings, [replace(one, singular=" instead of " in one.subject) for one in made]


def _without_children(placed: list[Placed], unused: dict[str, str]) -> list[Placed]:
    """Leave out a run below one of the same variant and pair: a fold below its mean, a trial."""
    parents = {one.run.run_id: one for one in placed if one.run.run_id}
    kept = []
    for one in placed:
        parent = parents.get(one.run.parent)
        if parent and (parent.variant, parent.pair) == (one.variant, one.pair):
            unused[one.run.name] = f"is a child of {parent.run.name}, which is compared"
        else:
            kept.append(one)
    return kept


def _of_most(placed: list[Placed], unused: dict[str, str]) -> tuple[list[Placed], dict[str, str]]:
    """Leave out the runs that differ from most in another parameter, within a variant.

    Only if those that remain have at least half of the pairs: what differs in every run, such as
    a folder, or is a result, such as a number of iterations, is no setting that was changed.

    Returns those that remain, and which values of parameters only they have. Raises InputError if
    they are less than half of the runs: to choose some would be arbitrary.
    """
    only = {}
    for key in dict.fromkeys(key for one in placed for key in one.run.others):
        if not is_setting(key) or not _is_mixed(key, placed):
            continue
        groups = defaultdict[str, list[Placed]](list)
        for one in placed:
            groups[one.run.others.get(key, NOT_SET)].append(one)
        best = max(groups, key=lambda value: (_score(groups[value]), *_size(groups[value])))
        if 2 * _score(groups[best]) < max(1, _score(placed)):
            continue
        values = shortlist(map(cut, in_order(groups)))
        if 2 * len(groups[best]) < len(placed):
            cell, options = (
                ("variant and pair", "pair or by") if placed[0].pair else ("variant", "by")
            )
            raise InputError(
                f"runs of the same {cell} also differ in {plain(key)}: {values}; choose some by"
                f" where ({_condition(key, best)}), or give {key} to {options}, too"
            )
        only[key] = best
        for value, some in groups.items():
            if value != best:
                why = f"also differ in {plain(key)}: {values}; only {cut(best)} is compared"
                unused.update((one.run.name, why) for one in some)
        placed = groups[best]
    return placed, only


def _condition(key: str, value: str) -> str:
    """A filter of MLflow's by a parameter, as an example; of a column, what pandas takes."""
    return f"{key} = '{value}'" if key.startswith("params.") else f"{key} == {value!r}"


def _has(one: Candidate, only: Mapping[str, str]) -> bool:
    """Whether a run would be among those that are compared: it has these values."""
    return all(mean_the_same(one.others.get(key, NOT_SET), value) for key, value in only.items())


def _is_mixed(key: str, placed: Sequence[Placed]) -> bool:
    """Whether a parameter differs within a variant, and not just from pair to pair."""
    variants = defaultdict[Setting, set[str | None]](set)
    pairs = defaultdict[Setting, set[str | None]](set)
    for one in placed:
        variants[one.variant].add(one.run.others.get(key))
        pairs[one.pair].add(one.run.others.get(key))
    return all(any(len(some) > 1 for some in each.values()) for each in (variants, pairs))


def _score(placed: Sequence[Placed]) -> int:
    """How much can be compared: pairs; or runs, of independent samples."""
    if not placed[0].pair:  # one run of each variant is a repetition, such as that of a seed
        counts = Counter(one.variant for one in placed)
        return counts.total() if len(counts) > 1 and max(counts.values()) > 1 else 0
    variants = defaultdict[Setting, set[Setting]](set)
    for one in placed:
        variants[one.pair].add(one.variant)
    return sum(len(some) > 1 for some in variants.values())


def _size(placed: Sequence[Placed]) -> tuple[int, int]:
    """How many runs, and when the newest of them began."""
    return len(placed), max(one.run.started for one in placed)


def _newest(placed: Sequence[Placed], unused: dict[str, str]) -> list[Placed]:
    """Of several runs of a variant and pair, the newest."""
    cells = defaultdict[tuple[Setting, Setting], list[Placed]](list)
    for one in placed:
        cells[one.variant, one.pair].append(one)
    kept = []
    for runs in cells.values():
        *older, newest = sorted(runs, key=lambda one: one.run.started)
        for one in older:
            theirs, ours = newest.run.others, one.run.others
            names = [n for n in theirs if is_setting(n)]
            other = [plain(n) for n in names if ours.get(n, NOT_SET) != theirs[n]]
            apart = f", with another {shortlist(other, 3)}" if other else ""
            unused[one.run.name] = f"repeated by {newest.run.name}{apart}"
        kept.append(newest)
    return kept


def _with_partners(
    placed: Sequence[Placed],
    names: Mapping[Setting, str],
    pair: Sequence[str],
    compared: Sequence[Contrast],
    unused: dict[str, str],
) -> list[Chosen]:
    """The runs that have one to be compared with, in order: pair by pair, the baseline first."""
    here = defaultdict[Setting, set[str]](set)
    for one in placed:
        here[one.pair].add(names[one.variant])
    pair_names = distinct({one: ", ".join(map(written, one)) for one in here})
    place = {variant: number for number, variant in enumerate(_first_named(compared))}
    chosen: list[tuple[Placed, Chosen]] = []
    for one in placed:
        variant = names[one.variant]
        partners = (o for o in compared if variant in o.variants)
        if pair and not any(set(o.variants) <= here[one.pair] for o in partners):
            shown = ", ".join(f"{key} {cut(one.run.pair[key])}" for key in pair)
            theirs = (v for o in compared if variant in o.variants for v in o.variants)
            others = shortlist((v for v in dict.fromkeys(theirs) if v != variant), 3)
            why = f"without partner: no run of {others} that counts has {shown}"
            unused[one.run.name] = why
        else:
            chosen.append((one, Chosen(one.run, variant, pair_names[one.pair])))
    if not chosen:
        raise InputError(
            f"nothing to compare: no two variants share a value of {' and '.join(pair)}"
            f"{_reasons(unused)}; pair=none compares them as independent samples"
        )
    chosen.sort(key=lambda one: (sortable(one[0].pair), place[one[1].variant], one[0].run.started))
    return [one for _, one in chosen]


def _first_named(compared: Sequence[Contrast]) -> list[str]:
    """All variants, those that others are compared with first."""
    return list(dict.fromkeys(v for one in compared for v in (*one.control, *one.treatment)))


def _lost(
    candidates: Sequence[Candidate],
    meaning: Mapping[str, Mapping[str, Value]],
    names: Mapping[Setting, str],
    cells: Set[tuple[str, ...]],
) -> dict[str, int]:
    """How many runs of each variant have diverged, or ended without the outcome.

    Of a variant that has no other runs, too, unless none of them has the outcome at all: such runs
    may belong to another question. cells: variants and pairs of the runs that are
    compared: one that was killed and run again is not lost, whereas one that has diverged is.
    """
    lost = Counter[str]()
    for one in candidates:
        if one.is_lost and one.by.keys() == meaning.keys():
            setting = tuple(
                {**as_values([text]), **meaning[key]}[text] for key, text in one.by.items()
            )
            cell = (names.get(setting, ""), *one.pair.values())
            if one.problem.startswith("did not end well") and cell in cells:
                continue
            if setting in names or not one.problem.startswith("has no "):
                lost[names.get(setting) or name_of(setting, list(meaning))] += 1
    return dict(lost)


def _reasons(unused: Mapping[str, str]) -> str:
    """The most frequent reasons, for an error."""
    counts: Iterable[tuple[str, int]] = Counter(unused.values()).most_common(3)
    return "".join(f"; {plural(count, 'run')}: {reason}" for reason, count in counts)
