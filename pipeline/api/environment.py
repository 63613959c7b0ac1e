"""The variables that MLflow and OpenMP read when they are imported."""

import os
import warnings

from pipeline import openmp
from pipeline.store.variables import VARIABLES


def set_variables() -> None:
    """Set what suits this project; before MLflow and torch are imported, to have an effect."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # Of tqdm, which MLflow imports, in a notebook without ipywidgets; bars are shown as text there.
    warnings.filterwarnings("ignore", "IProgress not found")
    openmp.spin_shortly()
