"""The network is the tutorial's, in four variants."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import VARIANTS, network_of
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline import CNNNetwork
from pipeline.errors import InputError
from pipeline.models.export import PixelClassifier
from pipeline.randomness import Stream, stream_seed
from pipeline.training.weights import build_by_names, stream_names, unlike


class TutorialNetwork(nn.Module):
    """The layers that the tutorial prescribes, in its order, for its last exercise."""

    def __init__(self) -> None:
        super().__init__()
        for number, (channels, filters) in enumerate([(3, 16), (16, 32), (32, 64)], start=1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, filters, 3, padding=1))
            setattr(self, f"bn{number}", nn.BatchNorm2d(filters))
        self.fc1 = nn.Linear(1024, 512)
        self.fc2 = nn.Linear(512, 100)

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            conv, bn = getattr(self, f"conv{number}"), getattr(self, f"bn{number}")
            x = nn.functional.max_pool2d(bn(torch.relu(conv(x))), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(nn.functional.dropout(x, 0.5, self.training))
        return logits


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("base", 599_684), ("bn", 599_908), ("dropout", 599_908), ("base_dropout", 599_684)],
)
def test_each_variant_has_the_stated_number_of_parameters(variant: str, parameters: int) -> None:
    weights = network_of(variant).parameters()
    assert sum(weight.numel() for weight in weights) == parameters


def test_weights_move_both_ways_between_the_tutorials_network_and_ours() -> None:
    tutorial, ours = TutorialNetwork(), network_of("dropout")
    for _ in range(3):  # running statistics that differ from their initial values
        tutorial(torch.randn(64, 3, 32, 32))
    ours.load_state_dict(tutorial.state_dict())
    images = torch.randn(8, 3, 32, 32)
    assert torch.equal(ours.eval()(images), tutorial.eval()(images))
    TutorialNetwork().load_state_dict(ours.state_dict())


def test_dropout_is_active_in_training_as_in_the_tutorial() -> None:
    tutorial, ours = TutorialNetwork(), network_of("dropout")
    ours.load_state_dict(tutorial.state_dict())
    images = torch.randn(8, 3, 32, 32)
    torch.manual_seed(1)
    expected = tutorial(images)
    torch.manual_seed(1)
    assert torch.equal(ours(images), expected)
    assert not torch.equal(ours(images), expected)


def test_variants_of_one_seed_start_from_the_same_weights() -> None:
    networks = {}
    for variant in VARIANTS:
        torch.manual_seed(stream_seed(3, Stream.WEIGHTS))
        networks[variant] = network_of(variant).state_dict()
    for weights in networks.values():
        for name, value in networks["base"].items():
            assert torch.equal(weights[name], value), name


@pytest.mark.parametrize(
    ("image_size", "last"), [(8, 1), (33, 16), (50, 36), ((9, 17), 2), ([32, 64], 32)]
)
def test_it_fits_any_data_and_is_rebuilt_for_it(
    image_size: int | tuple[int, int], last: int, tmp_path: Path
) -> None:
    settings = {"num_classes": 7, "in_channels": 2, "image_size": image_size, "dropout": 0.3}
    network = CNNNetwork(**settings).eval()  # type: ignore[arg-type]
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = torch.randn(4, 2, height, width)
    assert network(images).shape == (4, 7)
    assert network.fc1.in_features == 64 * last
    assert cast(nn.Dropout, network.dropout).p == 0.3
    checkpoint = {"settings": settings, "state_dict": network.state_dict()}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    rebuilt = CNNNetwork.from_checkpoint(tmp_path / "checkpoint.pt").eval()
    assert torch.equal(rebuilt(images), network(images))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_size": 7}, "image_size is 7x7 .* at least 8x8"),
        ({"image_size": (32, 6)}, r"image_size is 32x6 \(height x width\)"),
        *(
            ({"image_size": size}, r"image_size is .* a number of pixels, such as 32, or two, \(h")
            for size in (32.0, "32", True, None, 0, (32,), (32, 32, 3), (32, 32.0))
        ),
        *(
            ({name: number}, f"{name} is .* a whole number of at least 1")
            for name in ("num_classes", "in_channels")
            for number in (0, -1, 1.0, True, None, "3")
        ),
        *(
            ({"dropout": value}, "dropout is .* a probability below 1")
            for value in (1.5, 1.0, 1, -0.1, math.nan, "0.5", None)
        ),
    ],
)
def test_what_no_such_network_has_is_refused_in_one_line(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as error:
        CNNNetwork(**settings)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    settings = {"num_classes": np.int64(7), "in_channels": np.uint8(2), "image_size": np.int64(9)}
    network = CNNNetwork(**settings)  # type: ignore[arg-type]
    assert network(torch.randn(4, 2, 9, 9)).shape == (4, 7)
    assert network.image_size == (9, 9)


def test_the_registered_form_takes_pixels_and_returns_probabilities() -> None:
    network = network_of("bn").eval()
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    probabilities = PixelClassifier(network)(pixels)
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(probabilities, network(normalised).softmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def by_names(build: Callable[[], nn.Module], seed: int, *earlier: Callable[[], nn.Module]) -> Any:
    return build_by_names(build, seed, stream_names([*earlier, build], seed))


class Other(nn.Module):
    """Layers that draw their weights in the ways that networks do."""

    def __init__(self, extra: bool = False, zero: bool = False) -> None:
        super().__init__()
        if extra:
            self.extra = nn.Conv2d(3, 5, 3)
            nn.init.orthogonal_(self.extra.weight)
        self.conv = nn.Conv2d(3, 8, 3)
        self.position = nn.Parameter(torch.randn(1, 8) * 0.02)
        self.attention = nn.MultiheadAttention(8, 2)
        self.truncated = nn.Parameter(nn.init.trunc_normal_(torch.empty(8, 8), a=-1, b=1))
        self.late = nn.Parameter(torch.empty(8, 8))
        self.norm = nn.BatchNorm2d(8)
        if zero:
            nn.init.zeros_(self.norm.weight)
        nn.init.trunc_normal_(self.late, a=-1, b=1)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.MultiheadAttention):
            nn.init.orthogonal_(module.in_proj_weight)


def test_parameters_of_any_network_start_out_equal_by_name_whatever_else_there_is() -> None:
    plain = dict(by_names(Other, 3).named_parameters())
    for build, others in (
        (Other, set()),
        (lambda: Other(extra=True), {"truncated"}),  # drawn before it belongs to the network
        (lambda: Other(zero=True), {"norm.weight"}),  # which is what this variant changes
    ):
        network = dict(by_names(build, 3).named_parameters())
        unequal = {name for name in plain if not torch.equal(plain[name], network[name])}
        assert unequal <= others, unequal
    other_seed = dict(by_names(Other, 4).named_parameters())
    drawn = {name for name in plain if not torch.equal(plain[name], other_seed[name])}
    assert drawn >= {"conv.weight", "conv.bias", "position", "attention.in_proj_weight", "late"}
    # Different streams: two parameters of one shape are not the same numbers.
    assert not torch.equal(plain["truncated"], plain["late"])


def test_weights_drawn_by_name_have_the_distribution_that_the_network_asks_for() -> None:
    layers = by_names(lambda: nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64)), 0)
    values = [layers.get_parameter(f"{n}.weight").detach().flatten() for n in (0, 1)]
    for drawn, bound in zip(values, (1 / 8, 1 / 16), strict=True):  # as torch initialises them
        assert kstest(drawn / bound, "uniform", args=(-1, 2)).pvalue > 0.001
    assert abs(torch.corrcoef(torch.stack(values))[0, 1]) < 0.03


def stack(*inserted: nn.Module) -> nn.Sequential:
    """Layers whose numbers depend on what is inserted before the last one."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 32), *inserted, nn.Linear(32, 10))


