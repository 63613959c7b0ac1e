"""Runs that somebody else has tracked, or rows of a table, as what a comparison can use."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from pipeline.config import check_text
from pipeline.errors import InputError, shown
from pipeline.outcome import LARGEST, Outcome
from pipeline.runs.histories import Measured, read_histories
from pipeline.runs.identity import Identity
from pipeline.runs.queries import KINDS, named
from pipeline.runs.record import ProgramRecord, RunRecord
from pipeline.store.liveness import PROCESS, is_alive
from pipeline.store.lookup import MAX_RUNS, datasets_of
from pipeline.store.outages.failures import first_line
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import ADOPTED, EXIT_STATUS, PARENT_TAG, kind_of

# A name of MLflow's: `params.lr`, or "tags.`my fold`".
KEY = re.compile(r"(params|tags)\.(?:`([^`]+)`|\"([^\"]+)\"|([^`\",]+))")
KEYS = re.compile(rf"\s*{KEY.pattern}\s*(?:,|$)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MAX_DIGITS = 300
NOTHING = ("", "none", "null", "nan", "nat", "<na>")  # how a missing value is written, in any case
UNFINISHED = ("RUNNING", "SCHEDULED")
DECIDE = {one.name for one in fields(Identity)}
COMMIT, DATA, SCRIPT = "commit", "data", "script"  # what a run says beside parameters and tags
OF_MLFLOW = "mlflow."  # how the names of its own tags begin
# A metric in a filter, once quoted values are gone.
QUOTED = re.compile("""'[^']*'|"[^"]*\"""")
ABOUT_METRIC = re.compile(r"(?i)\bmetrics?\.")

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Question:
    """What a comparison asks of runs.

    outcomes: the primary one first. by: what tells variants apart, such as `params.model`. pair:
    what makes two runs a pair; none for independent samples. where: MLflow's filter. baseline: of
    the variants, by its value; None for the first in order. planned: how many pairs, or runs of
    each variant, there were to be; 0 if nothing was planned.
    """

    outcomes: Sequence[Outcome]
    by: Sequence[str]
    pair: Sequence[str]
    where: str = ""
    baseline: str | None = None
    planned: int = 0

    def as_dict(self) -> dict[str, object]:
        """All that it asks, as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run, or a row of a table, that may be compared.

    name: for people. problem: why it can't be compared. is_lost: because it has failed, diverged or
    measured nothing, which may depend on its variant. started: in milliseconds since 1970; of rows,
    their place. by, pair: what the keys of a comparison say of it, as text; without those that it
    lacks. others: all its other parameters and tags. settings: of its variant, if a study says so.
    parent: the id of the run that it hangs below. adopted: that of the run to which its program
    has logged the outcome instead, if a study has found that out.
    measured, logged: by metric; names of all metrics. reported_with: the plan of a study's report
    that contains it, as JSON.
    """

    name: str
    run_id: str = ""
    experiment_id: str = ""
    started: int = 0
    problem: str = ""
    is_lost: bool = False
    by: Mapping[str, str] = field(default_factory=dict)
    pair: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""
    adopted: str = ""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    logged: Sequence[str] = ()
    reported_with: str = ""


def keys_of(name: str, texts: Iterable[str]) -> list[str]:
    """Read what `by` or `pair` names: `params.model`, or several with commas.

    Returns them without quotes. Raises InputError.
    """
    found: list[str] = []
    for text in texts:
        place = 0
        while place < len(text) or not text:
            match = KEYS.match(text, place)
            if not match:
                plain = text[place:].partition(",")[0].strip()
                example = f"params.{plain}" if re.fullmatch(r"[\w-]+", plain) else "params.model"
                raise InputError(
                    f"{name} is {shown(text)}; it must be params.NAME or tags.NAME, such as"
                    f" {example}, or several with commas; `…` quotes a name"
                )
            kind, *names = match.groups()
            found.append(f"{kind}.{next(filter(None, names)).strip()}")
            place = match.end()
    return found


