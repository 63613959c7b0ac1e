"""Train in the fast and the plain ways, and compare accuracies seed by seed.

python -m benchmarks.same_results [--data-dir FOLDER] [--output docs/benchmarks/same_results.json]

Compares bf16 with fp32, and batched augmentation with torchvision's, image by image. Both runs of
a pair have the same initial weights. Results are appended to the file, and those already in it
are not run again. Each one records its commit, machine and number of threads.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.statistics.comparisons import summarize

# Precision, and whether images are augmented one by one.
WAYS = {"bf16": ("bf16", False), "fp32": ("fp32", False), "one by one": ("bf16", True)}
COMPARISONS = (("fp32", "bf16"), ("one by one", "bf16"))
THREADS = 1  # per run; several in parallel fill the cores


class Task(NamedTuple):
    """A training run."""

    way: str
    variant: str
    seed: int
    epochs: int
    data_dir: str


def main() -> None:
    """Train what is not in the file yet; print the paired differences of all its results."""
    parser = argparse.ArgumentParser(description="Compare fast ways of training with plain ones.")
    parser.add_argument("--variants", default="base,bn,dropout")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data-dir", default="auto")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("same_results.json"))
    options = parser.parse_args()
    done = json.loads(options.output.read_text()) if options.output.exists() else []
    known = {(r["way"], r["variant"], r["seed"], r["epochs"]) for r in done}
    grid = product(range(options.seeds), options.ways.split(","), options.variants.split(","))
    tasks = [
        Task(way, variant, seed, options.epochs, options.data_dir)
        for seed, way, variant in grid
        if (way, variant, seed, options.epochs) not in known
    ]
    with get_context("spawn").Pool(min(options.jobs, len(tasks)) or 1) as pool:
        for result in pool.imap_unordered(_train, tasks):
            done.append(result)
            options.output.write_text("[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")
            print(
                f"{result['way']}, {result['variant']}, seed {result['seed']}:"
                f" {result['val_accuracy'][-1]:.2%}",
                flush=True,
            )
    print("\n".join(_compare([result for result in done if result["epochs"] == options.epochs])))


def _train(task: Task) -> dict[str, Any]:
    import torch

    from benchmarks import tutorial
    from benchmarks.figures import origin
    from pipeline.config import Config
    from pipeline.randomness import Stream, seed_generators
    from pipeline.runs.resolve import resolve
    from pipeline.training.batches import TrainingBatches, ValidationBatches
    from pipeline.training.device import set_up_torch
    from pipeline.training.epoch import run_pass as epoch
    from pipeline.training.loop import VALIDATION_BATCH_SIZE, fast_step

    torch.set_num_threads(THREADS)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # hides progress bars
    device = torch.device("cpu")
    config = Config(
        variant=task.variant, dataset="cifar100", data_dir=task.data_dir, seed=task.seed
    )
    spec = replace(resolve(config), device=device)
    data = spec.data
    precision, one_by_one = WAYS[task.way]
    set_up_torch()
    network, criterion, optimizer = spec.build()
    fast = TrainingBatches(data.training, tutorial.BATCH_SIZE, task.seed, device)
    training: Any = tutorial.loader(data.training, True, 0) if one_by_one else fast
    validation = ValidationBatches(data.validation, VALIDATION_BATCH_SIZE, device)
    step = fast_step(network, criterion, optimizer, precision, tutorial.BATCH_SIZE)
    validate = fast_step(network, criterion, None, "fp32", VALIDATION_BATCH_SIZE)
    accuracies = []
    for n in range(1, task.epochs + 1):
        fast.set_epoch(n)
        seed_generators(task.seed, Stream.STEPS, n)
        epoch(network, n, True, training, criterion, optimizer, step=step)
        result = epoch(network, n, False, validation, criterion, optimizer, step=validate)
        accuracies.append(result.accuracy)
    settings = {k: v for k, v in task._asdict().items() if k != "data_dir"}
    return settings | {"val_accuracy": accuracies, "threads": THREADS, **origin()}


def _compare(done: list[dict[str, Any]]) -> Iterator[str]:
    """Report the differences in final accuracy, in points, over all variants and for each.

    Variants that share a seed share images and weights, so their differences are not independent:
    overall, each seed that has every variant counts once, with its mean difference.
    """
    last = {(r["way"], r["variant"], r["seed"]): 100 * r["val_accuracy"][-1] for r in done}
    for plain, fast in COMPARISONS:
        by_seed: dict[int, dict[str, float]] = {}
        for (way, variant, seed), accuracy in sorted(last.items()):
            if way == fast and (plain, variant, seed) in last:
                difference = accuracy - last[plain, variant, seed]
                by_seed.setdefault(seed, {})[variant] = difference
        variants = sorted({variant for row in by_seed.values() for variant in row})
        groups = {"all": variants} | {variant: [variant] for variant in variants}
        for name, group in groups.items():
            means = [
                np.mean([row[variant] for variant in group])
                for row in by_seed.values()
                if row.keys() >= set(group)
            ]
            if len(means) > 1:
                interval = summarize(means).interval
                assert interval  # several seeds, not all alike
                low, high = interval
                yield (
                    f"{fast} minus {plain}, {name}: {np.mean(means):+.2f} points, 95 % CI"
                    f" {low:+.2f} to {high:+.2f}, {len(means)} seeds"
                )


if __name__ == "__main__":
    main()