def compiled(network: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(network))  # it compiles when it is called first


INSERTED: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: stack(nn.Dropout()),
    "two layers": lambda: stack(nn.Dropout(), nn.ReLU()),
    "with parameters": lambda: stack(nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 33)),
    "in a wrapper": lambda: nn.DataParallel(stack(nn.ReLU(), nn.Linear(32, 32))),
    "compiled": lambda: compiled(stack(nn.Dropout())),
    "compiled inside": lambda: nn.Sequential(compiled(stack(nn.Dropout()))),
    "under another name": lambda: nn.ModuleDict({"body": stack(), "more": nn.Linear(8, 8)}),
}


@pytest.mark.parametrize("build", INSERTED.values(), ids=INSERTED)
def test_layers_that_have_moved_start_out_as_in_the_baseline(
    build: Callable[[], nn.Module],
) -> None:
    baseline = by_names(stack, 5)
    network = by_names(build, 5, stack)
    for shape in ((32, 32), (10, 32)):
        weights = [
            next(one for one in module.parameters() if one.shape == shape)
            for module in (baseline, network)
        ]
        assert torch.equal(*weights)
    assert not unlike(network, baseline)
    drawn = [tuple(one.flatten()[:4].tolist()) for one in network.parameters() if one.ndim == 2]
    assert len(set(drawn)) == len(drawn)  # no two are drawn from one stream