def checked_keys(name: str, keys: list[str]) -> list[str]:
    """Return names. Raises InputError if there is none, or one is named twice."""
    if not keys or len(set(keys)) < len(keys):
        raise InputError(f"{name} is {shown(keys)}; name one or more, each once")
    return keys


def search_candidates(
    experiment_id: str, where: str, by: Sequence[str], pair: Sequence[str]
) -> list[Candidate]:
    """Find the runs of an experiment that meet MLflow's filter `where`, deleted ones too.

    Comparisons themselves are left out. Raises InputError if MLflow can't read the filter, or if
    there are more runs than can be compared.
    """
    check_text("where", where)
    runs = _search(experiment_id, where)
    if len(runs) > MAX_RUNS:
        raise InputError(f"over {MAX_RUNS:,} runs; choose some of them with --where")
    return [_candidate(run, by, pair) for run in runs if _kind_of_ours(run) != "comparison"]


@in_store
def _search(experiment_id: str, where: str) -> list[Run]:
    try:
        return list(
            mlflow.search_runs(
                [experiment_id],
                filter_string=where,
                run_view_type=ViewType.ALL,
                max_results=MAX_RUNS + 1,
                output_format="list",
            )
        )
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            reason = first_line(error).removeprefix(f"{error.error_code}: ")  # a server's
            raise InputError(f"where is {shown(where)}: {reason}") from None
        raise


def chooses_by_metric(where: str) -> bool:
    """Whether a filter is about a metric: about what runs have come to, and not how they began."""
    return bool(ABOUT_METRIC.search(QUOTED.sub("", where)))


def measure(candidates: Sequence[Candidate], outcomes: Sequence[Outcome]) -> list[Candidate]:
    """Read what each of the runs has measured; those with a problem keep that."""
    usable = [one for one in candidates if not one.problem]
    places = [run_id for one in usable for run_id in (one.run_id, one.adopted) if run_id]
    known = {one.metric: read_histories(places, one) for one in outcomes}
    primary = outcomes[0].metric
    return [
        one
        if one.problem
        else with_problem(
            replace(one, measured={name: _own_or_adopted(one, f) for name, f in known.items()}),
            primary,
        )
        for one in candidates
    ]


def _own_or_adopted(one: Candidate, found: Mapping[str, Measured]) -> Measured:
    own = found[one.run_id]
    return own if own.length or not one.adopted else found[one.adopted]


def with_problem(one: Candidate, primary: str) -> Candidate:
    """The candidate, with what is wrong with its primary outcome."""
    value, problem = one.measured[primary].value, one.measured[primary].problem
    if value is not None and not abs(value) <= LARGEST:
        problem = f"diverged: its {primary} is {value:g}"
    return replace(one, problem=problem, is_lost=bool(problem))


def _candidate(run: Run, by: Sequence[str], pair: Sequence[str]) -> Candidate:
    tags, info = run.data.tags, run.info
    known = {
        **{f"params.{name}": value for name, value in run.data.params.items()},
        **{f"tags.{name}": value for name, value in tags.items()},
    }
    is_deleted = info.lifecycle_stage == "deleted"
    problem = "was deleted" if is_deleted else ending_problem(_status(run))
    others = {
        name: value
        for name, value in known.items()
        if name not in (*by, *pair) and not name.startswith(f"tags.{OF_MLFLOW}")
    }
    if kind := _kind_of_ours(run):  # with tags of our own, and settings that decide no numbers
        is_network = kind == KINDS[RunRecord]
        others = {
            name: value
            for name, value in others.items()
            if name.startswith("params.")
            and (not is_network or name.removeprefix("params.") in DECIDE)
        }
    elif script := tags.get("mlflow.source.name"):
        others[SCRIPT] = script
    if commit := tags.get("mlflow.source.git.commit"):
        others[COMMIT] = commit
    if data := datasets_of(run):
        others[DATA] = ", ".join(f"{name} {digest}" for name, digest in sorted(data.items()))
    return with_keys(
        Candidate(
            name=named(run),
            run_id=info.run_id,
            experiment_id=str(info.experiment_id),
            started=info.start_time,
            problem=problem,
            is_lost=problem.startswith("did not"),
            others=others,
            settings=_settings(tags.get("settings", "")),
            parent=tags.get(PARENT_TAG, ""),
            adopted=tags.get(ADOPTED, ""),
            logged=tuple(run.data.metrics),
            reported_with=tags.get("reported_with", ""),
        ),
        known,
        by,
        pair,
    )


