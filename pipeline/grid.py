"""The cells of a study: read from what was typed, and put in order."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config import VARIANTS, Config, check_choice
from pipeline.errors import InputError

MAX_SEEDS = 1000
# Which models a study registers.
REGISTER = {
    "median": "of each variant that of the seed whose validation accuracy is the median (the lower"
    " one of two)",
    "all": "that of every run",
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
