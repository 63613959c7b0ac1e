"""Fewer training images, and those that are held out, come from every class."""

import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import REAL_DATA, Answer, needs_real_data, runs_in

from pipeline.config import Config
from pipeline.data import cifar100
from pipeline.data.arrays import from_arrays
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError
from pipeline.runs.resolve import resolve

ABLATION = """
import numpy as np
from torch import nn
from pipeline import Ablation
from pipeline.data.arrays import from_arrays

class Linear(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

def numbered():
    labels = np.repeat(np.arange({classes}), {counts})
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)
    return from_arrays(images, labels, images[-9:], labels[-9:])

ablation = Ablation(
    network=Linear,
    variants={{"linear": {{}}}},
    datasets={{"numbered": numbered}},
    augmentation=None,
)
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., ImageDataset]:
    """Load a data set with so many training images of each class, one class after the other."""

    def load(*counts: int, **settings: object) -> ImageDataset:
        file = tmp_path / f"of_{'_'.join(map(str, counts[:9]))}.py"
        file.write_text(ABLATION.format(classes=len(counts), counts=list(counts)))
        config = Config(str(file), dataset="numbered", **settings)  # type: ignore[arg-type]
        return resolve(config).data

    return load


def counts_in(data: ImageDataset, split: str = "training") -> list[int]:
    labels = getattr(data, split).labels
    return [int((labels == label).sum()) for label in range(data.num_classes)]


def rows_in(data: ImageDataset, split: str = "training") -> list[int]:
    """Which of all training images they are, in order."""
    return list(getattr(data, split).images.numpy().view(np.uint32).ravel().tolist())


@pytest.mark.parametrize(
    ("counts", "number", "expected"),
    [
        ((40, 40), 40, [20, 20]),
        ((40, 40), 41, [21, 20]),
        ((40, 40), 2, [1, 1]),
        ((50, 1, 1, 1, 8), 30, [23, 1, 1, 1, 4]),
        ((50, 1, 1, 1, 8), 6, [2, 1, 1, 1, 1]),
        ((50, 1, 1, 1, 8), 61, [50, 1, 1, 1, 8]),
        ((900, 90, 10), 100, [90, 9, 1]),
        ((6,) * 100, 250, [3] * 50 + [2] * 50),
    ],
)
def test_fewer_training_images_are_the_first_of_every_class(
    counts: tuple[int, ...],
    number: int,
    expected: list[int],
    loaded: Callable[..., ImageDataset],
) -> None:
    data = loaded(*counts, train_images=number)
    assert counts_in(data) == expected
    starts = np.cumsum(counts) - counts
    firsts = [range(start, start + n) for start, n in zip(starts, expected, strict=True)]
    assert rows_in(data) == [row for rows in firsts for row in rows]


def test_more_training_images_contain_those_of_fewer(loaded: Callable[..., ImageDataset]) -> None:
    before: set[int] = set()
    for number in range(5, 62):
        rows = set(rows_in(loaded(50, 1, 1, 1, 8, train_images=number)))
        assert before < rows
        assert len(rows) == number
        before = rows


def test_fewer_training_images_than_classes_are_refused(
    loaded: Callable[..., ImageDataset],
) -> None:
    with pytest.raises(
        InputError,
        match="^train_images is 4; numbered has 5 classes, and training takes at least one image of"
        r" each \(0 takes all\)$",
    ):
        loaded(50, 1, 1, 1, 8, train_images=4)


@pytest.mark.parametrize(
    ("counts", "number", "expected"),
    [
        ((50, 1, 1, 1, 8), 0, [5, 0, 0, 0, 1]),
        ((6,) * 100, 0, [1] * 100),
        ((2, 9, 10, 11, 20), 0, [1, 1, 1, 2, 2]),
        ((50, 1, 1, 1, 8), 30, [3, 0, 0, 0, 1]),
        ((6,) * 100, 250, [1] * 100),
        ((6,) * 100, 103, [1] * 3 + [0] * 97),
    ],
)
def test_every_class_of_two_images_has_a_held_out_one_and_keeps_one(
    counts: tuple[int, ...],
    number: int,
    expected: list[int],
    loaded: Callable[..., ImageDataset],
) -> None:
    whole = loaded(*counts, train_images=number)
    data = loaded(*counts, train_images=number, validation="holdout")
    assert counts_in(data, "validation") == expected
    left = [n - out for n, out in zip(counts_in(whole), expected, strict=True)]
    assert counts_in(data) == left
    assert min(left) >= 1
    assert sorted(rows_in(data) + rows_in(data, "validation")) == rows_in(whole)
    assert data.test is not None
    assert data.test.digest == whole.validation.digest


def test_a_hold_out_of_single_images_is_refused(loaded: Callable[..., ImageDataset]) -> None:
    line = "^no class has two training images to hold one out; use validation=test$"
    with pytest.raises(InputError, match=line):
        loaded(6, 6, 6, train_images=3, validation="holdout")


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.2, [0, 1, 1, 1, 2, 10]), (0.5, [0, 1, 2, 2, 5, 25]), (0.99, [0, 1, 2, 4, 9, 49])],
)
def test_a_share_of_each_class_is_validated_on_and_a_part_trained_on(
    share: float, expected: list[int]
) -> None:
    counts = [1, 2, 3, 5, 10, 50]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), counts))
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)
    data = from_arrays(images, labels, validation=share)
    assert counts_in(data, "validation") == expected
    assert counts_in(data) == [n - out for n, out in zip(counts, expected, strict=True)]
    assert sorted(rows_in(data) + rows_in(data, "validation")) == list(range(len(labels)))
    again = from_arrays(images, labels, validation=share)
    other = from_arrays(images, labels, validation=share, seed=1)
    assert again.digest == data.digest != other.digest


def test_what_is_held_out_of_classes_of_500_images_never_changes() -> None:
    order = np.argsort(np.random.PCG64(7).random_raw(50_000), kind="stable")
    labels = np.repeat(np.arange(100), 500)[order]
    images = np.arange(50_000, dtype=np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)
    data = from_arrays(images, labels, images[:100], np.arange(100)).hold_out()
    assert counts_in(data, "validation") == [50] * 100
    # Otherwise results of different versions would be of different images.
    assert data.validation.digest.startswith("4ef7cc943551bcbc")
    assert data.training.digest.startswith("72e2b1b3093b4c61")


@needs_real_data
def test_what_is_held_out_of_cifar100_never_changes() -> None:
    held_out = cifar100.load(str(REAL_DATA)).hold_out()
    assert held_out.validation.digest.startswith("bd1be27b74541e0c")


def test_classes_without_a_held_out_image_are_named_and_evaluated(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    counts = [20, 1, 1, 1, 8, 1, 1, 1, 1]
    (tmp_path / "rare.py").write_text(ABLATION.format(classes=9, counts=counts))
    options = ["--ablation", "rare.py", "--epochs", "1"]
    trained = pipeline("train", *options, "--validation", "holdout")
    assert trained.status == 0, trained.err
    (warning,) = (line for line in trained.err.splitlines() if "image is of" in line)
    assert warning == (
        "warning: no held-out image is of '1', '2', '3', '5', '6' and 2 more: they have only one"
        " training image"
    )
    evaluated = pipeline("evaluate", "--model", "models:/numbered-rare@linear")
    assert evaluated.status == 0, evaluated.err
    assert not re.search("nan|warning", evaluated.out + evaluated.err, re.IGNORECASE)
    (run,) = runs_in(tmp_path, "evaluate")
    table = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/per_class_accuracy.csv")
    assert [line.split(",")[:2] for line in sorted(table.splitlines())] == [
        *(["4", "5"], ["5", "1"], ["6", "1"], ["7", "1"], ["8", "1"], ["class", "images"]),
    ]
