"""Seeds of separate random streams: weights, image order, augmentation and dropout.

So variants differ only in their layers. `loop` and `batches` draw from them.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream of random numbers is for."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    DROPOUT = 3


def stream_seed(seed: int, stream: Stream, epoch: int = 0) -> int:
    """Return a 64-bit seed for one stream in one epoch of the run with seed `seed`.

    Each epoch has its own seeds instead of continuing where the last one stopped: a variant that
    draws more (dropout) can't shift another stream, and an epoch can be repeated alone. numpy's
    SeedSequence mixes the three numbers; its results are guaranteed to be the same everywhere.
    """
    return int(np.random.SeedSequence([seed, stream, epoch]).generate_state(1, np.uint64)[0])


def stream_generator(seed: int, stream: Stream, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator for one stream in one epoch."""
    return torch.Generator().manual_seed(stream_seed(seed, stream, epoch))
