"""The network is the tutorial's, in four variants."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import CNNNetwork
from pipeline.config import VARIANTS
from pipeline.errors import InputError
from pipeline.models.export import PixelClassifier
from pipeline.training.network import count_parameters
from pipeline.training.randomness import Stream, stream_seed


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
    assert count_parameters(CNNNetwork(variant)) == parameters


def test_weights_move_both_ways_between_the_tutorials_network_and_ours() -> None:
    tutorial, ours = TutorialNetwork(), CNNNetwork("dropout")
    for _ in range(3):  # running statistics that differ from their initial values
        tutorial(torch.randn(64, 3, 32, 32))
    ours.load_state_dict(tutorial.state_dict())
    images = torch.randn(8, 3, 32, 32)
    assert torch.equal(ours.eval()(images), tutorial.eval()(images))
    TutorialNetwork().load_state_dict(ours.state_dict())


def test_dropout_is_active_in_training_as_in_the_tutorial() -> None:
    tutorial, ours = TutorialNetwork(), CNNNetwork("dropout")
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
        networks[variant] = CNNNetwork(variant).state_dict()
    for weights in networks.values():
        for name, value in networks["base"].items():
            assert torch.equal(weights[name], value), name


def test_a_checkpoint_rebuilds_the_network_without_unpickling_objects(tmp_path: Path) -> None:
    network = CNNNetwork("bn").to(memory_format=torch.channels_last)
    network.save_checkpoint(tmp_path / "checkpoint.pt")
    torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    rebuilt = CNNNetwork.from_checkpoint(tmp_path / "checkpoint.pt")
    assert rebuilt.variant == "bn"
    for name, value in network.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[name], value)


def test_the_registered_form_takes_pixels_and_returns_probabilities() -> None:
    network = CNNNetwork("bn").eval()
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    probabilities = PixelClassifier(network)(pixels)
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(probabilities, network(normalised).softmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="base, bn, dropout, base_dropout"):
        CNNNetwork("batchnorm")
