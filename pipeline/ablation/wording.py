"""Variants, and changes of one setting, in words."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from pipeline.ablation.definition import Ablation, Settings, Value


class Wording:
    """How variants are called that differ in their settings.

    values: all settings of each variant, the baseline first. wording: as `words` of `Ablation`.
    """

    def __init__(
        self,
        values: Mapping[str, Settings],
        wording: Mapping[str, str | Mapping[Value, str]] = MappingProxyType({}),
    ) -> None:
        self.values = values
        self.baseline = next(iter(self.values.values()))
        self._names: dict[str, str] = {}
        self._nouns: dict[str, dict[Value, str]] = {}  # of each value at which a setting is on
        for setting in self.baseline:
            given = wording.get(setting, {})
            words = {} if isinstance(given, str) else given
            name = given if isinstance(given, str) else setting.replace("_", " ")
            every = dict.fromkeys(settings[setting] for settings in self.values.values())
            on = [value for value in every if value or value in words]
            if len(on) == 1:
                name = words.get(on[0], name)
                words = {on[0]: given} if isinstance(given, str) else words
            self._names[setting] = name
            self._nouns[setting] = {value: words.get(value, _at(name, value)) for value in on}

    @staticmethod
    def of(ablation: Ablation) -> "Wording":
        """The wording of an ablation."""
        values = {variant: ablation.values(variant) for variant in ablation.variants}
        return Wording(values, ablation.words)

    def description(self, variant: str) -> str:
        """What a variant is, by the settings in which variants differ: `mixup and width 64`.

        `without mixup or width` if it has none of them; empty if variants differ in none.
        """
        differ = {name for other in self.values for name in self.difference(variant, other)}
        having, lacking = self._having_and_lacking(variant, differ)
        if having:
            return listed(having.values())
        return f"without {listed(lacking, 'or')}" if lacking else ""

    def difference(self, control: str, treatment: str) -> dict[str, tuple[Value, Value]]:
        """The settings that differ, with both values."""
        old, new = self.values[control], self.values[treatment]
        return {name: (old[name], new[name]) for name in old if old[name] != new[name]}

    def change(self, control: str, treatment: str) -> tuple[str, int]:
        """The one setting that differs, and whether it is turned on (1), off (-1) or neither (0).

        `mixup`, `removing mixup`, `width 64 instead of 32`.
        """
        ((setting, (old, new)),) = self.difference(control, treatment).items()
        name, nouns = self._names[setting], self._nouns[setting]
        gained, lost = (nouns.get(value, _at(name, value)) for value in (new, old))
        turned = (new in nouns) - (old in nouns)
        words = {1: gained, -1: f"removing {name}"}
        return words.get(turned, f"{gained} instead of {lost.removeprefix(f'{name} ')}"), turned

    def effect(self, control: str, treatment: str) -> str:
        """The effect of a change: `mixup's effect`, `the effect of width 64 instead of 32`."""
        words, turned = self.change(control, treatment)
        plain = turned == 1 and words[-1].isalpha() and not words.endswith("s")
        return f"{words}'s effect" if plain else f"the effect of {words}"

    def subjects(self, changes: Sequence[tuple[str, str, str]]) -> list[str]:
        """Name each change, with what its control and treatment both have beyond the baseline.

        Then with what tells it from the same change of a control that has more: `mixup without se`.
        changes: a control, a treatment, and another variant if more changes than in the treatment
        are looked at, else the treatment again.
        """
        found = []
        for control, treatment, other in changes:
            looked_at = self.difference(control, other)
            beyond = self.values[control].items() - self.baseline.items()
            context = {(name, value) for name, value in beyond if name not in looked_at}
            found.append((control, treatment, looked_at, context))
        return [
            self._subject(
                control,
                treatment,
                {
                    name
                    for _, _, same, more in found
                    if same == looked_at and more >= context
                    for name, _ in more
                },
            )
            for control, treatment, looked_at, context in found
        ]

    def _subject(self, control: str, treatment: str, context: Collection[str]) -> str:
        if len(self.difference(control, treatment)) != 1:
            return f"going from {control} to {treatment}"
        words, turned = self.change(control, treatment)
        having, lacking = self._having_and_lacking(control, context)
        switches = all(
            any(values[name] not in self._nouns[name] for values in self.values.values())
            for name in having
        )
        present, absent = "on top of" if turned == 1 and switches else "with", "without"
        if turned == -1:  # "removing A without B" could be read in two ways
            present, absent = "while keeping", "in the absence of"
        if having:
            words += f" {present} {listed(having.values())}"
        if lacking:
            words += f"{' but' * bool(having)} {absent} {listed(lacking, 'or')}"
        return words

    def _having_and_lacking(
        self, variant: str, settings: Collection[str]
    ) -> tuple[dict[str, str], list[str]]:
        """Of some settings, the nouns of those that are on in a variant, and the others' names."""
        values = {name: value for name, value in self.values[variant].items() if name in settings}
        having = {n: self._nouns[n][v] for n, v in values.items() if v in self._nouns[n]}
        return having, [self._names[name] for name in values if name not in having]


def listed(nouns: Iterable[str], conjunction: str = "and") -> str:
    """List nouns: `A, B and C`."""
    *others, last = nouns
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _at(name: str, value: Value) -> str:
    """Name a setting at a value: `mixup`, `width 64`."""
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
