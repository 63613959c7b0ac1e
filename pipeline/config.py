"""The settings of a training run, as they were typed, checked once.

Imports neither torch nor MLflow: a wrong value is reported before they load.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from pipeline.errors import InputError, shortlist, shown

AUTO = "auto"
APPLICATION = "mlflow-ablation"  # also the folder of what runs keep outside the store
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")
# test: on the `train=False` split, as in the tutorial. holdout: on a tenth of the training split.
VALIDATIONS = ("test", "holdout")
# What becomes of a run's model: nothing, a version in the registry, or also the variant's alias.
REGISTRATIONS = ("none", "model", "alias")
YES_OR_NO = ("yes", "no")
MAX_SEED = 2**32 - 1  # a larger one is read as two words, which may be a smaller one's stream
MAX_COUNT = 10**9  # of epochs, images and the like; torch and timedelta overflow at larger numbers
MAX_CHOICES = 12  # in a message: there are as many as an ablation's file names
MAX_NAME = 250  # characters in a run's name in MLflow's databases


@dataclass(frozen=True)
class Config:
    """What was typed; it may say `auto`. What it comes to is a `training.spec.RunSpec`.

    ablation: a file or module, which says what `variant` and `dataset` may be (`ablation.loading`).

    Raises InputError, naming the setting and its options.
    """

    ablation: str = AUTO
    variant: str = AUTO
    dataset: str = AUTO
    data_dir: str = "auto"
    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.001
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    train_images: int = 0
    validation: str = "test"
    holdout_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ablation", "variant", "dataset", "data_dir"):
            object.__setattr__(self, name, text_of(name, getattr(self, name)))
        check_choice("device", self.device, DEVICES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("validation", self.validation, VALIDATIONS)
        check_at_least("epochs", self.epochs, 1)
        check_at_least("batch_size", self.batch_size, 1)
        check_seed("seed", self.seed)
        check_seed("holdout_seed", self.holdout_seed)
        if self.holdout_seed and self.validation != "holdout":
            raise InputError(
                f"holdout_seed is {self.holdout_seed}, and nothing is held out; give"
                " validation=holdout, too"
            )
        check_at_least("train_images", self.train_images, 0)
        if self.validation == "holdout" and self.train_images == 1:
            raise InputError("train_images is 1; a hold-out split takes at least 2 (0 takes all)")
        lr = check_number("lr", self.lr)
        if not (math.isfinite(lr) and lr > 0):
            raise InputError(f"lr is {lr}; it must be a finite number above 0, such as 0.001")
        # Python code may give numbers of NumPy, which JSON can't hold.
        for name in ("epochs", "batch_size", "seed", "train_images", "holdout_seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "lr", lr)

    @property
    def run_name(self) -> str:
        """Name of the MLflow run: variant, seed, and a learning rate other than the default."""
        name = f"{self.variant}-seed{self.seed}"
        return name if self.lr == Config.lr else f"{name}-lr{self.lr:g}"

    def as_dict(self) -> dict[str, str | int | float]:
        """Every setting by name."""
        return asdict(self)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        guess = get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {guess[0]}?" if guess else ""
        listed = shortlist(choices, MAX_CHOICES)
        raise InputError(f"unknown {name} {shown(value)}; it must be one of {listed}{hint}")


def text_of(name: str, value: object) -> str:
    """Return a text or a path as text. Raises InputError unless every database can hold that."""
    text = str(value) if isinstance(value, PurePath) else value
    check_text(name, text)
    return str(text)


def as_list(given: Any) -> list[Any] | None:
    """The values of a list, an array or a column of a table; None for a single value."""
    if isinstance(given, str | bytes | PurePath | Mapping):
        return None
    try:
        return list(given)
    except TypeError:
        return None


def texts_of(name: str, given: object) -> list[str]:
    """Return one text or path, or several, as texts. Raises InputError for anything else."""
    values = as_list(given)
    return [text_of(name, one) for one in ([given] if values is None else values)]


def check_text(name: str, value: object) -> None:
    """Raise InputError unless `value` is text that every database and file system can hold."""
    try:
        storable = isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:  # non-UTF-8 bytes arrive as surrogates
        storable = False
    if not storable:
        raise InputError(f"{name} is {shown(value)}; it must be UTF-8 text without NUL")


def yes_or_no(choice: bool) -> str:
    """A choice as it is typed."""
    return YES_OR_NO[0] if choice else YES_OR_NO[1]


def check_seed(name: str, seed: int) -> None:
    """Raise InputError unless `seed` is a whole number from 0 to MAX_SEED."""
    check_at_least(name, seed, 0, MAX_SEED)


def check_number(name: str, value: object) -> float:
    """Return a number. Raises InputError for anything else, such as text."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; it must be a number")
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def check_at_least(name: str, value: object, least: int, most: int = MAX_COUNT) -> None:
    """Raise InputError unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {shown(value)}; it must be a whole number of at least {least}")
    if int(value) > most:
        raise InputError(f"{name} is {shown(value)}; it must be at most {most}")


def height_and_width(name: str, size: object) -> tuple[int, int]:
    """Return a size of images in pixels: that of a square, or (height, width).

    Raises InputError, which calls the size `name`, for what is no size.
    """
    pair = size if isinstance(size, tuple | list) else (size, size)
    whole = all(isinstance(one, Integral) and not isinstance(one, bool) for one in pair)
    if len(pair) != 2 or not whole or min(pair) < 1:
        raise InputError(
            f"{name} is {shown(size)}; it must be a number of pixels, such as 32, or two, (height,"
            " width)"
        )
    height, width = map(int, pair)
    return height, width
