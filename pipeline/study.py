"""The ablation: which runs it consists of, and what it says of them side by side."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from pipeline import tracking
from pipeline.config import VARIANTS, Config, check_choice
from pipeline.data import load
from pipeline.device import choose_device
from pipeline.errors import InputError
from pipeline.report import comparison_curves, comparison_table, effects
from pipeline.runs import train_run

MAX_SEEDS = 1000


def run_study(
    config: Config,
    variants: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    register: str,
) -> tuple[pd.DataFrame, list[str]]:
    """Train every variant with every seed and learning rate: a parent run, and a child for each.

    All else is `config`'s. Returns the table of `comparison_table` and a
    sentence for each effect; the parent run holds both, with a picture of the learning curves.
    """
    choose_device(config.device)
    data = load(config.dataset, config.data_dir, config.train_images, config.validation)
    settings = {
        "variants": ",".join(variants),
        "seeds": ",".join(map(str, seeds)),
        **{k: v for k, v in config.as_dict().items() if k not in ("variant", "seed")},
        "lr": ",".join(map(str, rates)),
        "register": register,
    }
    cells = plan(config, variants, seeds, rates)
    with tracking.track("ablation", settings, {"kind": "study", **data.tags}):
        results = []
        for number, cell in enumerate(cells, start=1):
            print(f"[{number}/{len(cells)}] {cell.run_name} on {data.name}", flush=True)
            results.append(train_run(cell, data, register == "all"))
        table = comparison_table(results)
        tracking.log_table(table, "comparison.csv")
        curves = comparison_curves(results, f"Validation on {data.name}")
        tracking.log_figure(curves, "comparison.png")
        found = effects(results)
        sentences = [effect.sentence for effect in found]
        tracking.log_effects(
            [
                {
                    "treatment": effect.pair.treatment,
                    "control": effect.pair.control,
                    "metric": "val_accuracy",
                    "sentence": effect.sentence,
                    **asdict(effect.comparison),
                }
                for effect in found
            ],
            "\n".join(f"- {data.name}, {config.epochs} epochs: {text}" for text in sentences),
        )
    return table, sentences


def plan(
    config: Config, variants: Sequence[str], seeds: Sequence[int], rates: Sequence[float]
) -> list[Config]:
    """List the cells of a study in the order in which they run.

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
            f"lr is {text!r}; it must be a number such as 0.001, or different ones such as"
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
