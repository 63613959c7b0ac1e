"""Measure what averaged weights would be worth: another network, from the same training.

python -m benchmarks.averaging FOLDER [--seeds 2]

Trains two variants on CIFAR-100 with each seed, by the usual recipe, and keeps the weights after
each of the last epochs in FOLDER; what is there already is not trained again. Then averages the
weights of the last 5 or 10 epochs, computes BatchNorm's statistics anew from training images, and
prints the accuracies: of the last epoch, their mean over the last five, and of the averages. One
run takes 2 to 25 minutes (docs/LOG.md has the figures).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Config
from pipeline.runs.resolve import resolve
from pipeline.training.batches import TrainingBatches, ValidationBatches
from pipeline.training.loop import VALIDATION_BATCH_SIZE, Training
from pipeline.training.spec import RunSpec

VARIANTS = ("bn", "dropout")
FIRST_SEED = 100  # of runs that no study has looked at
KEPT = 10  # epochs
AVERAGED = (5, 10)
STATISTICS_BATCHES = 30  # for BatchNorm's statistics
COLUMNS = ("last", "mean5", *(f"averaged {count}" for count in AVERAGED))


def main() -> None:
    """Train what is missing, and print a table."""
    parser = argparse.ArgumentParser(description="Measure what averaged weights would be worth.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    print(f"{'validation accuracy, %':24}" + "".join(f"{name:>14}" for name in COLUMNS))
    found: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
        for variant in VARIANTS:
            spec = resolve(Config(variant=variant, dataset="cifar100", seed=seed, device="cpu"))
            spec = replace(spec, threads=1)
            folder = asked.folder / f"{variant}-{seed}"
            if not (folder / "done").exists():
                train(spec, folder)
            found[variant].append(accuracies(spec, folder))
            cells = "".join(f"{100 * one:14.2f}" for one in found[variant][-1])
            print(f"{f'{variant}, seed {seed}':24}{cells}", flush=True)
    differences = 100 * (np.array(found["dropout"]) - np.array(found["bn"]))
    print(
        f"{'dropout − bn, mean':24}" + "".join(f"{one:+14.2f}" for one in differences.mean(axis=0))
    )
    if asked.seeds > 1:
        sds = differences.std(axis=0, ddof=1)
        print(f"{'dropout − bn, sd':24}" + "".join(f"{one:14.2f}" for one in sds))


def train(spec: RunSpec, folder: Path) -> None:
    """Train a run, and keep its curve and the weights of its last epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(spec.threads)
    training = Training(spec)
    history = []
    for epoch, measured in enumerate(training.epochs(), start=1):
        history.append(measured.metrics)
        if epoch > spec.config.epochs - KEPT:
            torch.save(training.parts.network.state_dict(), folder / f"{epoch}.pt")
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "done").touch()


def accuracies(spec: RunSpec, folder: Path) -> list[float]:
    """The accuracies of `COLUMNS`, from 0 to 1."""
    history = json.loads((folder / "history.json").read_text())
    curve = [epoch["val_accuracy"] for epoch in history]
    last = len(curve)
    averages = [
        accuracy_of_average(spec, [folder / f"{n}.pt" for n in range(last - count + 1, last + 1)])
        for count in AVERAGED
    ]
    return [curve[-1], float(np.mean(curve[-5:])), *averages]


def accuracy_of_average(spec: RunSpec, files: list[Path]) -> float:
    """The validation accuracy of the network with the mean of several weights."""
    states: list[dict[str, Tensor]] = [torch.load(path) for path in files]
    network = spec.network()
    network.load_state_dict(
        {
            name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(one.dtype)
            for name, one in states[0].items()
        }
    )
    network.train()
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
        elif isinstance(layer, nn.Dropout):
            layer.eval()
    split, size, seed = spec.data.training, VALIDATION_BATCH_SIZE, spec.config.seed
    batches = TrainingBatches(split, size, seed, spec.device, spec.augmentation)
    batches.set_epoch(1)
    validation = ValidationBatches(spec.data.validation, VALIDATION_BATCH_SIZE, spec.device)
    with torch.no_grad():
        for (images, _), _ in zip(batches, range(STATISTICS_BATCHES), strict=False):
            network(images)
        network.eval()
        right = [(network(images).argmax(dim=1) == labels).sum() for images, labels in validation]
    return float(sum(right)) / len(spec.data.validation)


if __name__ == "__main__":
    main()
