"""Compare what a run recorded with what its repetition gives, to the last bit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from pipeline.errors import plural, shortlist
from pipeline.reproduction.record import Values


class ValueComparison(NamedTuple):
    """table: a row for each epoch and metric, with `recorded` values, the `repeated` one, `same`.

    same_weights: whether the trained weights are the same; None if they were not compared.
    others: metrics that only the record has, such as those that somebody logged by hand.
    """

    table: pd.DataFrame
    same_weights: bool | None
    others: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Whether nothing differs."""
        return bool(self.table["same"].all()) and self.same_weights is not False

    def describe(self, differences: Sequence[str]) -> str:
        """Say whether it is identical, or where it differs and what may be why.

        `differences` are those of versions and machine.
        """
        lines = [f"not compared, since training does not log it: {name}" for name in self.others]
        epochs, metrics = self.table["epoch"].nunique(), self.table["metric"].nunique()
        if self.is_identical:
            weights = ", and so are the weights" if self.same_weights else ""
            count = plural(epochs, "epoch")
            return "\n".join(
                [*lines, f"identical: {metrics} metrics of {count}, bit for bit{weights}"]
            )
        different = self.table[~self.table["same"]]
        if len(different):
            first = different.iloc[0]
            lines.append(
                f"differs, first in epoch {first['epoch']}: {first['metric']}"
                f" {first['recorded'] or 'not'} recorded, {first['repeated'] or 'not'} repeated"
            )
            lines.append(f"{len(different)} of {len(self.table)} values differ")
            apart = different["difference"].dropna()
            if len(apart):
                worst = different.loc[apart.idxmax()]
                lines[-1] += (
                    f", by up to {worst['difference']:.2g} ({worst['metric']}, epoch"
                    f" {worst['epoch']})"
                )
        if self.same_weights is not None:
            lines.append(f"the weights are {'the same' if self.same_weights else 'different'}")
        return "\n".join([*lines, self._reason(differences)])

    def _reason(self, differences: Sequence[str]) -> str:
        by_epoch = self.table.groupby("epoch")["same"].all()
        recovered = not by_epoch.all() and bool(by_epoch.loc[by_epoch.idxmin() :].any())
        if recovered or (self.same_weights and not differences):
            return (
                f"training was the same, as {'later epochs' if recovered else 'the weights'} show:"
                " these values were changed after the run"
            )
        if differences:
            return f"this may be why: {shortlist(differences)}"
        return (
            "code, data, settings, threads, versions and machine are the same: the run's record was"
            " changed, or something that is not recorded differs"
        )


def compare_values(
    recorded: Values, repeated: Values, epochs: int, same_weights: bool | None = None
) -> ValueComparison:
    """Compare the values of the first `epochs`; one that is missing in the record differs, too."""
    measured = {name for name, _ in repeated}
    keys = {key for key in (*recorded, *repeated) if key[0] in measured and key[1] <= epochs}
    rows = []
    for name, epoch in sorted(keys, key=lambda key: (key[1], key[0])):
        before, now = recorded.get((name, epoch), set()), repeated.get((name, epoch), set())
        pairs = [(float.fromhex(one), float.fromhex(other)) for one in before for other in now]
        rows.append(
            {
                "epoch": epoch,
                "metric": name,
                "recorded": _shown(before),
                "repeated": _shown(now),
                "difference": max((abs(one - other) for one, other in pairs), default=None),
                "same": before == now,
            }
        )
    others = tuple(sorted({name for name, _ in recorded} - measured))
    return ValueComparison(pd.DataFrame(rows), same_weights, others)


def _shown(values: set[str]) -> str:
    """Values with all their digits; several if there is more than one."""
    return " and ".join(sorted(repr(float.fromhex(value)) for value in values))


def same_states(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        (one[name].shape, one[name].dtype) == (other[name].shape, other[name].dtype)
        and one[name].numpy().tobytes() == other[name].numpy().tobytes()
        for name in one
    )
