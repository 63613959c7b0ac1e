"""Initial weights: parameters that variants share start out equal.

Each parameter has a random stream of its own, which its name decides, or in a variant the name that
the same parameter has in the baseline.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from pipeline.errors import InputError
from pipeline.randomness import Stream, seed_generators

FACTORIES = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)

Build = Callable[[], nn.Module]


class Kind(NamedTuple):
    """What parameters have in common that may be the same one in two networks."""

    layer: str
    name: str
    shape: tuple[int, ...]


def stream_names(build: Build, seed: int, build_baseline: Build | None = None) -> list[str]:
    """Name a random stream for each parameter of a network, in the order in which they are made.

    Parameters that it shares with the baseline have the same stream there: those of the same name,
    or the `counterparts` of those whose name has moved. A parameter has its whole name only when
    the network is complete: hence a network is built here, and again by `build_by_names`.

    Raises InputError for a network whose parameters have no shape yet.
    """
    registered: list[nn.Parameter | None] = []
    seed_generators(seed, Stream.WEIGHTS)
    with register_module_parameter_registration_hook(lambda *one: registered.append(one[2])):
        network = build()
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise InputError("it has lazy layers; give them their sizes")
    shared = counterparts(network, build_baseline()) if build_baseline else {}
    streams = {}
    for name, parameter in named_parameters(network).items():
        # Two parameters of one network must not be drawn from one stream.
        taken = name not in shared and name in shared.values()
        streams[id(parameter)] = shared.get(name, f"{name} of its own" if taken else name)
    return [streams.get(id(parameter), "") for parameter in registered]


def build_by_names(build: Build, seed: int, names: Sequence[str]) -> nn.Module:
    """Build a network whose parameters are drawn from the streams of these `stream_names`.

    So parameters that two networks share and initialise alike start out equal, whatever else either
    network holds.
    """
    streams = _NamedStreams(seed, names)
    seed_generators(seed, Stream.WEIGHTS)
    with register_module_parameter_registration_hook(streams.register), streams:
        return build()


def named_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name, without what wrappers such as torch.compile's put before it."""
    return {_unwrapped(network, name): parameter for name, parameter in network.named_parameters()}


def counterparts(network: nn.Module, baseline: nn.Module) -> dict[str, str]:
    """The baseline's name of each parameter that is also in the baseline.

    If a kind of parameter is there as often but under other names, either numbers (an inserted
    layer renumbers those after it) or all of them, that is the one at the same place in their
    order; else the one of the same name and shape.
    """
    kinds = _by_kind(baseline)
    found: dict[str, str] = {}
    for kind, names in _by_kind(network).items():
        others = kinds.get(kind, [])
        numbered = any(part.isdigit() for name in names for part in name.split("."))
        moved = set(names) != set(others) and (numbered or not set(names) & set(others))
        if moved and len(names) == len(others):
            found |= zip(names, others, strict=True)
    theirs = named_parameters(baseline)
    left = {name: theirs[name].shape for name in theirs.keys() - found.values()}
    for name, parameter in named_parameters(network).items():
        if left.get(name) == parameter.shape:
            found.setdefault(name, name)
    return found


def unlike(network: nn.Module, baseline: nn.Module) -> list[str]:
    """The parameters and buffers that do not start out as in the baseline, although it has such.

    Either its counterpart has other values, or it is not clear which that is: the baseline has one
    of that shape which is nowhere else.
    """
    ours, theirs = named_parameters(network), named_parameters(baseline)
    shared = counterparts(network, baseline)
    left = {theirs[name].shape for name in theirs.keys() - shared.values()}
    apart = [
        name
        for name, value in ours.items()
        if not torch.equal(value, theirs[shared[name]] if name in shared else value)
        or (name not in shared and value.shape in left)
    ]
    buffers = dict(baseline.named_buffers())
    return apart + [
        name
        for name, value in network.named_buffers()
        if name in buffers
        and value.shape == buffers[name].shape
        and not torch.equal(value, buffers[name])
    ]


def _by_kind(network: nn.Module) -> Mapping[Kind, list[str]]:
    """The names of each kind of parameter, in the order of the network."""
    names = defaultdict(list)
    for name, parameter in network.named_parameters():
        owner, _, last = name.rpartition(".")
        layer = type(network.get_submodule(owner)).__name__
        names[Kind(layer, last, tuple(parameter.shape))].append(_unwrapped(network, name))
    return names


def _unwrapped(network: nn.Module, name: str) -> str:
    """A parameter's name without the parts that lead into a wrapper."""
    module, parts = network, []
    *owners, last = name.split(".")
    for part in owners:
        compiled = part == "_orig_mod"
        if not compiled and not isinstance(module, DataParallel | DistributedDataParallel):
            parts.append(part)
        module = module.get_submodule(part)
    return ".".join([*parts, last])


class _NamedStreams(TorchFunctionMode):
    """Seeds torch before each call that is about a parameter.

    names: of the parameters' streams, in the order in which they are registered. A call that
    returns a new random tensor is about the parameter to come. A call about any other tensor goes
    on in the stream of the last parameter: `orthogonal_`, for instance, draws into a temporary one.
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
