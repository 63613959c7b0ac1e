"""What `evaluate` measures, against numbers worked out by hand."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from conftest import drawn_data

from pipeline.data.dataset import Split
from pipeline.models.evaluation import calibration_error, evaluate
from pipeline.runs.run_figures import confusion_figure


def probabilities(*rows: dict[int, float]) -> np.ndarray:
    """Rows of 100 probabilities: those named, and the rest shared equally by the others."""
    table = np.empty((len(rows), 100), np.float32)
    for row, named in zip(table, rows, strict=True):
        row[:] = (1 - sum(named.values())) / (100 - len(named))
        for label, value in named.items():
            row[label] = value
    return table


def test_the_metrics_of_a_worked_example() -> None:
    data = drawn_data(train_images=100)
    # Labels 0 to 4 are one superclass, 5 to 9 the next.
    labels = torch.tensor([0, 1, 2, 7])
    data = replace(data, validation=Split(data.validation.images[:4], labels))
    predicted = probabilities({0: 0.9}, {0: 0.5, 1: 0.4}, {50: 0.9, 2: 0.05}, {60: 0.99})
    result = evaluate(predicted, data)
    assert result.metrics["accuracy"] == 0.25
    assert result.metrics["superclass_accuracy"] == 0.5  # 1 taken for 0 is right so far
    assert result.metrics["top5_accuracy"] == 0.75
    rest = 0.01 / 99
    expected = -(log(0.9) + log(0.4) + log(0.05) + log(rest)) / 4
    assert result.metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_tables_name_the_worst_class_and_the_most_frequent_confusion_first() -> None:
    data = drawn_data(train_images=100)
    labels = data.validation.labels
    predicted = torch.nn.functional.one_hot(labels, 100).float().numpy()
    ring = np.flatnonzero(labels == 30)
    predicted[ring] = probabilities({31: 0.99})
    predicted[np.flatnonzero(labels == 8)[0]] = probabilities({99: 0.99})[0]
    result = evaluate(predicted, data)
    assert result.confusion[30, 31] == len(ring) == 20
    worst, second, *_ = result.per_class.itertuples()
    assert worst.accuracy == 0
    assert worst[1] == data.class_names[30]
    assert second.accuracy == 0.95
    first, last = result.confusions.to_dict("records")
    assert first == {
        "class": data.class_names[30],
        "taken_for": data.class_names[31],
        "images": 20,
        "fraction_of_class": 1.0,
    }
    assert last["class"] == data.class_names[8]


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_of_classes_without_an_image() -> None:
    data = drawn_data(train_images=100)
    rows = np.flatnonzero(data.validation.labels < 30)
    split = Split(data.validation.images[rows], data.validation.labels[rows])
    predicted = torch.nn.functional.one_hot(split.labels, 100).float().numpy()
    predicted[np.flatnonzero(split.labels == 8)] = probabilities({99: 0.99})
    result = evaluate(predicted, replace(data, validation=split))
    assert all(np.isfinite(list(result.metrics.values())))
    assert result.metrics["accuracy"] == pytest.approx(29 / 30)
    assert sorted(result.per_class["class"]) == sorted(data.class_names[:30])
    assert not result.per_class.isna().any(axis=None)
    (confusion,) = result.confusions.to_dict("records")
    assert (confusion["class"], confusion["fraction_of_class"]) == (data.class_names[8], 1)
    figure = confusion_figure(result.confusion, data, "title")
    (image,) = figure.axes[0].images
    assert np.isfinite(np.asarray(image.get_array())).all()


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    # Two bins in use: confidence 0.95 but half right, over 2 images; 0.55 and right, over 1.
    predicted = probabilities({0: 0.95}, {0: 0.95}, {1: 0.55})
    error = calibration_error(predicted, np.array([0, 5, 1]))
    assert error == pytest.approx((2 * abs(0.95 - 0.5) + abs(0.55 - 1)) / 3, abs=1e-6)


def test_a_sure_and_right_classifier_has_no_calibration_error() -> None:
    assert calibration_error(probabilities({3: 1.0}), np.array([3])) == 0