def test_a_layer_whose_counterpart_is_not_clear_is_named() -> None:
    def deep(*inserted: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 8), *inserted, nn.ReLU(), nn.Linear(8, 8))

    baseline = by_names(deep, 0)
    network = by_names(lambda: deep(nn.Linear(8, 8)), 0, deep)
    assert unlike(network, baseline) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    # A layer that keeps its name is the same one, whatever else has gone or come.
    kept = by_names(lambda: layers("b", "c", "d"), 0, lambda: layers("a", "b", "c"))
    first = by_names(lambda: layers("a", "b", "c"), 0)
    assert torch.equal(kept["b"].weight, first["b"].weight)
    assert unlike(kept, first) == ["d.weight", "d.bias"]
    # The names in a dictionary are the user's own, whatever numbers they are.
    kept = by_names(lambda: layers("2", "3", "4"), 0, lambda: layers("1", "2", "3"))
    first = by_names(lambda: layers("1", "2", "3"), 0)
    assert torch.equal(kept["3"].weight, first["3"].weight)
    assert unlike(kept, first) == ["4.weight", "4.bias"]
    # A bias that is left says nothing of another layer's weights of its length.
    normed = by_names(lambda: nn.Sequential(nn.BatchNorm1d(8)), 0, layers_without_norm)
    assert not unlike(normed, by_names(layers_without_norm, 0))
    # A wider layer is another one, and needs no word.
    wider = by_names(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 9)), 0)
    assert not unlike(wider, baseline)


def test_two_variants_share_what_the_baseline_lacks() -> None:
    def bottleneck(*inserted: nn.Module) -> nn.Sequential:
        return stack(*inserted, nn.Linear(32, 16), nn.Linear(16, 32))

    def broken() -> nn.Module:
        raise RuntimeError

    narrow = by_names(bottleneck, 4, stack)
    dropped = by_names(lambda: bottleneck(nn.Dropout()), 4, stack, broken, bottleneck)
    assert not unlike(dropped, narrow)
    assert torch.equal(dropped[3].weight, narrow[2].weight)
    assert torch.equal(dropped[1].weight, by_names(stack, 4)[1].weight)


def layers_without_norm() -> nn.ModuleDict:
    return nn.ModuleDict({"a": nn.Linear(9, 8)})


def layers(*names: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(8, 8) for name in names})


def test_what_a_variant_draws_otherwise_is_named_wherever_it_is() -> None:
    def projected(deep: bool = False) -> nn.Module:
        network = nn.Sequential(nn.Linear(8, 8))
        if deep:
            network.append(nn.Linear(8, 3))
        network.register_buffer("projection", torch.randn(8))
        return network

    baseline = by_names(projected, 0)
    other = by_names(lambda: projected(deep=True), 0, projected)
    assert unlike(other, baseline) == ["projection"]

    def features(*inserted: nn.Module) -> nn.Module:
        fourier = nn.Module()
        fourier.register_buffer("frequencies", torch.empty(8).normal_())
        return nn.Sequential(*inserted, fourier, nn.Linear(8, 3))

    moved = by_names(lambda: features(nn.Linear(9, 9)), 0, features)
    assert unlike(moved, by_names(features, 0)) == ["1.frequencies"]

    normed = by_names(lambda: nn.Sequential(weight_norm(nn.Linear(8, 8))), 0, projected)
    assert unlike(normed, baseline) == ["0.parametrizations.weight.original1"]
