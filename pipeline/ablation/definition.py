"""What an ablation states: a network or a program, its variants, and their words.

Imports no torch until a network needs it: what runs a program does without.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.data.dataset import ImageDataset
    from pipeline.outcome import Outcome

Value = str | int | float | bool | None
Settings = Mapping[str, Value]
Fact = Value | tuple[int, int]
Arguments = Mapping[str, Fact]  # what a part is called with
Part = Callable[..., Any]

# What nobody has given, unlike None, which says that there is none. It is the same object in every
# process.
USUAL: Any = ...


def adam(
    parameters: "Sequence[nn.Parameter]", lr: float, weight_decay: float = 0.0
) -> "torch.optim.Optimizer":
    """Adam in its fastest form, whose steps a CUDA graph can capture; on MPS in its plain one."""
    import torch

    kind = parameters[0].device.type
    return torch.optim.Adam(
        parameters, lr, weight_decay=weight_decay, fused=kind != "mps", capturable=kind == "cuda"
    )


@dataclass(frozen=True)
class Ablation:
    """A question about changes of a network, of its training, or of a program, and what answers it.

    Exactly one of `network`, `program` and `project` says what a variant's settings change. For a
    network, each setting reaches every part (network, criterion, optimizer, schedule, augmentation)
    that has a parameter of its name; if there is none, those with `**settings`.

    network: builds a variant's network: images in, float `[N, C, H, W]` from -1 to 1; logits out,
    `[N, num_classes]`. In training it may return several outputs, the logits first or as `logits`,
    if the criterion takes them. Its parameters `num_classes`, `in_channels` and `image_size` (the
    side of square images, or their height and width) are set to fit the data.
    variants: the settings of each, by name. The first is the baseline.
    datasets: functions that return the data, by name; called with `data_dir` if they take it. The
    first is the default.
    compared: the variants that a study trains by default; empty means all.
    words: how sentences call a setting that is on or off, or each value of any other one:
    `{"mixup": "mixup", "order": {"pre": "pre-activation", "post": "post-activation"}}`.
    comparisons: which variants to compare: `(treatment, control)`, or
    `(treatment, control, "what the treatment does")`. Empty means what follows from the settings.
    criterion: builds the training loss, a module that returns the mean over a batch. Its parameters
    are trained too. Validation always measures cross-entropy, so that variants with different
    training losses can be compared.
    optimizer: called with the parameters and `lr`.
    schedule: called with the optimizer and the number of epochs; returns a scheduler of
    `torch.optim.lr_scheduler` that takes a step after each epoch, or after each batch if the
    schedule has a parameter `steps_per_epoch`; or None for a variant that has no schedule.
    ReduceLROnPlateau follows the validation loss.
    augmentation: builds the `Augmentation` of the training images; None leaves them as they are.
    program: a command, as text or as a list of its arguments, in which `{name}` stands for the
    variant's setting of that name and `{seed}` for the seed; or a function of the settings, a
    dictionary, and the seed, which may return its metrics. It runs in the folder of the ablation's
    file, and logs to the MLflow run that it is given (docs/any-program.md).
    project, entry_point: a folder with an MLproject, relative to the ablation's file, and which of
    its entry points to run. Settings and seed are its parameters.
    outcome: the metric of a program that variants are compared by, or several, the first of which
    is the primary one.
    adopt: if a program logs the outcome to a run of its own, take it from there.
    name: ends the names of registered models; by default the name of the file.
    source, source_digest: what it was loaded from, and the sha256 (hex) of what that code computes;
    `loading` sets them.

    `checks` says whether this fits together.
    """

    network: Part = USUAL
    variants: Mapping[str, Settings] = field(default_factory=dict)
    datasets: "Mapping[str, Callable[..., ImageDataset]]" = field(default_factory=dict)
    compared: Sequence[str] = ()
    words: Mapping[str, str | Mapping[Value, str]] = field(default_factory=dict)
    comparisons: Sequence[tuple[str, ...]] = ()
    criterion: Part = USUAL
    optimizer: Part = USUAL
    schedule: Part | None = None
    augmentation: Part | None = USUAL
    name: str = ""
    program: str | Sequence[str] | Callable[..., Any] = field(default="", kw_only=True)
    project: str = field(default="", kw_only=True)
    entry_point: str = field(default="main", kw_only=True)
    outcome: "Outcome | Sequence[Outcome]" = field(default=(), kw_only=True)
    adopt: bool = field(default=False, kw_only=True)
    source: str = field(default="", kw_only=True)
    source_digest: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.is_program:
            return
        from torch import nn

        from pipeline.data.augmentation import Augmentation

        usual = {"criterion": nn.CrossEntropyLoss, "optimizer": adam, "augmentation": Augmentation}
        for name, part in usual.items():
            if getattr(self, name) is USUAL:
                object.__setattr__(self, name, part)

    @property
    def is_program(self) -> bool:
        """Whether it is about somebody's program, which trains as it likes, and not a network."""
        return self.network is USUAL

    @property
    def outcomes(self) -> "tuple[Outcome, ...]":
        """What a program's variants are compared by, the primary one first."""
        given: Any = self.outcome
        return tuple(given) if isinstance(given, list | tuple) else (given,)

    @property
    def parts(self) -> list[Part]:
        """What takes settings; a program takes them by itself."""
        if self.is_program:
            return []
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

    def make(self, part: Part, variant: str, *arguments: Any, **facts: Fact) -> Any:
        """Call a part for a variant, with what `arguments` says."""
        return part(*arguments, **self.arguments(part, variant, **facts))

    def arguments(self, part: Part, variant: str, **facts: Fact) -> dict[str, Fact]:
        """The variant's settings that a part takes, and the `facts` that it has parameters for."""
        taken = {n: v for n, v in self.variants[variant].items() if self.takes(part, n)}
        known = {n: v for n, v in facts.items() if n in inspect.signature(part).parameters}
        return {**known, **taken}

    def takes(self, part: Part, name: str) -> bool:
        """Whether a part takes a setting: by its name, or by `**` if no other part has it."""
        if any(name in inspect.signature(other).parameters for other in self.parts):
            return name in inspect.signature(part).parameters
        kinds = {parameter.kind for parameter in inspect.signature(part).parameters.values()}
        return inspect.Parameter.VAR_KEYWORD in kinds
