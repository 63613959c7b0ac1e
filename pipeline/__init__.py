"""Ablation studies of image classifiers, tracked with MLflow.

`train`, `ablate`, `compare`, `evaluate`, `predict` and `reproduce` do from Python what the commands
do (docs/python.md). `Ablation` is for a file of your own (docs/your-own-ablation.md), and
`read_picture` for a model that you use from Python (docs/models.md). The other names are the
tutorial's pieces. All load on first use, so that `python -m pipeline --help` does not wait for
torch.

Packages are layers that import only those below them: `cli`, `api`, `study` and `reproduction`,
`report` and `execution`, `runs`, `statistics` and `serving`, `models`, `training`, `ablation`,
`store` and `data`. All may import the modules here.
docs/architecture.md has the map.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # Python has put the current folder first, for `python -m pipeline`. A `random.py` there would
    # replace its own module, so the folder comes last, unless it is where this project is and
    # another one is installed.
    _folder = sys.path.pop(0)
    _other = PathFinder.find_spec(__name__, sys.path)
    _first = _other and _other.origin != __file__ and __file__.startswith(_folder)
    sys.path.insert(0 if _first else len(sys.path), _folder)

import logging
from typing import TYPE_CHECKING, Any

# Without a handler Python would print warnings; `news` shows what happens, in commands.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from pipeline.ablation.definition import Ablation as Ablation
    from pipeline.api.models import evaluate as evaluate
    from pipeline.api.models import predict as predict
    from pipeline.api.runs import reproduce as reproduce
    from pipeline.api.studies import ablate as ablate
    from pipeline.api.studies import compare as compare
    from pipeline.api.training import train as train
    from pipeline.data.augmentation import Augmentation as Augmentation
    from pipeline.data.pictures.pixels import read_picture as read_picture
    from pipeline.data.transforms import training_transform as training_transform
    from pipeline.data.transforms import validation_transform as validation_transform
    from pipeline.outcome import Outcome as Outcome
    from pipeline.runs.epoch import epoch as epoch
    from pipeline.training.network import CNNNetwork as CNNNetwork

_HOME = {
    "Ablation": "pipeline.ablation.definition",
    "Augmentation": "pipeline.data.augmentation",
    "CNNNetwork": "pipeline.training.network",
    "Outcome": "pipeline.outcome",
    "ablate": "pipeline.api.studies",
    "compare": "pipeline.api.studies",
    "epoch": "pipeline.runs.epoch",
    "evaluate": "pipeline.api.models",
    "predict": "pipeline.api.models",
    "read_picture": "pipeline.data.pictures.pixels",
    "reproduce": "pipeline.api.runs",
    "train": "pipeline.api.training",
    "training_transform": "pipeline.data.transforms",
    "validation_transform": "pipeline.data.transforms",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
