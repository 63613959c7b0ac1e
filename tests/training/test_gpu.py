"""On a GPU: the same training, whose step is a CUDA graph and waits for nothing.

Where MLflow is missing: pytest --noconftest tests/training/test_gpu.py
"""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trained import learned, spec_of, train_network

from pipeline.config import Config
from pipeline.training.cuda_graph import Step
from pipeline.training.history import History
from pipeline.training.loop import FastStep, Training
from pipeline.training.state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def train(precision: str, epochs: int = 3, **more: Any) -> tuple[nn.Module, History]:
    """Train on six batches an epoch and a smaller one."""
    config = Config(
        variant="dropout",
        dataset="synthetic",
        train_images=650,
        epochs=epochs,
        batch_size=100,
    )
    return train_network(spec_of(config, precision, "cuda"), **more)[:2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_trains_as_the_kernels_one_by_one_do_to_the_last_bit(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays = 0
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        nonlocal replays
        replays += 1
        replay(graph)

    def plain(step: Step, *_: object) -> FastStep:
        return FastStep(step, "none")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    network, history = train(precision)
    assert replays == 3 * 6 - 3  # all but those of the warm-up and the smaller ones
    monkeypatch.setattr("pipeline.training.loop.CapturedStep", plain)
    other, same = train(precision)
    assert replays == 3 * 6 - 3
    assert learned(history) == learned(same)
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_no_step_waits_for_the_gpu() -> None:
    def waits(epochs: int) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train("fp32", epochs)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    # Of an epoch's 7 and 4 batches none; order and augmentation are sent once, and four results
    # read.
    assert waits(4) - waits(3) < 11


def test_a_training_continues_to_the_same_result() -> None:
    states: list[TrainingState] = []
    network, history = train("bf16", save=lambda state: states.append(deepcopy(state)))
    continued, same = train("bf16", state=states[0])
    assert learned(history) == learned(same)
    for name, value in network.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name


def test_a_network_that_a_graph_cannot_capture_is_trained_step_by_step(tmp_path: Path) -> None:
    """Reading a number from the GPU, as this network does, is not allowed in a graph."""
    file = tmp_path / "waits.py"
    file.write_text(
        """
import torch
from torch import nn
from trained import learned, spec_of, train_network
from pipeline import Ablation
from pipeline.data import synthetic

class Waits(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(32 * 32 * 3, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1) if x.sum().item() < 1e9 else -x.flatten(1))

ablation = Ablation(Waits, {"waits": {}}, {"synthetic": synthetic.generate})
"""
    )
    config = Config(str(file), "waits", "synthetic", train_images=650, epochs=2, batch_size=100)
    training = Training(spec_of(config, device="cuda"))
    first, second = training.epochs()
    assert second.train_loss < first.train_loss
    assert training.fast_path.startswith("none: a CUDA graph can't capture the step")
