"""`epoch()` does what the tutorial's does, and a seed decides everything."""

import math
from itertools import pairwise

import mlflow
import pytest
import torch
from conftest import ROOT, VARIANTS, drawn_data, network_of, run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trained import learned, spec_of, train_network

from pipeline import CNNNetwork, epoch
from pipeline.config import Config
from pipeline.errors import DivergedError
from pipeline.training.batches import TrainingBatches
from pipeline.training.device import choose_precision
from pipeline.training.epoch import Pass
from pipeline.training.loop import Training
from pipeline.training.state import TrainingState

CPU = torch.device("cpu")


def batches(count: int = 70, batch_size: int = 32) -> DataLoader[tuple[torch.Tensor, ...]]:
    """A plain DataLoader, whose last batch is smaller than the others."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 100, (count,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


def test_validation_returns_the_mean_loss_per_image_and_the_accuracy() -> None:
    model, data = network_of("bn"), batches()
    result = epoch(model, 1, False, data, nn.CrossEntropyLoss(), adam(model))
    images, labels = data.dataset[:]
    logits = model(images)
    assert not model.training
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert result.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_validation_leaves_the_weights_alone_and_training_follows_the_optimizer() -> None:
    model, reference = network_of("bn"), network_of("bn")
    reference.load_state_dict(model.state_dict())
    criterion = nn.CrossEntropyLoss()
    optimizer = adam(model)
    epoch(model, 1, False, batches(), criterion, optimizer)
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)

    epoch(model, 1, True, batches(), criterion, optimizer)
    optimizer = adam(reference)
    reference.train()
    for images, labels in batches():
        optimizer.zero_grad()
        criterion(reference(images), labels).backward()
        optimizer.step()
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_progress_bar_reads_as_in_the_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    model = CNNNetwork()
    result = epoch(model, 7, False, batches(), nn.CrossEntropyLoss(), adam(model))
    line = f"Epoch 7 (V), Loss: {result.loss:.4f}, Accuracy: {result.accuracy:.2%}: 100%"
    assert line in capsys.readouterr().err


def test_epoch_logs_to_the_active_run_and_starts_none_by_itself() -> None:
    model, criterion = CNNNetwork(), nn.CrossEntropyLoss()
    optimizer = adam(model)
    epoch(model, 1, True, batches(), criterion, optimizer)
    assert mlflow.search_runs(search_all_experiments=True).empty
    with mlflow.start_run() as run:
        train = epoch(model, 2, True, batches(), criterion, optimizer)
        val = epoch(model, 2, False, batches(), criterion, optimizer)
    client = mlflow.MlflowClient()
    for name, value in {
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "val_loss": val.loss,
        "val_accuracy": val.accuracy,
    }.items():
        (logged,) = client.get_metric_history(run.info.run_id, name)
        assert (logged.step, logged.value) == (2, value)


def test_epoch_reads_from_the_device_when_the_bar_moves_and_not_for_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = list(batches(count=200, batch_size=2))
    reads = 0
    item = torch.Tensor.item

    def counted(tensor: torch.Tensor) -> float:
        nonlocal reads
        reads += 1
        return item(tensor)

    monkeypatch.setattr(torch.Tensor, "item", counted)
    monkeypatch.setattr("pipeline.training.epoch.BAR_INTERVAL", 60)
    monkeypatch.setattr("pipeline.training.epoch.FREE_LOOKS", ())  # as on a GPU
    model = CNNNetwork()
    epoch(model, 1, False, data, nn.CrossEntropyLoss(), adam(model))
    assert reads == 2  # the loss and the accuracy, at the end


@pytest.mark.parametrize("looks", [("cpu",), ()], ids=["every batch", "as on a GPU"])
def test_epoch_names_the_first_batch_whose_loss_is_no_number(
    monkeypatch: pytest.MonkeyPatch, looks: tuple[str, ...]
) -> None:
    monkeypatch.setattr("pipeline.training.epoch.FREE_LOOKS", looks)
    data = list(batches(count=20, batch_size=2))
    data[6] = (data[6][0] * math.inf, data[6][1])
    model = CNNNetwork()
    with pytest.raises(DivergedError, match=r"is nan in epoch 3 \(V\), batch 7 of 10, .* 0.001;"):
        epoch(model, 3, False, data, nn.CrossEntropyLoss(), adam(model))


def test_one_seed_means_the_same_images_in_the_same_order_in_every_epoch() -> None:
    split = drawn_data(train_images=300).training

    def images(seed: int, epoch_: int) -> torch.Tensor:
        loader = TrainingBatches(split, 64, seed, CPU)
        loader.set_epoch(epoch_)
        torch.rand(5)  # the global stream, which dropout draws from, plays no part
        return torch.cat([batch for batch, _ in loader])

    assert torch.equal(images(0, 1), images(0, 1))
    assert not torch.equal(images(0, 1), images(0, 2))
    assert not torch.equal(images(0, 1), images(1, 1))


def test_variants_are_trained_on_the_same_images_from_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = drawn_data(train_images=300)

    def seen_by(variant: str) -> list[torch.Tensor]:
        seen = []

        def recording(
            model: nn.Module, n: int, train: bool, batches: TrainingBatches, *rest: object, **_: str
        ) -> Pass:
            if train:
                seen.append(model.get_parameter("fc2.weight").detach().clone())
                seen.extend(tensor for batch in batches for tensor in batch)
            return Pass(1.0, 0.0)

        monkeypatch.setattr("pipeline.training.loop.run_pass", recording)
        config = Config(variant=variant, dataset="synthetic", epochs=2, batch_size=100)
        for _ in Training(spec_of(config, data=data)).epochs():
            pass
        return seen

    base, dropout = seen_by("base"), seen_by("dropout")
    assert len(base) == 2 * (1 + 3 * 2)
    assert all(torch.equal(one, other) for one, other in zip(base, dropout, strict=True))
    assert not torch.equal(base[1], base[8])  # the second epoch's first batch is another one


def test_every_training_image_comes_once_an_epoch_with_its_label() -> None:
    split = drawn_data(train_images=300).training
    loader = TrainingBatches(split, 64, 0, CPU)
    labels = torch.cat([batch for _, batch in loader])
    assert torch.equal(labels.sort().values, split.labels.sort().values)
    assert not torch.equal(labels, split.labels)
    loader.set_epoch(1)
    assert not torch.equal(labels, torch.cat([batch for _, batch in loader]))


def test_batches_that_are_augmented_together_are_those_that_are_augmented_alone() -> None:
    alone, together = (
        TrainingBatches(drawn_data(train_images=300).training, 64, 0, CPU) for _ in range(2)
    )
    together.batches_at_once = 3
    assert len(list(together)) == len(alone) == 5
    for (images, labels), (same, target) in zip(alone, together, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, target)
        assert same.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("validation", ["test", "holdout"])
def test_correct_images_are_those_of_the_reported_accuracy(validation: str) -> None:
    config = Config(variant="bn", dataset="synthetic", epochs=2, train_images=600)
    data = drawn_data(train_images=600, validation=validation)
    states: list[TrainingState] = []
    _, history, correct = train_network(spec_of(config, data=data), save=states.append)
    reported = "test_accuracy" if data.test else "val_accuracy"
    assert correct.float().mean().item() == pytest.approx(getattr(history[-1], reported), abs=1e-7)
    # A run that was killed after its last epoch has nothing left to train.
    assert torch.equal(train_network(spec_of(config, data=data), states[-1])[2], correct)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_repeated_gives_the_same_numbers_to_the_last_bit(precision: str) -> None:
    config = Config(variant="dropout", dataset="synthetic", epochs=2, train_images=600)
    data = drawn_data(train_images=600)
    (first, history, correct), (second, again, same) = (
        train_network(spec_of(config, precision, data=data)) for _ in range(2)
    )
    assert torch.equal(correct, same)
    assert learned(history) == learned(again)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_auto_takes_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, "fp32"),
        ({}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert choose_precision("auto", CPU) == expected
        assert choose_precision("bf16", CPU) == "bf16"


def test_every_variant_learns() -> None:
    data = drawn_data(train_images=2000)
    for variant in VARIANTS:
        config = Config(variant=variant, dataset="synthetic", epochs=3, lr=0.002)
        _, history, _ = train_network(spec_of(config, data=data))
        losses = [epoch.train_loss for epoch in history]
        assert all(later < earlier for earlier, later in pairwise(losses)), variant


def test_training_needs_neither_mlflow_nor_what_comes_with_it() -> None:
    code = """
import sys
from pipeline.config import Config
from pipeline.runs.resolve import resolve
from pipeline.training.loop import Training
config = Config(variant="base", dataset="synthetic", train_images=100, epochs=1, batch_size=50)
for _ in Training(resolve(config)).epochs():
    pass
print(sys.modules.keys() & {"mlflow", "pandas", "pyarrow", "requests", "sqlalchemy", "typer"})
"""
    assert run(ROOT, "python", "-c", code).out == "set()\n"
