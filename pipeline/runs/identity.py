"""What makes two runs the same, in each sense that matters."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# In which sense two runs may be the same. BITS: they give the same numbers, epoch by epoch, as far
# as both have trained. CELL: they answer the same part of a question, so that a look at one is a
# look at the other. REUSE: one may be taken for the other, if the same CODE has trained them.
# RECIPE: they may be compared.
BITS, CELL, REUSE, CODE, RECIPE = "bits", "cell", "reuse", "code", "recipe"


def _in(*senses: str) -> Any:
    return field(metadata={"senses": senses})


@dataclass(frozen=True)
class Identity:
    """What decides a run's result. Each field says in which senses it tells runs apart.

    A new one is judged here, and nowhere else. ablation: its name, since its file may move.
    images: the data's sizes in words; their digest covers only the bytes. names_digest: of the
    classes. Places (`data_dir`) and what was typed as `auto` decide nothing by themselves; the
    settings of a variant are compared by `RunRecord.fits`, the files that its code reads by
    `provenance.changed_inputs`.
    """

    ablation: str = _in(CELL, REUSE, RECIPE)
    variant: str = _in(BITS, CELL, REUSE)
    dataset: str = _in(BITS, CELL, REUSE, RECIPE)
    epochs: int = _in(CELL, REUSE, RECIPE)
    batch_size: int = _in(BITS, CELL, REUSE, RECIPE)
    train_images: int = _in(BITS, CELL, REUSE, RECIPE)
    validation: str = _in(BITS, CELL, REUSE, RECIPE)
    holdout_seed: int = _in(CELL, REUSE, RECIPE)
    lr: float = _in(BITS, CELL, REUSE)
    seed: int = _in(BITS, CELL, REUSE)
    precision: str = _in(BITS, REUSE, RECIPE)
    data_digest: str = _in(BITS, CELL, REUSE, RECIPE)
    images: str = _in(BITS, REUSE)
    names_digest: str = _in(BITS, CODE)
    device: str = _in(BITS, REUSE)
    threads: int = _in(BITS)
    code_digest: str = _in(BITS, CODE)
    torch: str = _in(BITS, CODE)

    def only(self, sense: str) -> dict[str, Any]:
        """The fields that tell runs apart in this sense."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if sense in one.metadata["senses"]
        }

    @property
    def recipe(self) -> dict[str, Any]:
        """What runs must have in common to be compared: all but variant, seed and learning rate."""
        return self.only(RECIPE)

    def key(self, sense: str) -> tuple[Any, ...]:
        """What two runs have in common that are the same in this sense."""
        return tuple(self.only(sense).values())

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what decides a run's numbers, whatever the number of its epochs."""
        return hashlib.sha256(json.dumps(self.only(BITS)).encode()).hexdigest()


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Say where `one` differs from `other`, such as `epochs 5 instead of 30`."""
    return ", ".join(
        f"{name} {shortened(one.get(name))} instead of {shortened(value)}"
        for name, value in other.items()
        if one.get(name) != value
    )


def shortened(value: object) -> str:
    """A value for a message: of a digest, the first 16 characters."""
    text = str(value)
    return text[:16] if re.fullmatch("[0-9a-f]{32,}", text) else text
