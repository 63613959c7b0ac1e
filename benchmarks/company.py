"""Measure how a run's threads should wait for each other, next to other work on the machine.

python -m benchmarks.company [--rounds 5] [--precision bf16]

OpenMP's threads spin before they sleep, as many times as GOMP_SPINCOUNT says. Each way of waiting
is a process; they train in turn, in each company, and ratios compare the same round.
"""

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.contestant import Contestant, Setup
from pipeline.openmp import LONG, SHORT, SPINS

IMAGES = 5_120
WAYS: dict[str, dict[str, str]] = {
    **{f"{int(spins):,} spins": {SPINS: spins} for spins in (SHORT, LONG, "20000")},
    "OpenMP's own": {},
}
SCRIPTS = {
    "nothing": [],
    # Every 20 ms, as a page with an animation does.
    "20 % of a core": [
        "-c",
        "import time\nwhile True:\n end = time.perf_counter() + 0.004\n"
        " while time.perf_counter() < end: pass\n time.sleep(0.016)",
    ],
    "a compilation": [
        "-c",
        "import compileall, sys\n"
        "while True: compileall.compile_dir(sys.argv[1], quiet=2, force=True)",
        sysconfig.get_path("stdlib"),
    ],
    "a busy core": ["-c", "while True: pass"],
}
TRAININGS = {f"a training, {name}": environment for name, environment in WAYS.items()}


def main() -> None:
    """Train in each company; print images per second and ratios."""
    parser = argparse.ArgumentParser(description="Measure how threads should wait.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", default="dropout")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--dataset", default="cifar100", choices=("cifar100", "synthetic"))
    parser.add_argument("--data-dir", default="auto")
    options = parser.parse_args()
    setup = Setup(
        options.precision, options.variant, options.dataset, options.data_dir, "cpu", threads=0
    )
    team = {name: Contestant(setup, spins) for name, spins in WAYS.items()}
    others = {name: Contestant(setup, spins) for name, spins in TRAININGS.items()}
    for contestant in (*team.values(), *others.values()):
        contestant.do("train", IMAGES)  # which warms up
    for company in (*SCRIPTS, *TRAININGS):
        rates: dict[str, list[float]] = {name: [] for name in team}
        for turn in range(options.rounds):
            names = list(team)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                with _beside(company, others):
                    answer = team[name].do("train", IMAGES)
                rates[name].append(answer["images"] / answer["seconds"])
        first, *_ = rates.values()
        for name, values in rates.items():
            ratios = [b / a for a, b in zip(first, values, strict=True)]
            print(
                f"{company:25} {name:15} {median(values):>7,.0f} images/s,"
                f" ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
    for contestant in (*team.values(), *others.values()):
        contestant.end()


@contextmanager
def _beside(company: str, others: dict[str, Contestant]) -> Iterator[None]:
    """Keep the company at work."""
    if company in others:
        others[company].ask("train", 4 * IMAGES)
        yield
        others[company].answer()
        return
    if not SCRIPTS[company]:
        yield
        return
    with TemporaryDirectory() as cache:
        command = [sys.executable, "-X", f"pycache_prefix={cache}", *SCRIPTS[company]]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
