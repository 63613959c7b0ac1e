"""Compare what a run recorded with what its repetition gives, to the last bit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from pipeline.reproduction.record import Values


class Comparison(NamedTuple):
    """table: a row for each epoch and metric, with `recorded` values, the `repeated` one, `same`.

    same_weights: whether the trained weights are the same; None if they were not compared.
    """

    table: pd.DataFrame
    same_weights: bool | None

    @property
    def is_identical(self) -> bool:
        """Whether nothing differs."""
        return bool(self.table["same"].all()) and self.same_weights is not False

    def describe(self, differences: Sequence[str]) -> str:
        """Say whether it is identical, or where it differs and what may be why.

        `differences` are those of versions and machine.
        """
        epochs, metrics = self.table["epoch"].nunique(), self.table["metric"].nunique()
        if self.is_identical:
            weights = ", and so are the weights" if self.same_weights else ""
            return f"identical: {metrics} metrics of {epochs} epochs, bit for bit{weights}"
        other = self.table[~self.table["same"]]
        lines = []
        if len(other):
            first = other.iloc[0]
            lines.append(
                f"differs, first in epoch {first['epoch']}: {first['metric']} recorded"
                f" {first['recorded'] or 'nowhere'}, repeated {first['repeated'] or 'nowhere'}"
            )
            worst = other.loc[other["difference"].idxmax()]
            lines.append(
                f"{len(other)} of {len(self.table)} values differ, by up to"
                f" {worst['difference']:.2g} ({worst['metric']}, epoch {worst['epoch']})"
            )
        if self.same_weights is not None:
            lines.append(f"the weights are {'the same' if self.same_weights else 'different'}")
        return "\n".join([*lines, self._reason(differences)])

    def _reason(self, differences: Sequence[str]) -> str:
        by_epoch = self.table.groupby("epoch")["same"].all()
        recovered = not by_epoch.all() and bool(by_epoch.loc[by_epoch.idxmin() :].any())
        if recovered or (self.same_weights and not differences):
            return (
                "training itself was the same, as what comes after shows: these values were changed"
                " after the run"
            )
        if differences:
            return f"this may be why: {'; '.join(differences)}"
        return (
            "code, data, settings, threads, versions and machine are the same: the run's record was"
            " changed, or something that is not recorded differs"
        )


def compare(
    recorded: Values, repeated: Values, epochs: int | None, same_weights: bool | None = None
) -> Comparison:
    """Compare the values of the first `epochs`, or all; one that only one has differs, too."""
    keys = {key for key in (*recorded, *repeated) if not epochs or key[1] <= epochs}
    rows = []
    for name, epoch in sorted(keys, key=lambda key: (key[1], key[0])):
        before, now = recorded.get((name, epoch), set()), repeated.get((name, epoch), set())
        apart = [abs(one - other) for one in before for other in now if one != other]
        rows.append(
            {
                "epoch": epoch,
                "metric": name,
                "recorded": _shown(before),
                "repeated": _shown(now),
                "difference": max(apart, default=0.0),
                "same": before == now,
            }
        )
    return Comparison(pd.DataFrame(rows), same_weights)


def _shown(values: set[float]) -> str:
    """Values with all their digits; several if there is more than one."""
    return " and ".join(map(repr, sorted(values)))


def same_states(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
