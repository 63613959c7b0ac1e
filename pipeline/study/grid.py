"""The cells of a study: parsed from user input, and put in order."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.config import (
    AUTO,
    MAX_NAME,
    MAX_SEED,
    Config,
    as_list,
    check_choice,
    check_number,
    check_text,
)
from pipeline.errors import InputError, plural
from pipeline.runs.plan import LAST, Plan
from pipeline.statistics import FIRST_SEEDS

MAX_SEEDS = 1000
# Which models a study registers; {} is the outcome.
REGISTER = {
    "median": "for each variant, the run with the median {} (the lower of the middle two)",
    "all": "every run; aliases point at the one with the median {}",
    "none": "none",
}
# Which finished runs a study reuses.
REUSE = ("same", "any", "none")


class Grid(NamedTuple):
    """The axes of a study; all other settings are the same for all its runs.

    rates: none for programs, which have no learning rate of ours. margin, value, stop_early, most:
    as in `Plan`.
    """

    variants: Sequence[str]
    seeds: Sequence[int]
    rates: Sequence[float]
    margin: float = 0.0
    unit: str = "points"
    value: str = LAST
    stop_early: bool = False
    most: int = 0

    @property
    def plan(self) -> Plan:
        """How the study comes to its seeds."""
        return Plan.of(chosen_later=False, **self._asdict())

    def title(self, ablation: str, config: Config) -> str:
        """What tells such a study of an ablation from others: `NAME on DATA, 5 seeds`."""
        few, several = config.train_images, len(self.rates) > 1
        parts = [
            f"{ablation} on {config.dataset}",
            "seeds auto" if self.margin else plural(len(self.seeds), "seed"),
            f"{len(self.rates)} learning rates" if several else "",
            plural(few, "training image") if few else "",
            config.validation if config.validation != Config.validation else "",
            self.value if self.value != LAST else "",
        ]
        return ", ".join(filter(None, parts))

    def cells(self, config: Config) -> list[Config]:
        """List the cells in running order; all other settings are `config`'s.

        Each seed is completed before the next, so that a study stopped early is fair. The variants
        take turns to go first: a machine that slows down or warms up favours none.
        """
        blocks = [(seed, lr) for seed in self.seeds for lr in self.rates or [config.lr]]
        count = len(self.variants)
        return [
            replace(config, variant=self.variants[(turn + place) % count], seed=seed, lr=lr)
            for turn, (seed, lr) in enumerate(blocks)
            for place in range(count)
        ]


def check_margin(margin: float, most: int, rates: Sequence[float], unit: str = "points") -> float:
    """Return the margin of `seeds=auto`. Raises InputError for what that can't do."""
    margin = check_number("margin", margin)
    most_of_all = 100 if unit == "points" else math.inf
    if not 0 < margin < most_of_all:
        below = " and below 100 points" if unit == "points" else ""
        raise InputError(f"margin is {margin:g}; it must be above 0{below}")
    if not FIRST_SEEDS <= most <= MAX_SEEDS:
        raise InputError(f"max_seeds is {most}; it must be {FIRST_SEEDS} to {MAX_SEEDS}")
    if len(rates) > 1:
        raise InputError("seeds=auto takes one lr; give a number of seeds to compare several")
    return margin


def check_name(name: str) -> None:
    """Raise InputError unless a study can have that name, and be found by it."""
    check_text("name", name)
    if not name.strip() or len(name) > MAX_NAME:
        raise InputError(f"name is {name!r}; it must have 1 to {MAX_NAME} characters")


def as_text(given: object) -> str:
    """What would be typed for a value that Python code gives: `[0, 3]` is `0,3,`."""
    values = as_list(given)
    return str(given) if values is None else "".join(f"{one}," for one in values)


def parse_number(name: str, given: Any) -> float:
    """Read a number that is typed, or that Python code gives. Raises InputError."""
    if not isinstance(given, str):
        return check_number(name, given)
    try:
        return float(given)
    except ValueError:
        raise InputError(f"{name} is {given!r}; it must be a number, or auto") from None


def parse_jobs(given: str | int) -> int:
    """Read a number of jobs; 0 means `auto`."""
    text = str(given)
    if text == "auto":
        return 0
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise InputError(f"jobs is {text!r}; it must be a whole number from 1 to 9999, or auto")
    return int(text)


def check_cluster(address: str, gpu_share: float) -> float:
    """Return the share of a GPU. Raises InputError unless it is one, and `address` a cluster's."""
    check_text("cluster", address)
    if address not in ("none", "auto") and not re.fullmatch(r"(ray://)?[^/\s]+:\d{1,5}", address):
        raise InputError(
            f"cluster is {address!r}; it must be none, auto, HOST:PORT such as 10.0.0.1:6379, or"
            " ray://HOST:PORT such as ray://10.0.0.1:10001"
        )
    share = check_number("gpu_share", gpu_share)
    if not 0.01 <= share <= 1 or round(share, 4) != share:  # Ray's precision
        raise InputError(f"gpu_share is {share:g}; it must be 0.01 to 1, with at most 4 decimals")
    return share


def parse_variants(text: str, known: Iterable[str], compared: Sequence[str]) -> list[str]:
    """Read names out of `known`, divided by commas; `auto` is those that are `compared`, or all."""
    variants = [part.strip() for part in text.rstrip(",").split(",")]
    if text == AUTO:
        variants = list(compared or known)
    for variant in variants:
        check_choice("variant", variant, known)
    if len(set(variants)) < len(variants):
        raise InputError(f"variants is {text!r}; name each variant only once")
    return variants


def parse_rates(text: str) -> list[float]:
    """Read one learning rate, or several: `0.01,0.003,0.001`."""
    try:
        rates = [float(part) for part in text.rstrip(",").split(",")]
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
    different = 0 < len(set(seeds)) == len(seeds) <= MAX_SEEDS
    if not different or not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        raise InputError(
            f"seeds is {text!r}; it must be a count (5), a range (0-9), a list (0,3,7) or auto;"
            f" seeds are different whole numbers from 0 to {MAX_SEED}, at most {MAX_SEEDS} of them"
        )
    return seeds
