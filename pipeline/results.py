"""What is known of a finished run: the record that a study, its report and the registry share."""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.config import Config
from pipeline.training import History


class RegisteredVersion(NamedTuple):
    """A version in the registry, and the aliases that point at it."""

    name: str
    version: str
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Where it is loaded from, such as `models:/cifar100-cnn/3`."""
        return f"models:/{self.name}/{self.version}"


class RunResult(NamedTuple):
    """A finished training run.

    model_uri: empty if the model has been deleted. history: the metrics of each epoch, as
    `train_network` returns them. tags: what the run says of its data, device and code. reused: made
    by an earlier study, or on its own.
    """

    run_id: str
    config: Config
    parameters: int
    model_uri: str
    history: History
    tags: Mapping[str, str]
    reused: bool = False
    registered: RegisteredVersion | None = None

    @property
    def commit(self) -> str:
        """Of the code that made the run, `…-dirty` if it was changed since; empty without git."""
        commit = self.tags.get("mlflow.source.git.commit", "")
        return f"{commit}-dirty" if commit and self.tags.get("git_dirty") == "true" else commit

    @property
    def seconds(self) -> float:
        """Time spent in epochs, training and validation."""
        return sum(epoch["epoch_seconds"] for epoch in self.history)


def recipe(config: Config, tags: Mapping[str, str]) -> dict[str, str | int | float]:
    """What runs must have in common to be compared: all but variant, seed and learning rate.

    `tags` are the run's: they say which data `data_dir` held, and which precision `auto` was.
    """
    free = ("variant", "seed", "lr", "data_dir", "device", "precision")
    settings = {name: value for name, value in config.as_dict().items() if name not in free}
    return settings | {"precision": tags["precision"], "data_digest": tags["data_digest"]}


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Say what `one` has that `other` has not, such as `epochs 5 instead of 30`."""
    told = [
        f"{name} {str(one.get(name))[:16]} instead of {str(value)[:16]}"
        for name, value in other.items()
        if one.get(name) != value
    ]
    return ", ".join(told)
