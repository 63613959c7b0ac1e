"""Measure attempts to make a training step faster, kept or not, against the current step.

python -m benchmarks.attempts [--rounds 5] [--threads 2] [--precision bf16] [ATTEMPT …]

Each attempt is a process; they train in turn, and ratios compare the same round.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.contestant import Contestant, Setup
from pipeline.openmp import LONG, SHORT, SPINS

IMAGES = 20_480
SPIN = {SPINS: LONG}  # as the commands set it on an idle machine


def return_memory() -> None:
    """Leave glibc, or its replacement, as it is."""
    import platform

    platform.libc_ver = lambda *_: ("another", "")


def small_pages() -> None:
    """Keep the heap in pages of 4 kB."""
    import mmap

    mmap.MADV_HUGEPAGE = mmap.MADV_NOHUGEPAGE  # type: ignore[misc]


def relu_not_in_place() -> None:
    """Make ReLU allocate its output."""
    import torch

    torch.relu_ = torch.relu


def plain_dropout() -> None:
    """Draw a random number per element for dropout."""
    from torch.nn.functional import dropout

    from pipeline.training import onednn

    onednn.drop_half = dropout  # type: ignore[assignment]


def channels_last() -> None:
    """Store each pixel's channels together, as on a GPU, and let autocast choose the types."""
    from pipeline.training import onednn

    onednn.is_available = lambda precision: False  # type: ignore[assignment]


def plain_adam() -> None:
    """Let Adam update each tensor in several operations."""
    import torch

    adam = torch.optim.Adam

    def plain(parameters, lr, **_):  # type: ignore[no-untyped-def]
        return adam(parameters, lr=lr)

    torch.optim.Adam = plain  # type: ignore[misc,assignment]


class Attempt(NamedTuple):
    """What differs: the environment, and a function that is called first."""

    environment: dict[str, str]
    patch: Callable[[], None] | None = None


def _preload(name: str) -> dict[str, str]:
    paths = sorted(Path("/usr/lib").glob(f"*/lib{name}.so*"))
    return SPIN | {"LD_PRELOAD": str(paths[0])} if paths else {}


ATTEMPTS = {
    "as it is": Attempt(SPIN),
    "freed memory returned": Attempt(SPIN, return_memory),
    "pages of 4 kB": Attempt(SPIN, small_pages),
    "jemalloc": Attempt(_preload("jemalloc"), return_memory),
    "tcmalloc": Attempt(_preload("tcmalloc_minimal"), return_memory),
    "short spinning": Attempt({SPINS: SHORT}),
    "OpenMP's own spinning": Attempt({}),
    "no spinning": Attempt({"OMP_WAIT_POLICY": "PASSIVE"}),
    "ReLU not in place": Attempt(SPIN, relu_not_in_place),
    "PyTorch's own dropout": Attempt(SPIN, plain_dropout),
    "channels_last instead of oneDNN's blocks": Attempt(SPIN, channels_last),
    "Adam not fused": Attempt(SPIN, plain_adam),
}


def main() -> None:
    """Train the attempts in turn; print images per second and ratios."""
    parser = argparse.ArgumentParser(description="Measure what was tried for a faster step.")
    parser.add_argument("attempts", nargs="*", default=list(ATTEMPTS), metavar="ATTEMPT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--variant", default="dropout")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--dataset", default="cifar100", choices=("cifar100", "synthetic"))
    parser.add_argument("--data-dir", default="auto")
    options = parser.parse_args()
    if unknown := set(options.attempts) - set(ATTEMPTS):
        parser.error(f"no attempt is named {', '.join(unknown)}; there are: {', '.join(ATTEMPTS)}")
    names = list(dict.fromkeys(["as it is", *options.attempts]))
    team = {}
    for name in names:
        environment, patch = ATTEMPTS[name]
        if not environment and "malloc" in name:
            print(f"{name}: not installed")
            continue
        setup = Setup(
            options.precision,
            options.variant,
            options.dataset,
            options.data_dir,
            "cpu",
            options.threads,
            patch,
        )
        team[name] = Contestant(setup, environment)
    rates: dict[str, list[float]] = {name: [] for name in team}
    for turn in range(options.rounds + 1):
        order = list(team)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            answer = team[name].do("train", IMAGES)
            rates[name].append(answer["images"] / answer["seconds"])
    for name, values in rates.items():
        ratios = [b / a for a, b in zip(rates["as it is"][1:], values[1:], strict=True)]
        print(
            f"{name:42} {median(values[1:]):>7,.0f} images/s, ratio {median(ratios):.3f}"
            f" ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    for contestant in team.values():
        contestant.end()


if __name__ == "__main__":
    main()
