"""Finished runs with invented numbers, for tests of what is made of them."""

from collections.abc import Mapping, Sequence

from pipeline.config import Config
from pipeline.runs.run_result import RunResult

Accuracies = Mapping[str, Sequence[float]]  # by variant, one for each seed


def result(config: Config, reached: float, held_out: float | None = None) -> RunResult:
    """A run of three epochs of 10 s, that ends with the accuracy `reached`."""
    history = [
        {
            "train_loss": 2.0,
            "train_accuracy": reached + 0.02,
            "val_loss": 2.0 - reached,
            "val_accuracy": (reached if held_out is None else held_out) * share,
            "epoch_seconds": 10.0,
            "images_per_second": 1000.0,
        }
        for share in (0.5, 0.9, 1.0)
    ]
    if config.validation == "holdout":
        history[-1] |= {"test_loss": 2.0 - reached, "test_accuracy": reached}
    name = f"{config.run_name}-{config.lr:g}"
    tags = {"precision": "fp32", "data_digest": "0", "device": "cpu", "threads": "2"}
    return RunResult(name, "0", config, 1000, "", history, tags)


def study(accuracies: Accuracies, **settings: object) -> list[RunResult]:
    return [
        result(Config(variant=variant, seed=seed, **settings), value)  # type: ignore[arg-type]
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
