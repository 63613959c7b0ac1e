"""Seeds of separate random streams, so that one can't shift another.

Variants differ only in what their settings change.
"""

import random
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream of random numbers is for. `STEPS`: all that networks and criteria draw."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    STEPS = 3
    CRITERION = 4
    DATA = 5


def seed_generators(seed: int, stream: Stream, epoch: int = 0) -> None:
    """Seed the global generators of torch, NumPy and Python: a user's code may draw from any."""
    torch.manual_seed(stream_seed(seed, stream, epoch))
    words = np.random.SeedSequence([seed, stream, epoch]).generate_state(4)
    np.random.seed(words)
    random.seed(words.tobytes())


def stream_seed(seed: int, stream: Stream, epoch: int = 0) -> int:
    """Return a 64-bit seed for one stream in one epoch of the run with seed `seed`.

    Each epoch has its own seeds instead of continuing where the last one stopped: a variant that
    draws more can't shift another stream, and an epoch can be repeated alone. numpy's
    SeedSequence mixes the three numbers; its results are guaranteed to be the same everywhere.
    """
    return int(np.random.SeedSequence([seed, stream, epoch]).generate_state(1, np.uint64)[0])


def stream_generator(seed: int, stream: Stream, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator for one stream in one epoch."""
    return torch.Generator().manual_seed(stream_seed(seed, stream, epoch))
