"""What runs are compared by: a metric that they log, and how it is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import as_list, check_choice, check_number, text_of
from pipeline.errors import InputError, shown

BETTER = ("higher", "lower")
# Which of a run's values of the metric counts; or a step's, or the mean of the last ones (mean5).
VALUES = ("last", "max", "min")
MOST = 1e30  # of a scale or margin: what is shown is a number even if outcomes are as large
# The largest magnitude of the numbers that are compared; beyond, their intervals may overflow.
SMALLEST, LARGEST = 1e-250, 1e250
MAX_STEP = 2**63 - 1


@dataclass(frozen=True)
class Outcome:
    """A metric to compare: `Outcome("test_rmse", better="lower")`.

    metric: its name in MLflow, or a column of a table.
    better: higher, lower, or empty if neither is.
    unit, scale: what it is shown in, and how many of these 1 is: an accuracy of 1 is 100 points.
    margin: differences up to this one, in `unit`, are as good as none; None if that is not known.
    value: which value of a run counts: the one of the `last` step, the mean of the last ones
    (`mean5`: of five), the `max` or the `min` of all steps, or that of a step, by its number.

    Raises InputError for anything else.
    """

    metric: str
    better: str = ""
    unit: str = ""
    scale: float = 1.0
    margin: float | None = None
    value: str | int = "last"

    def __post_init__(self) -> None:
        metric = text_of("outcome", self.metric).strip()
        if not metric:
            raise InputError("outcome is empty; it must be a metric's name, such as val_accuracy")
        object.__setattr__(self, "metric", metric)
        if self.better != "":
            check_choice("better", self.better, BETTER)
        object.__setattr__(self, "unit", " ".join(text_of("unit", self.unit).split()))
        for name, given in (("scale", self.scale), ("margin", self.margin)):
            if given is not None or name == "scale":
                number = check_number(name, given)
                if not 0 < number <= MOST:
                    raise InputError(
                        f"{name} is {shown(given)}; it must be a number above 0, up to {MOST:g}"
                    )
                object.__setattr__(self, name, number)
        object.__setattr__(self, "value", _value_of(self.value))

    @property
    def words(self) -> str:
        """Which value of a run counts, in words."""
        if isinstance(self.value, int):
            return f"the value of step {self.value}"
        if count := mean_of(self.value):
            return f"the mean of the last {count} steps"
        words = {"last": "the value of the last step", "max": "the highest", "min": "the lowest"}
        return f"{words[self.value]}{' value of all steps' * (self.value != 'last')}"


def mean_of(value: str | int) -> int:
    """Of how many last steps the mean counts: 5 for `mean5`; 0 for other values."""
    found = re.fullmatch("mean([2-9]|[1-9][0-9]{1,5})", str(value))
    return int(found[1]) if found else 0


def _value_of(given: Any) -> str | int:
    """Read which value counts. Raises InputError."""
    if isinstance(given, str) and (given in VALUES or mean_of(given)):
        return given
    try:
        step = int(given)
        exact = isinstance(given, str) or (given == step and not isinstance(given, bool))
        if exact and abs(step) <= MAX_STEP:
            return step
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(
        f"value is {shown(given)}; it must be last, the mean of the last steps (mean5), max, min,"
        " or the number of a step"
    )


def value_of_networks(given: Any, epochs: int, validation: str) -> str:
    """Read which value of a network's run counts: last, or mean5. Raises InputError.

    No other does: the best epoch would be chosen by what is reported.
    """
    text = str(given).strip()
    count = mean_of(text)
    if text != "last" and not count:
        raise InputError(
            f"value is {shown(given)}; it must be last, or mean5, the mean over the last 5 epochs"
        )
    if count > epochs:
        raise InputError(f"value is {text}, and a run has {epochs} epochs; take the mean of fewer")
    if count and validation == "holdout":
        raise InputError(
            f"value is {text}, and with validation=holdout the test images are read once, after"
            " the last epoch; give value=last"
        )
    return text


def outcomes_of(
    given: Any,
    better: Any = "",
    unit: str = "",
    scale: float = 1.0,
    margin: Any = None,
    value: Any = "last",
) -> list[Outcome]:
    """Read outcomes: a metric's name, several with commas, an `Outcome`, or a list of these.

    better: one word for all, or one for each. The other values are those of the primary outcome;
    `value` is that of all. Raises InputError.
    """
    listed = as_list(given)
    every = [given] if listed is None else listed
    if isinstance(given, str):
        every = [part for part in given.split(",") if part.strip()]
    if not every:
        raise InputError("outcome is empty; it must be a metric's name, such as val_accuracy")
    words = as_list(better)
    if words is None:
        words = [part.strip() for part in text_of("better", better).split(",")]
    if len(words) not in (1, len(every)):
        raise InputError(f"better has {len(words)} words, but there are {len(every)} outcomes")
    words = words * len(every) if len(words) == 1 else words
    typed = better or unit or scale != 1 or margin is not None or value != "last"
    outcomes = []
    for place, (one, word) in enumerate(zip(every, words, strict=True)):
        if isinstance(one, Outcome):
            if typed:
                raise InputError("an Outcome says itself what is better, its unit and value")
            outcomes.append(one)
            continue
        own = {"unit": unit, "scale": scale, "margin": margin} if place == 0 else {}
        outcomes.append(Outcome(one, word, value=value, **own))
    check_different(outcomes)
    return outcomes


def check_different(outcomes: Sequence[Outcome]) -> None:
    """Raise InputError if a metric is named twice."""
    names = [one.metric for one in outcomes]
    if len(set(names)) < len(names):
        raise InputError(f"outcome is {shown(names)}; name each metric once")
