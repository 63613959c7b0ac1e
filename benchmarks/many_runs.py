"""Time a study's training runs without MLflow: one after the other, or several in parallel.

python -m benchmarks.many_runs [--jobs 1] [--seeds 10] [--epochs 30] [--data-dir FOLDER]

The total includes imports, reading the data, and warming up.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.figures import (
    GPU_EPOCH_SECONDS,
    Figures,
    Target,
    judge,
    origin,
    show,
    spread,
    target_lines,
)
from pipeline import openmp
from pipeline.config import AUTO, DEVICES, PRECISIONS, Config

if TYPE_CHECKING:
    from pipeline.training.history import History
    from pipeline.training.spec import RunSpec

# The targets are for a GPU, and for this many images, variants, seeds and epochs.
SIZE = (50_000, 3, 10, 30)
TARGETS = (
    Target("seconds of training an epoch", "at most", GPU_EPOCH_SECONDS, ("training_seconds",)),
    Target("seconds in total", "at most", 60, ("total_seconds",)),
)


def main() -> None:
    """Train; print the figures, and write them to `--output`."""
    parser = argparse.ArgumentParser(description="Time many trainings in one process.")
    parser.add_argument("--variants", default="base,bn,dropout")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="processes, which share the device")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--dataset", default="cifar100", choices=["cifar100", "synthetic"])
    parser.add_argument("--data-dir", default="auto", help="where CIFAR-100 lies")
    parser.add_argument("--train-images", type=int, default=0, help="how many; 0 takes all")
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args()
    # All are read when torch and tqdm are imported, here or in the processes of `jobs`.
    if options.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    openmp.spin_shortly()
    openmp.spin_if_idle()
    os.environ["TQDM_DISABLE"] = "1"
    figures = measure(options)
    print("\n".join(_lines(figures)))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> Figures:
    """Train each variant with each seed. The medians exclude the very first epoch."""
    started = time.perf_counter()
    variants = options.variants.split(",")
    configs = [
        Config(
            variant=variant,
            dataset=options.dataset,
            data_dir=options.data_dir,
            train_images=options.train_images,
            epochs=options.epochs,
            device=options.device,
            precision=options.precision,
            seed=seed,
        )
        for seed in range(options.seeds)
        for variant in variants
    ]
    if options.jobs == 1:
        histories = [_train(config) for config in configs]
    else:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            histories = list(pool.map(_train, configs))
    total = time.perf_counter() - started

    from pipeline.training.device import choose_device, choose_precision

    device = choose_device(options.device)
    images = len(_spec(replace(configs[0], variant=AUTO)).data.training)
    epochs = [epoch for history in histories for epoch in history]
    others = epochs[1:] or epochs  # unless it is the only one
    figures = {
        "command": f"python -m benchmarks.many_runs {' '.join(sys.argv[1:])}".strip(),
        **origin(),
        "device": device.type,
        "precision": choose_precision(options.precision, device),
        "jobs": options.jobs,
        "data": options.dataset,
        "train_images": images,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "total_seconds": total,
        "first_epoch_seconds": epochs[0].epoch_seconds,
        "epoch_seconds": spread([epoch.epoch_seconds for epoch in others]),
        "training_seconds": spread([images / epoch.images_per_second for epoch in others]),
        "val_accuracy": {
            variant: mean(
                history[-1].val_accuracy
                for config, history in zip(configs, histories, strict=True)
                if config.variant == variant
            )
            for variant in variants
        },
    }
    size = (images, len(variants), options.seeds, options.epochs)
    targets = TARGETS if device.type == "cuda" and size == SIZE else ()
    return figures | {"targets": judge(targets, figures)}


@cache
def _spec(config: Config) -> "RunSpec":
    from pipeline.runs.resolve import resolve

    return resolve(config)


def _train(config: Config) -> "History":
    from pipeline.training.device import set_up_torch
    from pipeline.training.loop import Training

    set_up_torch()
    same = _spec(replace(config, variant=AUTO, seed=0))  # the same for all
    training = Training(replace(same, config=config))
    return tuple(training.epochs())


def _lines(figures: Figures) -> list[str]:
    lines = [
        f"{figures['machine']}; torch {figures['versions']['torch']}; {figures['data']},"
        f" {figures['train_images']:,} images; {figures['device']}, {figures['precision']};"
        f" {figures['jobs']} at once; {figures['seeds']} seeds, {figures['epochs']} epochs;"
        " medians (least to greatest)",
        "",
        f"{'seconds in total':42} {figures['total_seconds']:>26.2f}",
        f"{'the first epoch, which warms up':42} {figures['first_epoch_seconds']:>26.3f}",
        f"{'an epoch':42} {show(figures['epoch_seconds'], '.3f'):>26}",
        f"{'its training':42} {show(figures['training_seconds'], '.3f'):>26}",
    ]
    for variant, accuracy in figures["val_accuracy"].items():
        lines.append(f"{f'validation accuracy of {variant}':42} {accuracy:>26.2%}")
    return [*lines, "", *target_lines(figures["targets"])] if figures["targets"] else lines


if __name__ == "__main__":
    main()
