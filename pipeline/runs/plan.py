"""How a study comes to its seeds: decided before its first run, and recorded with it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from pipeline.errors import InputError

MAX_CHARACTERS = 8000  # in a tag; MLflow truncates longer ones
LAST = "last"  # which value of a run counts, unless the plan says otherwise


@dataclass(frozen=True)
class Plan:
    """What a report was to contain, whatever the order. Make it with `of`.

    margin: in `unit`; if above 0, only as many of the seeds are used as it needs. chosen_later: no
    study planned these runs; they were chosen for a comparison. value: which value of a run counts.
    stop_early: whether a margin may be given up once the question is answered. most: the seeds that
    there could ever be; 0 in plans that do not say so. Studies that differ in it alone have the
    same plan; the oldest one counts. follows: its report came after others, on some of its runs.
    """

    variants: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    margin: float = 0.0
    chosen_later: bool = False
    unit: str = "points"
    value: str = LAST
    stop_early: bool = False
    most: int = field(default=0, compare=False)
    follows: bool = field(default=False, compare=False)

    @staticmethod
    def of(
        variants: Iterable[str],
        rates: Iterable[float],
        seeds: Iterable[int],
        margin: float = 0.0,
        chosen_later: bool = False,
        unit: str = "points",
        value: str = LAST,
        stop_early: bool = False,
        most: int = 0,
        follows: bool = False,
    ) -> "Plan":
        """Return the plan of these variants, learning rates and seeds."""
        return Plan(
            tuple(sorted(map(str, variants))),
            tuple(sorted(map(float, rates))),
            tuple(sorted(map(int, seeds))),
            float(margin),
            bool(chosen_later),
            str(unit),
            str(value),
            bool(stop_early),
            int(most),
            bool(follows),
        )

    def for_comparison(self) -> "Plan":
        """The same runs, chosen later."""
        return replace(self, chosen_later=True)

    @property
    def words(self) -> str:
        """What is trained, and how it comes to its seeds."""
        seeds = f"seeds {','.join(map(str, self.seeds))}"
        if self.margin:
            most = len(self.seeds)
            margin = f"{self.margin:g} {self.unit}".rstrip()
            early = ", or until the question is answered" if self.stop_early else ""
            seeds = f"seeds auto, margin {margin}{early}, at most {most} of each"
        rates = f" at lr {','.join(f'{rate:g}' for rate in self.rates)}" if self.rates else ""
        counted = f", value {self.value}" if self.value != LAST else ""
        by = ", by compare" if self.chosen_later else ""
        return f"{','.join(self.variants)}{rates}, {seeds}{counted}{by}"

    def has_all_of(self, other: "Plan") -> bool:
        """Whether every variant, learning rate and seed of another plan is in this one."""
        return all(
            set(getattr(other, axis)) <= set(getattr(self, axis))
            for axis in ("variants", "rates", "seeds")
        )

    def as_json(self) -> str:
        """The plan as JSON. Raises InputError if it is too long for a tag."""
        text = json.dumps(asdict(self))
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                f"seeds and lr take {len(text)} characters, over the limit of {MAX_CHARACTERS};"
                " split the study"
            )
        return text

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Return what `as_json` gave. Raises ValueError for anything else."""
        try:
            return Plan.of(**json.loads(text))
        except (TypeError, ValueError):
            raise ValueError(f"{text[:40]!r} is no plan") from None
