"""Whether what an ablation states fits together."""

import re
from collections.abc import Iterable, Mapping

from pipeline.ablation.definition import Ablation, Value
from pipeline.ablation.programs import check_kind, check_program
from pipeline.config import check_choice
from pipeline.errors import InputError

MAX_VARIANTS = 8  # that a reader can tell apart by colour and marker
NAME = re.compile(r"[a-z0-9_][\w-]{0,63}", re.ASCII | re.IGNORECASE)  # becomes part of a model's
# Names that are taken, and what to do. Variants become aliases of models: MLflow reserves some.
TAKEN = {
    "variant": (
        r"auto|champion|latest|v\d+",
        ", nor be auto, champion, latest or v1 (reserved for models)",
    ),
    "data set": ("auto", ", nor be auto"),
    "ablation": ("", "; name it with name=… in Ablation, or rename its file"),
}


def check_ablation(ablation: Ablation) -> None:
    """Raise InputError, saying what would be right, unless the statements fit together."""
    for name in ("variants", "datasets", "words"):
        if not isinstance(getattr(ablation, name), Mapping):
            raise InputError(f"{name} must be a dictionary by name")
    check_kind(ablation)
    _check_names("variant", ablation.variants)
    _check_names("ablation", [ablation.name])
    if not ablation.is_program:
        _check_parts(ablation)
    _check_variants(ablation)
    if ablation.is_program:
        check_program(ablation)
    for name, words in ablation.words.items():
        if name not in ablation.setting_names:
            raise InputError(f"words has {name!r}, which is not a setting of any variant")
        every = words.values() if isinstance(words, Mapping) else [words]
        if not all(isinstance(word, str) for word in every):
            raise InputError(f"words of {name!r} must be a string, or one for each of its values")
    _check_comparisons(ablation)


def _check_parts(ablation: Ablation) -> None:
    from torch import nn  # not above: a program is checked without it

    _check_names("data set", ablation.datasets)
    for part in (*ablation.parts, *ablation.datasets.values()):
        if isinstance(part, nn.Module) or not callable(part):
            kind = type(part).__name__
            raise InputError(f"{kind} object found where a class or a function is expected")


def _check_variants(ablation: Ablation) -> None:
    known: dict[tuple[tuple[str, Value], ...], str] = {}
    if len(ablation.variants) > MAX_VARIANTS:
        raise InputError(
            f"there are {len(ablation.variants)} variants; a reader can tell apart {MAX_VARIANTS}"
            " at most: make several ablations"
        )
    for variant in ablation.variants:
        # What takes a program's settings, `check_program` says.
        for name in () if ablation.is_program else ablation.variants[variant]:
            if name == "lr":
                raise InputError("lr can't be a setting of a variant: give it to train or ablate")
            if not any(ablation.takes(part, name) for part in ablation.parts):
                raise InputError(
                    f"nothing takes setting {name!r} of variant {variant!r}: neither network nor"
                    " criterion, optimizer, schedule or augmentation has a parameter of that name"
                )
        values = ablation.values(variant)
        for name, value in values.items():
            if not isinstance(value, Value):
                raise InputError(
                    f"setting {name!r} of variant {variant!r} is {value!r}; it must be a string, a"
                    " number, True, False or None, which can be recorded"
                )
        other = known.setdefault(tuple(values.items()), variant)
        if other != variant:
            raise InputError(f"variants {other!r} and {variant!r} have the same settings")


def _check_comparisons(ablation: Ablation) -> None:
    for one in ablation.comparisons:
        strings = isinstance(one, tuple | list) and all(isinstance(part, str) for part in one)
        if not strings or not 2 <= len(one) <= 3 or one[0] == one[1]:
            raise InputError(
                f"comparison {one!r} must be two different variants, or these and the words for it"
            )
    if isinstance(ablation.compared, str):
        raise InputError(f"compared is {ablation.compared!r}; it must be a list of variants")
    pairs = [name for one in ablation.comparisons for name in one[:2]]
    for variant in (*ablation.compared, *pairs):
        check_choice("variant", variant, ablation.variants)


def _check_names(what: str, names: Iterable[str]) -> None:
    if not names:
        raise InputError(f"there is no {what}; name at least one")
    taken, hint = TAKEN[what]
    for name in names:
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        if not is_name or re.fullmatch(taken, name, re.IGNORECASE):
            raise InputError(
                f"{what} {name!r} is not a valid name; it must have up to 64 letters, digits, - and"
                f" _, and not begin with -{hint}"
            )
