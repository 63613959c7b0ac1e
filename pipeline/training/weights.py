"""Initial weights: parameters that variants share start out equal.

Each parameter has a random stream of its own, which its name decides, or in a variant the name that
the same parameter has in the first variant that has it. All this is said of networks, and holds for
criteria as well.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

LISTS = (nn.Sequential, nn.ModuleList, nn.ParameterList)  # whose members are named by their places
FACTORIES = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)

Build = Callable[[], nn.Module]


class Kind(NamedTuple):
    """What parameters have in common that may be the same one in two networks."""

    layer: str
    name: str
    shape: tuple[int, ...]


def stream_names(builds: Sequence[Build], seed: int, stream: Stream = Stream.WEIGHTS) -> list[str]:
    """Name a random stream for each parameter of a network, in the order in which they are made.

    builds: of the variants up to this one, the baseline first. A parameter that is also in an
    earlier variant, if that can be built, has the stream that it has there. A parameter has its
    whole name only when the network is complete: hence networks are built here, and again by
    `build_by_names`.

    Raises InputError for a network whose parameters have no shape yet.
    """
    registered: list[nn.Parameter | None] = []
    earlier: list[tuple[nn.Module, dict[str, str]]] = []
    for build in builds[:-1]:
        seed_generators(seed, stream)
        with suppress(Exception):  # whatever the user's code raises
            network = build()
            earlier.append((network, _shared_streams(network, earlier)))
    seed_generators(seed, stream)
    with register_module_parameter_registration_hook(lambda *one: registered.append(one[2])):
        network = builds[-1]()
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise InputError("it has lazy layers; give them their sizes")
    streams = _shared_streams(network, earlier)
    by_id = {id(one): streams[name] for name, one in named_parameters(network).items()}
    return [by_id.get(id(parameter), "") for parameter in registered]


def _shared_streams(
    network: nn.Module, earlier: Sequence[tuple[nn.Module, Mapping[str, str]]]
) -> dict[str, str]:
    """The stream of each parameter; `earlier` are the variants before, each with its streams."""
    streams: dict[str, str] = {}
    for other, theirs in earlier:
        for name, its_name in counterparts(network, other).items():
            stream = theirs.get(its_name, "")  # a buffer has none
            if stream and stream not in streams.values():
                streams.setdefault(name, stream)
    for name in [one for one in named_parameters(network) if one not in streams]:
        stream = name
        while stream in streams.values():  # two of one network must not be drawn from one
            stream += " of its own"
        streams[name] = stream
    return streams


def build_by_names(
    build: Build, seed: int, names: Sequence[str], stream: Stream = Stream.WEIGHTS
) -> nn.Module:
    """Build a network whose parameters are drawn from the streams of these `stream_names`.

    So parameters that two networks share and initialise alike start out equal, whatever else either
    network holds.
    """
    streams = _NamedStreams(seed, names, stream)
    seed_generators(seed, stream)
    with register_module_parameter_registration_hook(streams.register), streams:
        return build()


def named_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name, without what wrappers such as torch.compile's put before it."""
    return {_name_of(network, name): parameter for name, parameter in network.named_parameters()}


def counterparts(network: nn.Module, baseline: nn.Module) -> dict[str, str]:
    """The baseline's name of each parameter and buffer that is also in the baseline.

    If a kind of these is there as often but under other names, either numbers in a sequence (an
    inserted layer renumbers those after it) or all of them, that is the one at the same place in
    their order; else the one of the same name and shape.
    """
    kinds = _by_kind(baseline)
    found: dict[str, str] = {}
    for kind, names in _by_kind(network).items():
        others = kinds.get(kind, {})
        numbered = any(names.values())
        moved = names.keys() != others.keys() and (numbered or not names.keys() & others.keys())
        if moved and len(names) == len(others):
            found |= zip(names, others, strict=True)
    theirs = _named_tensors(baseline)
    left = {name: theirs[name].shape for name in theirs.keys() - found.values()}
    for name, tensor in _named_tensors(network).items():
        if left.get(name) == tensor.shape:
            found.setdefault(name, name)
    return found


def unlike(network: nn.Module, baseline: nn.Module) -> list[str]:
    """The parameters and buffers that do not start out as in the baseline, although it has such.

    Either its counterpart has other values, or it is not clear which parameter that is: the
    baseline has one of that kind, or a matrix of that shape, which is nowhere else.
    """
    theirs = _named_tensors(baseline)
    shared = counterparts(network, baseline)
    alone = {name for name in named_parameters(baseline) if name not in shared.values()}
    left = {
        one
        for kind, names in _by_kind(baseline).items()
        if alone & names.keys()
        for one in (kind, kind.shape)
    }
    kinds = {name: kind for kind, names in _by_kind(network).items() for name in names}
    return [
        name
        for name, value in _named_tensors(network).items()
        if (
            not torch.equal(value, theirs[shared[name]])
            if name in shared
            else isinstance(value, nn.Parameter)
            and (kinds[name] in left or (value.ndim > 1 and value.shape in left))
        )
    ]


def _named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The parameters, and then the buffers, by name."""
    buffers = {_name_of(network, name): buffer for name, buffer in network.named_buffers()}
    return {**named_parameters(network), **buffers}


def _by_kind(network: nn.Module) -> Mapping[Kind, dict[str, bool]]:
    """The names of each kind of tensor, in the order of the network; whether a number is in it."""
    names = defaultdict[Kind, dict[str, bool]](dict)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        path, _, last = name.rpartition(".")
        owners = _owners(network, name)
        numbered = any(isinstance(owner, LISTS) and part.isdigit() for owner, part in owners)
        kind = Kind(type(network.get_submodule(path)).__name__, last, tuple(tensor.shape))
        names[kind][_name_of(network, name)] = numbered
    return names


def _name_of(network: nn.Module, name: str) -> str:
    """A tensor's name without the parts that lead into a wrapper."""
    return ".".join(
        part
        for owner, part in _owners(network, name)
        if part != "_orig_mod" and not isinstance(owner, DataParallel | DistributedDataParallel)
    )


def _owners(network: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Each part of a tensor's name, after the module whose attribute it is."""
    module, found = network, []
    for part in name.split("."):
        found.append((module, part))
        module = getattr(module, part)
    return found


class _NamedStreams(TorchFunctionMode):
    """Seeds torch before each call that is about a parameter.

    stream: of all. names: of the parameters' streams, in the order in which they are registered. A
    call that returns a new random tensor is about the parameter to come. A call about any other
    tensor goes on in the stream of the last parameter: `orthogonal_`, for instance, draws into a
    temporary one.
    """

    def __init__(self, seed: int, names: Sequence[str], stream: Stream) -> None:
        super().__init__()
        self.seed, self.names, self.stream = seed, names, stream
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
            words = [self.seed, self.stream, self.counts[name], *name.encode()]
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
