"""What is compared, and how its numbers are shown to readers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Beyond these, numbers are shown as 1.2e−12 or 3.4e10.
MAX_DECIMALS = 8
MAX_PLAIN = 1e9
MAX_DIGITS = 16  # after the first one: a double has no more


@dataclass(frozen=True)
class OutcomeMeasure:
    """A metric to compare, in words: `OutcomeMeasure("validation accuracy", "points", 100)`."""

    name: str  # as used in a sentence
    unit: str = ""  # in the plural; empty for a bare number
    scale: float = 1.0  # `unit`s per 1 of the metric: an accuracy of 1 is 100 points
    decimals: int = 1  # shown in `unit`; `decimals_for` chooses them, and may go below 0
    # The smallest worth settling, above 0, in the metric's own unit; None if nobody can say.
    effect_of_interest: float | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)  # what it can be in one run

    @property
    def label(self) -> str:
        """The name for a heading or an axis: without an article."""
        return self.name.removeprefix("the ")

    def show(self, *numbers: float, sign: bool = False, extra: int = 0) -> str:
        """Format numbers for readers, all alike: `49.5`, or `1.2 to 3.4`; without the unit's name.

        numbers: in the metric's own unit. sign: a plus, too. extra: more decimals than `decimals`.
        """
        scaled = [number * self.scale + 0.0 for number in numbers]  # no −0
        places = self.decimals + extra
        form = "+" if sign else "z"  # with a sign, even what rounds to 0 tells on which side it is
        if places > MAX_DECIMALS or max(map(abs, scaled)) >= MAX_PLAIN:
            texts = [_scientific(number, places, form) for number in scaled]
        else:
            texts = [f"{number:{form},.{max(places, 0)}f}" for number in scaled]
        return " to ".join(texts).replace("-", "−")

    def more_for(self, number: float) -> int:
        """How many more decimals, up to two, show `number` if it would otherwise look like 0."""
        places = (n for n in range(3) if round(number * self.scale, self.decimals + n))
        return next(places, 0)


def decimals_for(*sizes: Iterable[float | None], scale: float = 1.0) -> int:
    """The `decimals` with which the smallest size has two significant digits, in units of `scale`.

    sizes: in the metric's own unit, the best to judge by first: half-lengths of intervals, then
    standard deviations, then means. The first that has a finite number other than 0 counts.
    """
    for some in sizes:
        scaled = [abs(one * scale) for one in some if one is not None]
        known = [one for one in scaled if 0 < one < np.inf]
        if known:
            return 1 - _exponent(min(known))
    return 1


def digits(number: float, form: str) -> str:
    """Format a number for readers: with a minus sign, which is longer than a hyphen."""
    return format(number, form).replace("-", "−")


def _scientific(number: float, places: int, form: str) -> str:
    """`1.2e-12`: as many digits as a plain number with so many places has, but at least one."""
    if number == 0 or not np.isfinite(number):
        return format(number, f"{form}.0f")
    after = max(0, min(MAX_DIGITS, places + _exponent(number)))
    mantissa, _, power = format(number, f"{form}.{after}e").partition("e")
    return f"{mantissa}e{int(power)}"


def _exponent(number: float) -> int:
    """The power of ten of the first of two significant digits: 0 of 0.996, which is 1.0."""
    return int(f"{number:.1e}".partition("e")[2])
