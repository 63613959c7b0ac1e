"""Measure training against the tutorial's loop, and what a command costs besides training.

python -m benchmarks.speed [--quick] [--data-dir FOLDER] [--output FOLDER]

All contestants are measured in one run, round by round in changing order, each in its own process,
which idles while others are measured. Figures are medians over the rounds, with minimum and
maximum; ratios compare the same round. With --device cuda, the contestants' memory is that of
their tensors on the GPU.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.contestant import STAGES, Contestant, Setup
from benchmarks.figures import GPU_EPOCH_SECONDS, ROOT, Figures, Target, judge, origin, spread
from benchmarks.speed_commands import (
    BESIDE,
    FIRST_BATCH,
    LEFT,
    LOGGING,
    ONE_RUN,
    OWN_CODE,
    STUDY,
    measure_runs,
    time_commands,
    time_whole,
)
from benchmarks.speed_table import table
from pipeline.openmp import LONG, SPINS

VARIANT = "dropout"  # the tutorial's last network, and the slowest
NAMES = {
    "tutorial": "the tutorial's loop",
    "fp32": "one run, fp32",
    "bf16": "one run, bf16",
    "study": "a study, {cores} runs in parallel, bf16",
}
LOADING, EPOCH = "loading the data", "training on 50,000 images, bf16"

# Ratios are to the tutorial's loop. On a GPU they depend on the processor that feeds the loop.
CPU_TARGETS = (
    Target("ratio of one run, bf16", "at least", 6.5, ("contestants", "bf16", "ratio")),
    Target("ratio of one run, fp32", "at least", 4.5, ("contestants", "fp32", "ratio")),
    Target("ratio of runs in parallel", "at least", 8, ("contestants", "study", "ratio")),
    Target(f"ratio of {STUDY}", "at least", 5.5, ("commands", STUDY, "ratio")),
    Target("ratio of validation", "at least", 8, ("contestants", "bf16", "validation_ratio")),
)
GPU_TARGETS = (Target(f"seconds of {EPOCH}", "at most", GPU_EPOCH_SECONDS, ("seconds", EPOCH)),)
TARGETS = (
    Target(f"seconds {FIRST_BATCH}", "at most", 3.5, ("seconds", FIRST_BATCH)),
    Target("seconds of our own code", "at most", 1, ("seconds", OWN_CODE)),
    Target("seconds of --help", "at most", 0.5, ("seconds", "--help")),
    Target(f"seconds of {LOADING}", "at most", 0.3, ("seconds", LOADING)),
    Target(LOGGING, "at most", 0.01, ("seconds", LOGGING)),
    Target(f"seconds of {BESIDE}", "at most", 0.4, ("run", BESIDE)),
    Target(LEFT, "at most", 3, ("run", LEFT)),
    Target(f"MB of {ONE_RUN}", "at most", 1200, ("commands", ONE_RUN, "peak_memory_mb")),
)


def main() -> None:
    """Measure; print a table; write speed.json and speed.png."""
    parser = argparse.ArgumentParser(description="Measure the speed of training and of commands.")
    parser.add_argument("--quick", action="store_true", help="two short rounds: within a minute")
    parser.add_argument("--data-dir", default="auto", help="where CIFAR-100 lies")
    parser.add_argument("--dataset", default="cifar100", choices=("cifar100", "synthetic"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for speed.json and speed.png; by default docs/benchmarks, with --quick none",
    )
    options = parser.parse_args()
    if options.data_dir != "auto":
        options.data_dir = str(Path(options.data_dir).resolve())
    if not options.quick:
        options.output = options.output or ROOT / "docs" / "benchmarks"
    figures = measure(options)
    print(table(figures))
    if options.output:
        from benchmarks.speed_figure import draw

        options.output.mkdir(parents=True, exist_ok=True)
        name = "speed" if options.device == "cpu" else "speed_cuda"
        path = options.output / f"{name}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")
        draw(figures, path.with_suffix(".png"))
        print(f"written to {path} and {name}.png")


def measure(options: argparse.Namespace) -> Figures:
    """Let the contestants train and validate in turn, then time the commands."""
    on_cpu = options.device == "cpu"
    cores = os.cpu_count() or 1
    rounds = 2 if options.quick else options.rounds

    def setup(precision: str, threads: int = 0) -> Setup:
        return Setup(precision, VARIANT, options.dataset, options.data_dir, options.device, threads)

    ours = {SPINS: os.environ.get(SPINS, LONG)}  # as the commands set it on an idle machine
    plain = {
        "tutorial": [Contestant(setup("tutorial"), {})],
        "fp32": [Contestant(setup("fp32"), ours)],
        "bf16": [Contestant(setup("bf16"), ours)],
    }
    if on_cpu:  # on a GPU the runs of a study take turns
        plain["study"] = [Contestant(setup("bf16", threads=1), ours) for _ in range(cores)]
    # Separate, so that its tasks don't add to the memory of a contestant that trains.
    aside = Contestant(setup("bf16"), ours | {"KINETO_LOG_LEVEL": "99"})  # a silent profiler
    # Once all have answered, no imports are still running.
    everybody = [*(contestant for team in plain.values() for contestant in team), aside]
    (images, validated), *_ = [contestant.do("sizes") for contestant in everybody]
    if on_cpu:  # enough images to take each a few seconds
        slow, fast, validation = (1_280, 7_680, 2_000) if options.quick else (7_680, 38_400, 10_000)
    else:  # whole epochs, since the tutorial's loop starts its workers in each one
        slow, fast, validation = images, images, validated
    flop, forward_flop = aside.do("flop")
    loading = [aside.do("loading") for _ in range(5)]
    training: dict[str, list[float]] = {name: [] for name in plain}
    checking: dict[str, list[float]] = {name: [] for name in plain}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in plain}
    matmul: list[dict[str, float]] = []
    products: list[float] = []
    for turn in range(rounds + 1):  # the first warms up
        matmul.append(aside.do("matmul"))
        if on_cpu:
            products.append(aside.do("products", validation))
        names = list(plain)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            team = plain[name]
            rate, shares = _rate(team, "train", slow if name == "tutorial" else fast)
            training[name].append(rate)
            stages[name].append(shares)
            checking[name].append(_rate(team, "validate", validation)[0])
    # Each process counts the data it shares with others.
    memory = {name: sum(one.do("memory") for one in team) for name, team in plain.items()}
    for contestant in everybody:
        contestant.end()  # the commands need the machine to themselves

    peak = {kind: max(rates[kind] for rates in matmul) for kind in ("fp32", "bf16")}
    contestants = {}
    for name in plain:
        rates, passes = training[name][1:], checking[name][1:]
        kind = "fp32" if name in ("tutorial", "fp32") else "bf16"
        contestants[name] = {
            "what": NAMES[name].format(cores=cores),
            "images_per_second": spread(rates),
            "images_per_second_while_warming_up": training[name][0],
            "ratio": spread([b / a for a, b in zip(training["tutorial"][1:], rates, strict=True)]),
            "validation_images_per_second": spread(passes),
            "validation_ratio": spread(
                [b / a for a, b in zip(checking["tutorial"][1:], passes, strict=True)]
            ),
            "fraction_of_limit": median(rates) * flop / peak[kind],
            "validation_fraction_of_limit": median(passes) * forward_flop / peak["fp32"],
            "peak_memory_mb": memory[name],
        }
        if on_cpu:  # a GPU's stages are only launches, and a graph's replay has none of them
            contestants[name]["stages"] = {
                stage: median(shares[stage] for shares in stages[name][1:]) for stage in STAGES
            }
    only_torch = find_spec("mlflow") is None  # then there are no commands to measure
    # Seconds per epoch, training and validation.
    epoch, tutorial = (
        images / median(training[name][1:]) + validated / median(checking[name][1:])
        for name in ("bf16", "tutorial")
    )
    figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.speed {' '.join(sys.argv[1:])}".strip(),
        **origin(),
        "device": options.device,
        "data": options.dataset,
        "variant": VARIANT,
        "rounds": rounds,
        "mflop_per_image": flop / 1e6,
        "mflop_per_validation_image": forward_flop / 1e6,
        "matmul_gflop_per_second": {kind: rate / 1e9 for kind, rate in peak.items()},
        "contestants": contestants,
        "commands": {} if options.quick or only_torch else time_whole(options, VARIANT, tutorial),
        "seconds": {
            LOADING: spread(loading),
            EPOCH: spread([50_000 / rate for rate in training["bf16"][1:]]),
        }
        | ({} if only_torch else time_commands(options, VARIANT, epoch)),
    }
    if not only_torch:
        figures["run"] = measure_runs(options, VARIANT)
    if on_cpu:
        share, ratio = median(products[1:]), contestants["bf16"]["validation_ratio"]["median"]
        figures["validation_products_share"] = share
        figures["validation_ratio_of_products"] = ratio / share
    targets = (CPU_TARGETS if on_cpu else GPU_TARGETS) + TARGETS
    return figures | {"targets": judge(targets, figures)}


def _rate(team: Sequence[Contestant], task: str, images: int) -> tuple[float, dict[str, float]]:
    """Return the team's images per second, and its first member's share of time per stage."""
    for contestant in team:
        contestant.ask(task, images)
    answers = [contestant.answer() for contestant in team]
    seconds = max(answer["seconds"] for answer in answers)
    return sum(answer["images"] for answer in answers) / seconds, answers[0]["stages"]


if __name__ == "__main__":
    main()
