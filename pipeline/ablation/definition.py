"""What an ablation states: a network, its variants, their words, the data and the recipe."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pipeline.config import check_choice
from pipeline.data.augmentation import NO_AUGMENTATION, Augmentation
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError

MOST_VARIANTS = 8  # that a reader can tell apart by colour and marker
# Names become parts of runs' names and aliases of models. MLflow reserves some aliases.
NAME = re.compile(r"(?!(?:auto|latest|champion|v\d+)$)[A-Za-z0-9_][\w-]{0,63}", re.ASCII)

Value = str | int | float | bool | None
Settings = Mapping[str, Value]
Part = Callable[..., Any]


def adam(
    parameters: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Adam in its fastest form, whose steps a CUDA graph can capture."""
    on_gpu = parameters[0].is_cuda
    return torch.optim.Adam(
        parameters, lr, weight_decay=weight_decay, fused=True, capturable=on_gpu
    )


@dataclass(frozen=True)
class Ablation:
    """A question about changes of a network, or of its training, and what answers it.

    Each setting of a variant reaches every part (network, criterion, optimizer, schedule,
    augmentation) that has a parameter of its name; if there is none, those with `**settings`.

    network: builds a variant's network: images in, float `[N, C, H, W]` from -1 to 1; logits out,
    `[N, num_classes]`. Its parameters `num_classes` and `in_channels` are set to fit the data.
    variants: the settings of each, by name. The first is the baseline.
    datasets: functions that return the data, by name; called with `data_dir` if they take it. The
    first is the default.
    compared: the variants that a study trains by default; empty means all.
    words: how sentences call a setting that is on or off, or each value of any other one:
    `{"mixup": "mixup", "order": {"pre": "pre-activation", "post": "post-activation"}}`.
    comparisons: which variants to compare: `(treatment, control)`, or
    `(treatment, control, "what the treatment does")`. Empty means what follows from the settings.
    criterion: builds the training loss, a mean over a batch. Validation always measures
    cross-entropy, so that variants with different training losses can be compared.
    optimizer: called with the parameters and `lr`.
    schedule: called with the optimizer and the number of epochs; returns a scheduler of
    `torch.optim.lr_scheduler` that takes a step after each epoch.
    augmentation: builds the `Augmentation` of the training images; None leaves them as they are.
    name: ends the names of registered models; by default the name of the file.

    Raises InputError if this does not fit together.
    """

    network: Part
    variants: Mapping[str, Settings]
    datasets: Mapping[str, Callable[..., ImageDataset]]
    compared: Sequence[str] = ()
    words: Mapping[str, str | Mapping[Value, str]] = field(default_factory=dict)
    comparisons: Sequence[tuple[str, ...]] = ()
    criterion: Part = nn.CrossEntropyLoss
    optimizer: Part = adam
    schedule: Part | None = None
    augmentation: Part | None = Augmentation
    name: str = ""

    def __post_init__(self) -> None:
        for part in (*self.parts, *self.datasets.values()):
            if isinstance(part, nn.Module) or not callable(part):
                kind = type(part).__name__
                raise InputError(f"a {kind} is given where a class or a function is expected")
        _check_names("variant", self.variants)
        _check_names("data set", self.datasets)
        if self.name:
            _check_names("ablation", [self.name])
        if len(self.variants) > MOST_VARIANTS:
            raise InputError(
                f"there are {len(self.variants)} variants; a reader can tell apart {MOST_VARIANTS}"
                " at most: make several ablations"
            )
        for variant, settings in self.variants.items():
            for name, value in settings.items():
                self._check_setting(variant, name, value)
        self._check_different()
        for name in self.words:
            if name not in self.setting_names:
                raise InputError(f"words has {name!r}, which is not a setting of any variant")
        for variant in (*self.compared, *(name for one in self.comparisons for name in one[:2])):
            check_choice("variant", variant, tuple(self.variants))
        for one in self.comparisons:
            if not (2 <= len(one) <= 3 and one[0] != one[1]):
                raise InputError(
                    f"comparison {one!r} must be of two different variants, and may have words"
                )

    def _check_setting(self, variant: str, name: str, value: object) -> None:
        where = f"variant {variant!r}: setting {name!r}"
        if name == "lr":
            raise InputError(f"{where} is a parameter of its own: give lr to train or ablate")
        if not isinstance(value, Value):
            raise InputError(
                f"{where} is {value!r}; it must be a text, a number, True, False or None, which can"
                " be recorded"
            )
        if not any(self._takes(part, name) for part in self.parts):
            raise InputError(
                f"{where} is taken by nothing: neither network nor criterion, optimizer, schedule"
                " or augmentation has a parameter of that name"
            )

    def _check_different(self) -> None:
        known: dict[tuple[tuple[str, Value], ...], str] = {}
        for variant in self.variants:
            other = known.setdefault(tuple(self.values(variant).items()), variant)
            if other != variant:
                raise InputError(f"variants {other!r} and {variant!r} have the same settings")

    @property
    def parts(self) -> list[Part]:
        """What takes settings."""
        optional = (self.schedule, self.augmentation)
        return [self.network, self.criterion, self.optimizer, *filter(None, optional)]

    @cached_property
    def setting_names(self) -> list[str]:
        """The settings of all variants, in the order in which they are first named."""
        return list(dict.fromkeys(n for settings in self.variants.values() for n in settings))

    def values(self, variant: str) -> dict[str, Value]:
        """All settings of a variant; one that it leaves out has the default of what takes it."""
        return {
            name: self.variants[variant].get(name, self._default(name))
            for name in self.setting_names
        }

    def _default(self, name: str) -> Value:
        for part in self.parts:
            parameter = inspect.signature(part).parameters.get(name)
            if parameter and parameter.default is not inspect.Parameter.empty:
                value: Value = parameter.default
                return value
        return None

    def augmentation_of(self, variant: str) -> Augmentation:
        """The augmentation of a variant's training images."""
        return self.make(self.augmentation, variant) if self.augmentation else NO_AUGMENTATION

    def make(self, part: Part, variant: str, *arguments: Any, **facts: Value) -> Any:
        """Call a part for a variant, with what `arguments` says."""
        return part(*arguments, **self.arguments(part, variant, **facts))

    def arguments(self, part: Part, variant: str, **facts: Value) -> dict[str, Value]:
        """The variant's settings that a part takes, and the `facts` that it has parameters for."""
        taken = {n: v for n, v in self.variants[variant].items() if self._takes(part, n)}
        known = {n: v for n, v in facts.items() if n in inspect.signature(part).parameters}
        return {**known, **taken}

    def _takes(self, part: Part, name: str) -> bool:
        if any(name in inspect.signature(other).parameters for other in self.parts):
            return name in inspect.signature(part).parameters
        kinds = {parameter.kind for parameter in inspect.signature(part).parameters.values()}
        return inspect.Parameter.VAR_KEYWORD in kinds


def _check_names(what: str, names: Iterable[str]) -> None:
    if not names:
        raise InputError(f"there is no {what}; name at least one")
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(
                f"{what} {name!r} can't be called so; a name has up to 64 letters, digits, - and _,"
                " and is not auto, champion, latest or v1 (reserved for models)"
            )
