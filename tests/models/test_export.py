"""Networks that differ only in weights are exported once, and each is stored as it is."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from conftest import drawn_data
from torch import Tensor, nn

from pipeline.data.dataset import ImageDataset
from pipeline.models import export
from pipeline.models.export import PixelClassifier, export_network


class Scaled(nn.Module):
    """A network with a number that is neither a weight nor seen in its layers."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(3 * 32 * 32, 100)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return cast(Tensor, self.linear(torch.flatten(x, 1))) * self.scale


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been exported from the beginning."""
    calls: list[str] = []
    original: Callable[..., object] = torch.export.export

    def counted(classifier: nn.Module, *others: object, **more: object) -> object:
        calls.append(type(classifier).__name__)
        return original(classifier, *others, **more)

    monkeypatch.setattr(export, "export", counted)
    monkeypatch.setattr(export, "_exported", {})
    return calls


def assert_exported(network: nn.Module, data: ImageDataset) -> None:
    images = data.validation.images[:7]
    with torch.no_grad():
        found = export_network(network, {}, data).module()(images)
        assert torch.equal(found, PixelClassifier(network).eval()(images))


def test_only_weights_are_exchanged_between_networks_that_are_otherwise_the_same(
    exported: list[str],
) -> None:
    data = drawn_data(100)
    for _ in range(3):
        assert_exported(Scaled(0.5), data)
    assert len(exported) == 1


def test_a_network_that_computes_something_else_is_exported_anew(
    exported: list[str],
) -> None:
    data = drawn_data(100)
    for scale in (0.5, 2.0, 2.0001):
        assert_exported(Scaled(scale), data)
    assert len(exported) == 3
