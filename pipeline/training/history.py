"""What is measured in each epoch of a run."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Epoch:
    """An epoch's metrics, by the names that they have in MLflow.

    Losses are means per image, in nats for cross-entropy; accuracies are from 0 to 1. Those of
    training are means over a changing network. epoch_seconds: of training and validation;
    images_per_second: of training alone. test_loss, test_accuracy: after the last epoch of a run
    that holds out images; None otherwise.
    """

    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    epoch_seconds: float
    images_per_second: float
    test_loss: float | None = None
    test_accuracy: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


History = tuple[Epoch, ...]  # of a run, in order
# What depends on what else the machine does.
TIMES = ("epoch_seconds", "images_per_second")
