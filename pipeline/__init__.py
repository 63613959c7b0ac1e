"""A CIFAR-100 ablation, tracked with MLflow.

`from pipeline import CNNNetwork, epoch, training_transform, validation_transform` provides the
tutorial's four pieces. They load on first use, so that `python -m pipeline --help` does not wait
for torch.

Packages are layers that import only those below them: `cli`, `study`, `report`, `runs`, `models`,
`training`, `store`, `data`. All may import `machine`, `upstream`, `config`, `errors` and
`interruption`. docs/architecture.md has the map.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.transforms import training_transform, validation_transform
    from pipeline.training.epoch import epoch
    from pipeline.training.network import CNNNetwork

__all__ = ["CNNNetwork", "epoch", "training_transform", "validation_transform"]

_HOME = {
    "CNNNetwork": "pipeline.training.network",
    "epoch": "pipeline.training.epoch",
    "training_transform": "pipeline.data.transforms",
    "validation_transform": "pipeline.data.transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
