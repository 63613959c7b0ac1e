"""Which variants are compared, and in which words."""

from typing import NamedTuple


class Pair(NamedTuple):
    """Two variants to compare, and what the first has that the second lacks."""

    treatment: str
    control: str
    subject: str
    own_name: str = ""

    @property
    def name(self) -> str:
        """The metric's name: `bn_vs_base`."""
        return self.own_name or f"{self.treatment}_vs_{self.control}"

    @property
    def label(self) -> str:
        """The label for readers: `bn − base`."""
        return f"{self.treatment} − {self.control}"


COMPARISONS = (
    Pair("bn", "base", "BatchNorm"),
    Pair("dropout", "bn", "Dropout on top of BatchNorm"),
    Pair("dropout", "base", "BatchNorm with Dropout"),
    Pair("base_dropout", "base", "Dropout without BatchNorm"),
)
# How BatchNorm changes the effect of dropout.
INTERACTION = Pair("(dropout − bn)", "(base_dropout − base)", "BatchNorm", "interaction")
TWO_BY_TWO = ("base", "bn", "base_dropout", "dropout")
