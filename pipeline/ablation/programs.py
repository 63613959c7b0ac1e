"""Whether what an ablation states of a program fits together: a command, a function, a project."""

import inspect
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.ablation.command import (
    SEED,
    code_of_command,
    executable,
    fill,
    folder_of,
    placeholders,
    template_of,
)
from pipeline.ablation.definition import USUAL, Ablation, Value
from pipeline.config import check_choice, check_text, text_of
from pipeline.errors import InputError, shortlist, shown
from pipeline.outcome import Outcome, check_different

# What belongs to networks alone, and to programs alone, with what says that it is not given.
OF_NETWORKS: Mapping[str, object] = {
    "datasets": {},
    "criterion": USUAL,
    "optimizer": USUAL,
    "schedule": None,
    "augmentation": USUAL,
}
OF_PROGRAMS: Mapping[str, object] = {"outcome": (), "adopt": False, "entry_point": "main"}


def check_kind(ablation: Ablation) -> None:
    """Raise InputError unless exactly one of network, program and project is given.

    Or if something is given that belongs to another one.
    """
    given = {
        "network": ablation.network is not USUAL,
        "program": bool(ablation.program) or callable(ablation.program),
        "project": bool(ablation.project),
    }
    named = [name for name, is_given in given.items() if is_given]
    if len(named) != 1:
        found = " and ".join(named) if named else "none of them"
        raise InputError(f"give one of network, program and project; there is {found}")
    (kind,) = named
    others = dict(OF_PROGRAMS if kind == "network" else OF_NETWORKS)
    if kind == "program":
        others["entry_point"] = "main"
    for name, absent in others.items():
        value = getattr(ablation, name)
        if not (value is absent or value == absent):
            raise InputError(f"{name} is given, which a {kind} does not have")


def check_program(ablation: Ablation) -> None:
    """Raise InputError unless a program, its variants' settings and its outcome fit together."""
    for one in ablation.outcomes:
        if not isinstance(one, Outcome):
            raise InputError(f'outcome is {shown(one)}; it must be as Outcome("test_rmse")')
    if not ablation.outcomes:
        raise InputError(
            'there is no outcome, which variants are compared by; give outcome=Outcome("test_rmse",'
            ' better="lower")'
        )
    check_different(ablation.outcomes)
    for variant, settings in ablation.variants.items():
        for name, value in settings.items():
            if name == SEED:
                raise InputError(
                    f"seed can't be a setting of variant {variant!r}: each run has its own"
                )
            if isinstance(value, str):
                check_text(f"setting {name!r} of variant {variant!r}", value)
    if ablation.project:
        _check_project(ablation)
    elif callable(ablation.program):
        _check_function(ablation)
    else:
        _check_command(ablation)


def project_folder(ablation: Ablation) -> Path:
    """The folder of an ablation's project."""
    return folder_of(ablation) / text_of("project", ablation.project)


def project_parameters(ablation: Ablation, variant: str, seed: int) -> dict[str, str]:
    """The parameters of a project's run, as `mlflow run` takes them."""
    values: dict[str, Value] = {**ablation.variants[variant], SEED: seed}
    return {name: str(value) for name, value in values.items()}


def _check_command(ablation: Ablation) -> None:
    template, folder = template_of(ablation), folder_of(ablation)
    taken = placeholders(template)
    for variant, settings in ablation.variants.items():
        if missing := [name for name in taken if name not in settings and name != SEED]:
            raise InputError(
                f"variant {variant!r} has no setting {missing[0]!r}, which program needs for"
                f" {{{missing[0]}}}"
            )
        if unused := [name for name in settings if name not in taken]:
            raise InputError(
                f"setting {unused[0]!r} of variant {variant!r} has no effect; program has no"
                f" {{{unused[0]}}}"
            )
    if SEED not in taken:
        raise InputError(
            "program has no {seed}, so that all seeds would give the same; pass it on, such as by"
            " --seed {seed}"
        )
    _check_different(ablation, {v: fill(template, s, 0) for v, s in ablation.variants.items()})
    for settings in ablation.variants.values():
        arguments = fill(template, settings, 0)
        executable(arguments, folder)
        code_of_command(arguments, folder)


def _check_function(ablation: Ablation) -> None:
    function: Any = ablation.program
    name = getattr(function, "__name__", type(function).__name__)
    if inspect.iscoroutinefunction(function):
        raise InputError(f"program {name} is async; it must be a plain function, which may call it")
    try:
        inspect.signature(function).bind({}, 0)
    except TypeError as error:
        raise InputError(
            f"program {name} can't be called with settings and a seed ({error}); it must be as"
            " train(settings, seed)"
        ) from None
    except ValueError:  # of a function written in C, nothing is known
        pass


def _check_project(ablation: Ablation) -> None:
    from pipeline.upstream import project_defaults  # imports MLflow, which a command needs not

    folder, entry_point = project_folder(ablation), text_of("entry_point", ablation.entry_point)
    if not (folder / "MLproject").is_file():
        raise InputError(f"there is no MLproject in {folder}, which project names")
    entry_points = project_defaults(folder)
    check_choice("entry_point", entry_point, entry_points)
    declared = entry_points[entry_point]
    if SEED not in declared:
        raise InputError(
            f"entry point {entry_point!r} of {folder} has no parameter seed, so that all seeds"
            " would give the same; declare it, and pass it on"
        )
    filled = {}
    for variant in ablation.variants:
        given = project_parameters(ablation, variant, 0)
        if unknown := [name for name in given if name not in declared]:
            raise InputError(
                f"setting {unknown[0]!r} of variant {variant!r} is no parameter of entry point"
                f" {entry_point!r}, which has {shortlist(declared)}"
            )
        if missing := [n for n, value in declared.items() if value is None and n not in given]:
            raise InputError(
                f"variant {variant!r} has no setting {missing[0]!r}, which entry point"
                f" {entry_point!r} needs"
            )
        filled[variant] = [f"{n}={given.get(n, value)}" for n, value in declared.items()]
    _check_different(ablation, filled)


def _check_different(ablation: Ablation, arguments: Mapping[str, list[str]]) -> None:
    """Raise InputError if two variants come to the same, such as 1 and "1"."""
    for variant, other in combinations(ablation.variants, 2):
        if arguments[variant] == arguments[other]:
            raise InputError(f"variants {variant!r} and {other!r} run the same command")
