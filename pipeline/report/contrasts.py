"""Which variants are compared, and in which words: what follows from an ablation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.ablation.definition import Ablation
from pipeline.ablation.wording import Wording


@dataclass(frozen=True)
class Contrast:
    """Variants whose sum, minus that of others, is an effect: of a change, or an interaction.

    treatment, control: a variant each; for an interaction, two each, whose difference counts.
    subject: of the sentence about it. own_name: the metric's, if it is not made of the variants.
    effect: what an interaction is about, such as `mixup's effect`. singular: whether the subject is
    a setting with its value, such as `model trees`, whatever letter that ends in.
    """

    treatment: tuple[str, ...]
    control: tuple[str, ...]
    subject: str
    own_name: str = ""
    effect: str = ""
    singular: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that it takes."""
        return self.treatment + self.control

    @property
    def signs(self) -> tuple[int, ...]:
        """What each of `variants` is multiplied by before they are added up."""
        return (1, -1, -1, 1) if self.effect else (1, -1)

    @property
    def words(self) -> str:
        """What it is about: `mixup on top of se`, `width 64 on mixup's effect`."""
        return f"{self.subject} on {self.effect}" if self.effect else self.subject

    @property
    def sides(self) -> tuple[str, str]:
        """Treatment and control for readers: `wide`, or `(both − wide)` of an interaction."""
        treatment, control = (
            f"({' − '.join(side)})" if self.effect else side[0]
            for side in (self.treatment, self.control)
        )
        return treatment, control

    @property
    def label(self) -> str:
        """The label for readers: `wide − plain`."""
        return " − ".join(self.sides)

    @property
    def name(self) -> str:
        """The metric's name: `wide_vs_plain`."""
        return self.own_name or "_vs_".join(self.sides)


def contrasts(ablation: Ablation) -> list[Contrast]:
    """The comparisons that an ablation names, or else those that follow from its settings."""
    return contrasts_of(Wording.of(ablation), ablation.comparisons)


def contrasts_of(wording: Wording, comparisons: Sequence[tuple[str, ...]] = ()) -> list[Contrast]:
    """The `comparisons` that are named, or else those that follow from the variants' settings.

    The latter are: each variant with the baseline, and with each earlier one that differs from it
    in one setting and has the baseline's value of that; then the interaction of each complete 2x2
    design.
    """
    names, pairs = list(wording.values), []
    own_words = {(one[0], one[1]): "".join(one[2:]) for one in comparisons}
    for place, treatment in enumerate(names):
        for control in reversed(names[:place]):
            changed = wording.difference(control, treatment)
            from_baseline = [wording.baseline[name] == old for name, (old, _) in changed.items()]
            if from_baseline == [True] or control == names[0]:
                pairs.append((treatment, control))
    pairs = list(own_words) or pairs
    subjects = wording.subjects([(control, treatment, treatment) for treatment, control in pairs])
    made = [
        Contrast((treatment,), (control,), own_words.get((treatment, control)) or subject)
        for (treatment, control), subject in zip(pairs, subjects, strict=True)
    ]
    return made if own_words else [*made, *_interactions(wording)]


def _interactions(wording: Wording) -> list[Contrast]:
    """How a change alters the effect of another: the one that the earlier variant makes."""
    squares = _squares(wording)
    subjects = wording.subjects([(neither, one, both) for neither, one, _, both in squares])
    return [
        Contrast(
            (both, one),
            (other, neither),
            subject,
            "interaction" if len(squares) == 1 else f"interaction_{one}_{other}",
            wording.effect(neither, other),
        )
        for (neither, one, other, both), subject in zip(squares, subjects, strict=True)
    ]


def _squares(wording: Wording) -> list[tuple[str, str, str, str]]:
    """The complete 2x2 designs: without both changes, with either, and with both."""
    values, baseline = wording.values, wording.baseline
    by_values = {frozenset(found.items()): variant for variant, found in values.items()}
    squares = []
    for one, other in combinations(values, 2):
        changed = wording.difference(other, one)
        mine = [name for name, (old, _) in changed.items() if old == baseline[name]]
        theirs = [name for name, (_, new) in changed.items() if new == baseline[name]]
        if (len(mine), len(theirs), len(changed)) != (1, 1, 2):
            continue
        (first,), (second,) = mine, theirs
        neither = by_values.get(frozenset({**values[one], first: baseline[first]}.items()))
        both = by_values.get(frozenset({**values[one], second: values[other][second]}.items()))
        if neither and both:
            squares.append((neither, one, other, both))
    return squares
