"""What variants of others' runs are called, and in which order they are compared."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pipeline.config import check_text
from pipeline.errors import InputError, printable, shortlist, shown
from pipeline.runs.others import Value, as_number, as_values

MAX_VALUE = 60  # characters of a value that is named

Setting = tuple[Value, ...]  # what a variant's runs say of the keys that tell variants apart
K = TypeVar("K")


def ordered(names: Mapping[Setting, str], baseline: str | None, by: Sequence[str]) -> list[Setting]:
    """The variants in order, the baseline first. Raises InputError if there is no such one."""
    order = sorted(names, key=sortable)
    if baseline is None:
        return order
    check_text("baseline", baseline)
    words = defaultdict[Setting, set[str]](set)
    for setting in order:
        for key, short, value in zip(by, short_keys(by), setting, strict=True):
            text = str(value) if isinstance(value, str) else written(value)
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


def names_of(settings: Iterable[Setting], by: Sequence[str]) -> dict[Setting, str]:
    """The names of variants: `adam`, `depth=3`, `adam, warmup=100`."""
    return distinct({setting: name_of(setting, by) for setting in settings})


def name_of(setting: Setting, by: Sequence[str]) -> str:
    """The name of a variant, which another one may have, too."""
    parts = (
        written(value) if isinstance(value, str) else f"{name}={written(value)}"
        for name, value in zip(short_keys(by), setting, strict=True)
    )
    return cut(", ".join(parts))


def distinct(names: Mapping[K, str]) -> dict[K, str]:
    """Names with a number where several would be the same."""
    found, taken = dict[K, str](), Counter(names.values())
    for key, name in names.items():
        numbered, number = name, 1
        while taken[name] > 1 and numbered in (*taken, *found.values()):
            numbered, number = f"{name} ({number})", number + 1
        found[key] = numbered
    return found


def named_texts(values: Iterable[Value]) -> dict[Value, str]:
    """Texts as they are named in sentences: on one line, and not too long."""
    return distinct({one: cut(one) for one in values if isinstance(one, str)})


def zeros(settings: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[Value, str]]:
    """Words for 0: it is a number as others are, whereas False says that something is off."""
    return {
        name: {0: f"{name.replace('_', ' ')} 0"}
        for name in next(iter(settings.values()))
        if any(own[name] == 0 and own[name] is not False for own in settings.values())
    }


def in_order(values: Iterable[str]) -> list[str]:
    """Texts in order: numbers by their value."""
    known = as_values(values)
    return sorted(known, key=lambda text: sortable((known[text],)))


def written(value: Value) -> str:
    """A value as people write it, on one line: 10 for 10.0."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return printable(str(value))


def cut(text: str) -> str:
    """A value in a message: on one line, and not too long."""
    text = printable(text)
    return (text or "''") if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def short_keys(by: Sequence[str]) -> list[str]:
    """Names of settings, without `params.` where that leaves them apart."""
    short = [plain(key) for key in by]
    return short if len(set(short)) == len(short) else list(by)


def plain(key: str) -> str:
    """A parameter or tag without what says that it is one."""
    return key.removeprefix("params.").removeprefix("tags.")


def _as_written(part: str) -> str:
    """What `1.0` or `depth=1e0` is called: `1`, `depth=1`."""
    name, equals, text = part.rpartition("=")
    number = as_number(text)
    return part if number is None else f"{name}{equals}{written(number)}"


def sortable(setting: Setting) -> tuple[tuple[bool, float, str], ...]:
    """What sorts settings: numbers by their value, fold2 before fold10."""
    return tuple(
        (isinstance(v, str), 0.0 if isinstance(v, str) else float(v or 0), _padded(str(v)))
        for v in setting
    )


def _padded(text: str) -> str:
    """A text that sorts by the numbers in it: fold2 before fold10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(20), text)
