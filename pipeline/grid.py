"""The cells of a study: read from what was typed, and put in order."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.config import VARIANTS, Config, check_choice
from pipeline.errors import InputError

MAX_SEEDS = 1000
MAX_NAME = 250  # characters, of a run's name in MLflow's databases
MAX_GRID = 8000  # characters, of a tag; MLflow cuts off what is beyond
# Which models a study registers.
REGISTER = {
    "median": "for each variant the run with the median validation accuracy (the lower of the"
    " middle two)",
    "all": "every run",
    "none": "none",
}
# Which finished runs a study need not run again.
REUSE = ("same", "any", "none")


def plan(
    config: Config, variants: Sequence[str], seeds: Sequence[int], rates: Sequence[float]
) -> list[Config]:
    """List the cells of a study in the order in which they run; all else is `config`'s.

    All of a seed before the next seed, so that a study stopped early is a fair one. Each time
    another variant comes first: a machine that slows down or warms up favours none.
    """
    blocks = [(seed, lr) for seed in seeds for lr in rates]
    return [
        replace(config, variant=variants[(turn + place) % len(variants)], seed=seed, lr=lr)
        for turn, (seed, lr) in enumerate(blocks)
        for place in range(len(variants))
    ]


def describe(variants: Sequence[str], seeds: Sequence[int], rates: Sequence[float]) -> str:
    """The axes of a study as JSON. Raises InputError if they are too long to be kept as a tag."""
    text = json.dumps({"variants": variants, "seeds": seeds, "rates": rates})
    if len(text) > MAX_GRID:
        raise InputError(
            f"seeds and lr take {len(text)} characters, and {MAX_GRID} can be kept; split the study"
        )
    return text


def check_name(name: str) -> None:
    """Raise InputError unless a study can have that name, and be found by it."""
    if not name.strip() or len(name) > MAX_NAME:
        raise InputError(f"name is {name!r}; it must have 1 to {MAX_NAME} characters")


def parse_jobs(text: str) -> int:
    """Read a number of jobs; 0 stands for `auto`."""
    if text == "auto":
        return 0
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise InputError(f"jobs is {text!r}; it must be a whole number from 1 to 9999, or auto")
    return int(text)


def parse_variants(text: str) -> list[str]:
    """Read `base,bn,dropout`."""
    variants = [part.strip() for part in text.split(",")]
    for variant in variants:
        check_choice("variant", variant, VARIANTS)
    if len(set(variants)) < len(variants):
        raise InputError(f"variants is {text!r}; each may be named once")
    return variants


def parse_rates(text: str) -> list[float]:
    """Read one learning rate, or several: `0.01,0.003,0.001`."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not 0 < len(set(rates)) == len(rates):
        raise InputError(
            f"lr is {text!r}; it must be a number such as 0.001, or several different ones such as"
            " 0.01,0.001"
        )
    return rates


def parse_seeds(text: str) -> list[int]:
    """Read a count (`5`: 0 to 4), a range (`0-9`), or a list of seeds (`0,3,7` or `3,`)."""
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        elif "-" in text:
            first, last = (int(part) for part in text.split("-"))
            seeds = list(range(first, min(last, first + MAX_SEEDS) + 1))
        else:
            seeds = list(range(min(int(text), MAX_SEEDS + 1)))
    except ValueError:
        seeds = []
    if not 0 < len(set(seeds)) == len(seeds) <= MAX_SEEDS or min(seeds) < 0:
        raise InputError(
            f"seeds is {text!r}; it must be a count such as 5, a range such as 0-9, or a list such"
            f" as 0,3,7, of different whole numbers from 0, {MAX_SEEDS} at most"
        )
    return seeds
