"""What a study has recorded of itself; nothing if it is of another project."""

import json
from contextlib import suppress
from typing import Any

from mlflow.entities import Run

from pipeline.config import Config
from pipeline.runs.run_result import ablation_name
from pipeline.store.tags import tags_of

AXES = ("variants", "seeds", "rates")


def recipe_of(study: Run) -> dict[str, Any]:
    """What the runs of a study have in common, as `run_result.recipe` says; empty if unknown."""
    recorded = _read(study, "recipe")
    # What was part of every recipe in earlier versions, which did not record it.
    earlier = {"ablation": ablation_name({}), "holdout_seed": Config.holdout_seed}
    return {**earlier, **recorded} if recorded else {}


def grid_of(study: Run) -> dict[str, Any]:
    """A study's grid, as `Grid.as_json` writes it; empty if unknown."""
    recorded = _read(study, "grid")
    return recorded if all(isinstance(recorded.get(axis), list) for axis in AXES) else {}


def _read(study: Run, tag: str) -> dict[str, Any]:
    with suppress(ValueError):
        recorded = json.loads(tags_of(study).get(tag, ""))
        if isinstance(recorded, dict):
            return recorded
    return {}
