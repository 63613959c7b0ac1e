"""Options that take one value: what answers a list of them, such as `128,256`."""

import re
from typing import Any

import typer

RUN_HAS_ONE = "a run has one, and ablate takes several: {}"
STUDY_HAS_ONE = "all runs of a study have the same: start one for each (docs/your-own-ablation.md)"


def one(kind: type, several: str) -> dict[str, Any]:
    """What typer is told of an option that takes one value: how to answer a list of them, too."""

    def read(given: object) -> Any:
        text = str(given)  # a default comes as it is
        if "," in text:
            raise typer.BadParameter(f"{text!r} is a list; {several}")
        try:
            # `mlflow run` passes an integer on as it was typed, such as `1.0`.
            return kind(re.sub(r"\.0+\s*$", "", text) if kind is int else text)
        except ValueError:
            what = "an integer" if kind is int else "a number"
            raise typer.BadParameter(f"{text!r} is not {what}") from None

    return {"parser": read, "metavar": f"<{kind.__name__}>"}
