"""What is known of a finished run: the record that a study, its report and the registry share."""

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
    """A finished training run; `history` holds the metrics of each epoch, as `train_network`'s."""

    run_id: str
    config: Config
    parameters: int
    model_uri: str
    history: History
    registered: RegisteredVersion | None = None

    @property
    def seconds(self) -> float:
        """Time spent in epochs, training and validation."""
        return sum(epoch["epoch_seconds"] for epoch in self.history)
