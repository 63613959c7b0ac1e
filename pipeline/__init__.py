"""A CIFAR-100 ablation, tracked with MLflow.

`from pipeline import CNNNetwork, epoch, training_transform, validation_transform` gives the
tutorial's four pieces. They are imported on first use, so that `python -m pipeline --help` does not
wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.transforms import training_transform, validation_transform
    from pipeline.network import CNNNetwork
    from pipeline.training import epoch

__all__ = ["CNNNetwork", "epoch", "training_transform", "validation_transform"]

_HOME = {
    "CNNNetwork": "pipeline.network",
    "epoch": "pipeline.training",
    "training_transform": "pipeline.data.transforms",
    "validation_transform": "pipeline.data.transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