def _kind_of_ours(run: Run) -> str:
    """What a run of this project is. Other people's runs may have a tag of that name, too."""
    return kind_of(run) if PROCESS in run.data.tags else ""


def _status(run: Run) -> str:
    """How a run has ended. MLflow ends one in the middle of its program, which may be killed."""
    is_of_program = _kind_of_ours(run) == KINDS[ProgramRecord]
    if run.info.status != "FINISHED" or not is_of_program or EXIT_STATUS in run.data.tags:
        return str(run.info.status)
    return "RUNNING" if is_alive(run) else "KILLED"


def ending_problem(status: str) -> str:
    """Why a run with this status can't be compared; empty if it can."""
    if status in UNFINISHED:
        return f"has not ended ({status})"
    return "" if status == "FINISHED" else f"did not end well ({status})"


def _settings(text: str) -> dict[str, str]:
    """What a run of a study says of its variant, by names that no parameter has."""
    with suppress(ValueError):
        settings = json.loads(text)
        if isinstance(settings, dict):
            return {f"settings.{name}": str(value) for name, value in settings.items()}
    return {}


def with_keys(
    one: Candidate, known: Mapping[str, str], by: Sequence[str], pair: Sequence[str]
) -> Candidate:
    """The candidate, with what it says of these keys, and what it lacks as its problem."""
    problem = one.problem
    missing = [key for key in by if not known.get(key, "").strip()]
    missing += [key for key in pair if known.get(key, "").strip().lower() in NOTHING]
    if missing and not problem:
        problem = f"has no {' and no '.join(missing)}"
    return replace(
        one,
        problem=problem,
        by={key: known[key] for key in by if key in known},
        pair={key: known[key] for key in pair if key in known},
    )


def as_values(texts: Iterable[str]) -> dict[str, Value]:
    """What texts mean: numbers if all are numbers, True and False if all are these; else text.

    So `0.1` and `1e-1` are the same, and 9 comes before 10.
    """
    stripped = {text: text.strip() for text in texts}
    numbers = {text: as_number(one) for text, one in stripped.items()}
    if None not in numbers.values():
        return {**numbers}
    if all(one in ("True", "False") for one in stripped.values()):
        return {text: one == "True" for text, one in stripped.items()}
    return {**stripped}


def is_setting(key: str) -> bool:
    """Whether it is a setting by which runs can be told apart; tags may be no more than remarks."""
    return key not in (COMMIT, DATA, SCRIPT) and not key.startswith("tags.")


def alike(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, with what they say of one thing written alike if it means the same: `0.1`.

    That is of `0.1`, `0.10` and `1e-1` the shortest.
    """
    texts = defaultdict[str, set[str]](set)
    for one in candidates:
        for key, text in one.others.items():
            texts[key].add(text)
    written = {}
    for key, some in texts.items():
        values = as_values(some)
        shortest = {values[text]: text for text in sorted(some, key=len, reverse=True)}
        written[key] = {text: shortest[value] for text, value in values.items()}
    return [
        replace(one, others={key: written[key][text] for key, text in one.others.items()})
        for one in candidates
    ]


def mean_the_same(*texts: str | None) -> bool:
    """Whether texts say the same, as `1` and `1.0` do; two missing ones do, too."""
    known = as_values(text for text in texts if text is not None)
    return len({text if text is None else known[text] for text in texts}) < 2


def as_number(text: str) -> int | float | None:
    """What a text without spaces says, if that is a number."""
    if not NUMBER.fullmatch(text) or len(text) > MAX_DIGITS:
        return None
    if text.lstrip("+-").isdigit():
        return int(text)
    number = float(text)
    return None if math.isinf(number) else int(number) if number.is_integer() else number
