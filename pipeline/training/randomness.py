"""Seeds of separate random streams: weights, image order, augmentation and dropout.

So variants differ only in what their settings change. `loop` and `batches` draw from them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from pipeline.errors import InputError

FACTORIES = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)


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


def build_by_names(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose parameters are drawn from a stream each, which its name decides.

    Parameters that two networks share by name and initialise alike start out equal, whatever else
    either network holds. `build` is called twice, because a parameter has its whole name only when
    the network is complete: the first call shows in which order they are registered.

    Raises InputError for a network whose parameters have no shape yet.
    """
    registered: list[nn.Parameter | None] = []
    torch.manual_seed(stream_seed(seed, Stream.WEIGHTS))
    with register_module_parameter_registration_hook(lambda *one: registered.append(one[2])):
        network = build()
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise InputError("it has lazy layers; give them their sizes")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    streams = _NamedStreams(seed, [names.get(id(parameter), "") for parameter in registered])
    with register_module_parameter_registration_hook(streams.register), streams:
        return build()


class _NamedStreams(TorchFunctionMode):
    """Seeds torch before each call that is about a parameter.

    names: of the parameters, in the order in which they are registered. A call that returns a new
    random tensor is about the parameter to come. A call about any other tensor goes on in the
    stream of the last parameter: `orthogonal_`, for instance, draws into a temporary one.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        super().__init__()
        self.seed, self.names = seed, names
        self.counts = Counter[str]()
        self.registered: list[nn.Parameter | None] = []  # which keeps their memory theirs
        self.known: dict[int, str] = {}

    def register(self, _: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        """Learn which parameter has the next name."""
        if parameter is not None:
            self.known[_memory(parameter)] = self.names[len(self.registered)]
        self.registered.append(parameter)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if tensors:
            self._seed(self.known.get(_memory(tensors[0]), ""))
        elif func in FACTORIES and len(self.registered) < len(self.names):
            self._seed(self.names[len(self.registered)])
        return func(*args, **kwargs)

    def _seed(self, name: str) -> None:
        if name:
            self.counts[name] += 1
            words = [self.seed, Stream.WEIGHTS, self.counts[name], *name.encode()]
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
