"""The difference between two variants, in words."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.ablation.definition import Ablation, Value

Difference = dict[str, tuple[Value, Value]]  # by setting: the control's value, the treatment's


class Change(NamedTuple):
    """A setting that differs: what the treatment has for it, and what the control has instead."""

    setting: str  # for readers
    gained: str  # empty if it is turned off
    lost: str = ""  # empty if it is turned on

    @property
    def instead(self) -> str:
        """What the control has, after the words `instead of`: `32`, if the other is `width 64`."""
        return self.lost.removeprefix(f"{self.setting} ")

    @property
    def words(self) -> str:
        """As the subject of a sentence: `mixup`, `removing mixup`, `width 64 instead of 32`."""
        if not self.gained:
            return f"removing {self.lost}"
        return f"{self.gained} instead of {self.instead}" if self.lost else self.gained

    @property
    def effect(self) -> str:
        """Its effect: `mixup's effect`, `the effect of width 64 instead of 32`."""
        plain = not self.lost and self.gained[-1].isalpha() and not self.gained.endswith("s")
        return f"{self.gained}'s effect" if plain else f"the effect of {self.words}"


class Wording:
    """The words of an ablation. values: the settings of each variant."""

    def __init__(self, ablation: Ablation) -> None:
        self.words, self.settings = ablation.words, ablation.setting_names
        self.values = {variant: ablation.values(variant) for variant in ablation.variants}
        self.baseline = next(iter(self.values.values()))

    def description(self, variant: str) -> str:
        """What a variant is, by the settings in which variants differ: `mixup and width 64`.

        `without mixup or width` if it has none of them; empty if variants differ in none.
        """
        present = self.values[variant]
        names = [
            name
            for name in self.settings
            if any(values[name] != self.baseline[name] for values in self.values.values())
        ]
        having = [
            self._noun(name, present[name]) for name in names if not self._off(name, present[name])
        ]
        if having or not names:
            return listed(having) if having else ""
        return f"without {listed(map(self._name, names), 'or')}"

    def difference(self, control: str, treatment: str) -> Difference:
        """The settings that differ, with both values."""
        old, new = self.values[control], self.values[treatment]
        return {name: (old[name], new[name]) for name in self.settings if old[name] != new[name]}

    def changes(self, control: str, treatment: str) -> tuple[Change, ...]:
        """The settings that differ, in words."""
        found = []
        for name, (old, new) in self.difference(control, treatment).items():
            gained, lost = self._noun(name, new), self._noun(name, old)
            if self._off(name, old) > self._off(name, new):
                lost = ""
            elif self._off(name, new) > self._off(name, old):
                gained, lost = "", self._name(name)
            found.append(Change(self._name(name), gained, lost))
        return tuple(found)

    def told_apart(self, controls: Sequence[str], changes: Sequence[Difference]) -> list[set[str]]:
        """The settings that tell each change from the same one of controls that have more."""
        contexts = [
            {
                (name, value)
                for name, value in self.values[control].items()
                if value != self.baseline[name] and name not in change
            }
            for control, change in zip(controls, changes, strict=True)
        ]
        return [
            {
                name
                for same, more in zip(changes, contexts, strict=True)
                if same == change and more > own
                for name, _ in more
            }
            for change, own in zip(changes, contexts, strict=True)
        ]

    def subject(self, control: str, treatment: str, told: Iterable[str]) -> str:
        """Say what changes, with what both variants have beyond the baseline.

        told: settings to mention in any case.
        """
        changes = self.changes(control, treatment)
        gained = [change.gained for change in changes if change.gained]
        lost = [change.lost for change in changes if change.lost]
        if len(changes) == 1:
            words = changes[0].words
        elif gained and lost:
            words = f"{_joined(gained)} instead of {listed(lost)}"
        elif lost:
            words = f"removing {listed(lost)}"
        else:
            words = _joined(gained) if len(gained) == 2 else f"{listed(gained)} together"
        changed, present = self.difference(control, treatment), self.values[control]
        context = [
            name
            for name in self.settings
            if name not in changed and (present[name] != self.baseline[name] or name in told)
        ]
        having = [name for name in context if not self._off(name, present[name])]
        lacking = [self._name(name) for name in context if name not in having]
        present_link, absent_link = "with", "without"
        if not gained:  # "removing A without B" could be read in two ways
            present_link, absent_link = "while keeping", "in the absence of"
        elif not lost and all(self._can_be_off(name) for name in having):
            present_link = "on top of"
        if having:
            nouns = listed(self._noun(name, present[name]) for name in having)
            words += f" {present_link} {nouns}"
        if lacking:
            words += f"{' but' * bool(having)} {absent_link} {listed(lacking, 'or')}"
        return words

    def _noun(self, setting: str, value: Value) -> str:
        """Name a setting at a value: `mixup`, `width 64`."""
        words, name = self.words.get(setting, {}), self._name(setting)
        if not isinstance(words, str) and value in words:
            return words[value]
        if value is True or (isinstance(words, str) and self._levels(setting) == [value]):
            return name
        return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"

    def _name(self, setting: str) -> str:
        """Name a setting: by the only value that it can have, if that is what has a word."""
        words, levels = self.words.get(setting, {}), self._levels(setting)
        if isinstance(words, str):
            return words
        known = [words[level] for level in levels if level in words]
        return known[0] if len(known) == len(levels) == 1 else setting.replace("_", " ")

    def _levels(self, setting: str) -> list[Value]:
        """The values at which a setting is on."""
        found = dict.fromkeys(values[setting] for values in self.values.values())
        return [value for value in found if not self._off(setting, value)]

    def _can_be_off(self, setting: str) -> bool:
        return any(self._off(setting, values[setting]) for values in self.values.values())

    def _off(self, setting: str, value: Value) -> bool:
        """Whether a setting is off: False, None or 0, unless words call that something."""
        words = self.words.get(setting, {})
        return not value and (isinstance(words, str) or value not in words)


def listed(nouns: Iterable[str], conjunction: str = "and") -> str:
    """List nouns: `A, B and C`."""
    *others, last = nouns
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _joined(nouns: Sequence[str]) -> str:
    """Join nouns so that the verb is in the singular: `A with B and C`."""
    return f"{nouns[0]} with {listed(nouns[1:])}" if len(nouns) > 1 else nouns[0]
