"""Computing in oneDNN's memory layout gives what PyTorch computes."""

from copy import deepcopy
from pathlib import Path
from statistics import median

import pytest
import torch
from conftest import network_of, run
from torch import Tensor, nn

from pipeline import CNNNetwork
from pipeline.training.onednn import BlockedNetwork, drop_half, fits, is_available

pytestmark = pytest.mark.skipif(not is_available("fp32"), reason="not on this processor")
precisions = pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        pytest.param(
            "bf16", marks=pytest.mark.skipif(not is_available("bf16"), reason="no bf16 here")
        ),
    ],
)


def trained_once(variant: str, precision: str, way: str, seed: int) -> dict[str, Tensor]:
    """The logits, gradients and running statistics after one step of a network, as float64."""
    torch.manual_seed(seed)
    network = network_of(variant)
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64)
    if way == "exact":
        network, images = network.double(), images.double()
    if way == "plain":
        images = images.to(memory_format=torch.channels_last)
        network.to(memory_format=torch.channels_last)
    autocast = way == "plain" and precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = (BlockedNetwork(network, precision) if way == "blocked" else network)(images)
    logits = logits if way == "exact" else logits.float()
    torch.autograd.backward(nn.functional.cross_entropy(logits, labels))
    found = {"logits": logits.detach(), **dict(network.named_buffers())}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        found[f"gradient of {name}"] = parameter.grad
    return {name: value.double() for name, value in found.items()}


@precisions
@pytest.mark.parametrize("variant", ["base", "bn"])
def test_a_step_is_as_near_to_the_exact_one_as_with_channels_last(
    variant: str, precision: str
) -> None:
    # With one seed in ten, in either way, a rounding makes pooling choose another pixel, and the
    # gradient of conv1 is then off by 2e-3 instead of 2e-6; hence the median.
    seeds = range(5)
    exact, plain, ours = (
        [trained_once(variant, precision, way, seed) for seed in seeds]
        for way in ("exact", "plain", "blocked")
    )
    assert exact[0].keys() == ours[0].keys()
    for name in exact[0]:
        error, usual = (
            median(((a[name] - b[name]).norm() / b[name].norm()).item() for a, b in pairs)
            for pairs in (zip(ours, exact, strict=True), zip(plain, exact, strict=True))
        )
        assert error <= 2 * usual + 2e-5, name


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_validation_gives_the_same_classes(variant: str) -> None:
    torch.manual_seed(0)
    network, images = network_of(variant), torch.randn(500, 3, 32, 32)
    network(images)  # running statistics that differ from their initial values
    network.eval()
    with torch.no_grad():
        expected, logits = network(images), BlockedNetwork(network, "fp32")(images)
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@precisions
@pytest.mark.parametrize("image_size", [(8, 8), (9, 17), (33, 50)])
def test_it_computes_networks_for_any_data(image_size: tuple[int, int], precision: str) -> None:
    torch.manual_seed(0)
    sizes = {"num_classes": 7, "in_channels": 1, "image_size": image_size}
    network = CNNNetwork(**sizes, batch_norm=True, dropout=0.3)  # type: ignore[arg-type]
    assert fits(network)
    images = torch.randn(64, 1, *image_size)
    blocked = BlockedNetwork(network, precision)
    torch.manual_seed(1)
    logits = blocked(images)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = network(images)
    error = (logits.float() - expected.float()).norm() / expected.float().norm()
    assert error < (1e-3 if precision == "fp32" else 0.05)  # as of 32x32 in channels_last
    network.eval()
    assert torch.equal(blocked(images), blocked(images))


def test_a_network_with_another_layer_is_not_taken_for_one_that_it_computes() -> None:
    assert all(fits(network_of(variant)) for variant in ("base", "dropout"))
    layers = {
        "fc2": nn.Sequential(nn.Linear(512, 100)),
        "conv1": nn.Conv2d(3, 16, 3, padding="same", groups=1, bias=False),
        "dropout": nn.AlphaDropout(0.5),
        "pool": nn.AvgPool2d(2),
        "fc1": nn.Linear(1024, 256),
    }
    for name, layer in layers.items():
        network = network_of("dropout")
        setattr(network, name, layer)
        assert not fits(network), name


@pytest.mark.parametrize(
    "name", ["conv1.weight", "conv3.bias", "bn1.bias", "bn2.running_var", "fc1.weight", "fc2.bias"]
)
def test_what_is_no_number_shows_wherever_it_is(name: str) -> None:
    network = network_of("bn").eval()
    network.state_dict()[name].flatten()[0] = torch.nan
    assert not BlockedNetwork(network, "fp32")(torch.randn(8, 3, 32, 32)).isfinite().all()


def test_dropout_lets_each_half_pass_doubled() -> None:
    x = torch.rand(256, 512) + 1
    torch.manual_seed(0)
    first, second = drop_half(x), drop_half(x)
    torch.manual_seed(0)
    assert torch.equal(drop_half(x), first)
    for dropped in (first, second):
        kept = dropped != 0
        assert torch.equal(dropped[kept], 2 * x[kept])
        # Five standard deviations, of all numbers, and of each row's and column's.
        for count, of in ((kept.sum(), kept.numel()), (kept.sum(0), 256), (kept.sum(1), 512)):
            assert ((count - of / 2).abs() < 5 * (of / 4) ** 0.5).all()
    same = ((first != 0) == (second != 0)).float().mean()
    assert same == pytest.approx(0.5, abs=0.01)


@precisions
def test_only_the_variant_with_dropout_drops_and_only_in_training(precision: str) -> None:
    images = torch.randn(64, 3, 32, 32)
    for variant, train, drops in (
        ("dropout", True, True),
        ("dropout", False, False),
        ("bn", True, False),
    ):
        network = network_of(variant).train(train)
        blocked = BlockedNetwork(deepcopy(network), precision)
        assert torch.equal(blocked(images), blocked(images)) != drops


def test_a_processor_without_bf16_is_recognised_as_onednn_sees_it(tmp_path: Path) -> None:
    code = (
        "from pipeline.training.onednn import is_available as is_; print(is_('fp32'), is_('bf16'))"
    )
    answer = run(tmp_path, "env", "ONEDNN_MAX_CPU_ISA=AVX2", "python", "-c", code)
    assert answer.out.split() == ["True", "False"], answer.err
