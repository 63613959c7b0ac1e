"""Which cells of a study need not be trained again, and which can go on from an earlier run."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config
from pipeline.errors import InputError, plural
from pipeline.execution.tasks import Made
from pipeline.runs.identity import CELL, CODE, REUSE, Identity, differences
from pipeline.runs.plan import Plan
from pipeline.runs.provenance import changed_inputs
from pipeline.runs.queries import (
    find_runs,
    find_studies,
    given_run,
    is_readable,
    read_record,
    set_parent,
)
from pipeline.runs.record import RunRecord, StudyRecord, UnreadableRunError
from pipeline.runs.results import IncompleteRunError, read_results
from pipeline.runs.resume import check_ended, why_no_more_epochs
from pipeline.store.artifacts import has_file
from pipeline.store.initialization import unwritable_folder
from pipeline.store.interface import link
from pipeline.store.lookup import find_run
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import kind_of, say_continued
from pipeline.store.uploads import STATE_FILE
from pipeline.study.spec import StudySpec

log = logging.getLogger(__name__)


class Begun(NamedTuple):
    """A run of a cell that has not all its epochs.

    is_start: it is finished with fewer, and a new run goes on from its state; else it is continued.
    """

    record: RunRecord
    is_start: bool

    @property
    def epochs(self) -> int:
        """How many epochs a new run takes over from it."""
        return self.record.identity.epochs if self.is_start else 0


@dataclass
class Reusable:
    """What there is of a study's cells: finished runs, begun ones; and why others are not reused.

    adopted: finished or begun runs of other studies, which this one continues.
    """

    finished: dict[Config, Made] = field(default_factory=dict)
    begun: dict[Config, Begun] = field(default_factory=dict)
    outdated: dict[Config, str] = field(default_factory=dict)
    adopted: list[Made] = field(default_factory=list)


def find_cells(study: StudySpec, experiment_id: str, study_id: str = "") -> Reusable:
    """Find the cells that are finished in the experiment, or that go on from a run there.

    Finished with the same code and inputs (`reuse="same"`) or any; others always with the same:
    runs that such a study has left, and finished ones of fewer epochs. Changes nothing.
    `study_id` is that of the study's run, if it has begun.
    """
    found = Reusable()
    if study.reuse == "none":
        return found
    now = study.identity
    wanted = {study.identity_of(cell).key(REUSE): cell for cell in study.cells}
    tags = {"data_digest": now.data_digest, "precision": now.precision, "device": now.device}
    runs = find_runs(experiment_id, tags, "FINISHED", "FAILED", "KILLED")
    if runs.note:
        log.warning(runs.note)

    @cache  # a request for each study, not for each of its runs
    def is_continued(maker_id: str) -> bool:
        return bool(maker_id) and is_continued_by(study.grid.plan, maker_id, study_id)

    known: dict[tuple[str, ...], str] = {}  # runs of one study have recorded the same

    def changed(record: RunRecord) -> str:
        by = record.identity.variant, record.inputs_digest, *record.identity.key(CODE)
        if by not in known:
            known[by] = changed_since(record, now, study)
        return known[by]

    incomplete: dict[Config, str] = {}
    shorter = defaultdict[Config, list[RunRecord]](list)
    for record in runs.records:
        identity = record.identity
        is_finished = record.status == "FINISHED"
        longer = replace(identity, epochs=max(identity.epochs, now.epochs))
        cell = wanted.get((longer if is_finished else identity).key(REUSE))
        if cell is None or cell in found.finished:
            continue
        if not record.fits(study.ablation.values(cell.variant)):
            continue
        if is_finished and identity.epochs < now.epochs:
            shorter[cell].append(record)
        elif is_finished:
            if study.reuse == "same" and (why := changed(record)):
                found.outdated.setdefault(cell, why)
                continue
            try:
                # The study's own configuration: the run's says where the ablation's file was then.
                whole = replace(read_results(record, whole=True), config=cell, reused=True)
            except IncompleteRunError as error:
                reason = f"{cell.run_name} (run {record.run_id[:8]}): {error}"
                incomplete.setdefault(cell, reason)
                continue
            found.finished[cell] = whole
            found.begun.pop(cell, None)
        elif cell not in found.begun and is_continued(record.parent):
            if folder := unwritable_folder(record.artifact_uri):  # as that of another user
                found.outdated.setdefault(cell, f"{folder} can't be written")
            elif why := changed(record):
                found.outdated.setdefault(cell, why)
            else:
                found.begun[cell] = Begun(record, is_start=False)
    for cell, records in shorter.items():
        if cell not in found.finished and cell not in found.begun:
            start, reason = choose_start(records, changed)
            if start:
                found.begun[cell] = Begun(start, is_start=True)
            else:
                found.outdated.setdefault(cell, reason)
    used = found.finished.keys() | found.begun.keys()
    found.outdated = {cell: why for cell, why in found.outdated.items() if cell not in used}
    if again := [why for cell, why in incomplete.items() if cell not in found.finished]:
        more = f"; and {len(again) - 1} more" if len(again) > 1 else ""
        log.warning(f"finished, but trained again: {again[0]}{more}")
    begun = [one.record for one in found.begun.values() if not one.is_start]
    found.adopted = [
        one
        for one in (*found.finished.values(), *begun)
        if one.parent != study_id and is_continued(one.parent)
    ]
    return found


def adopt(found: Reusable, study: StudyRecord) -> None:
    """Make the runs of studies that this one continues its children."""
    for record in found.adopted:
        set_parent(record.run_id, study.run_id)
    page = f"[{study.name}]({link(study.experiment_id, study.run_id)})"
    for maker in {record.parent for record in found.adopted}:
        if stopped := find_run(maker):
            in_store(say_continued)(stopped, page)
    ours = {record.run_id for record in found.adopted}
    for cell, record in found.finished.items():
        if record.run_id in ours:
            found.finished[cell] = replace(record, parent=study.run_id)


CHANGED = {
    "names_digest": "the names of its classes have changed since",
    "code_digest": "the code has changed since",
}


def changed_since(record: RunRecord, now: Identity, study: StudySpec) -> str:
    """What decides a run's result and has changed since, in one line; empty if nothing has."""
    then = record.identity.only(CODE)
    for name, value in now.only(CODE).items():
        if then[name] != value:
            return CHANGED.get(name, f"{name} {value} instead of {then[name]}")
    variant = record.identity.variant
    return changed_inputs(record, variant, inputs_of(study.ablation.source, variant))


def choose_start(
    shorter: Sequence[RunRecord], changed: Callable[[RunRecord], str]
) -> tuple[RunRecord | None, str]:
    """Return the run with the most epochs from whose state its cell can go on to more.

    If there is none, also returns why. A new run that starts from such a state ends as if it had
    been trained without a break, and the old one stays what it was.

    shorter: finished runs of the cell, with fewer epochs, newest first. changed: says in one line
    what has changed since a run; empty if nothing has.
    """
    reasons = []
    for record in sorted(shorter, key=lambda record: -record.identity.epochs):
        reason = why_no_more_epochs(record) or changed(record)
        if not reason and not has_file(record.artifact_uri, STATE_FILE):
            reason = "kept no state (keep_state=yes would)"
        if not reason:
            return record, ""
        epochs = plural(record.identity.epochs, "epoch")
        reasons.append(f"trained for {epochs}, and {reason}")
    return None, reasons[0]


def earlier_plans(study: StudySpec) -> list[Plan]:
    """The plans with which runs of its cells were reported, reused or not, the oldest first.

    The same cell trained again gives the same numbers, or nearly: the look at it counts, in
    whatever experiment it was.
    """
    wanted = {study.identity_of(cell).key(CELL) for cell in study.cells}
    runs = find_runs(None, {"data_digest": study.data.digest})
    reported = [one for one in reversed(runs.records) if one.identity.key(CELL) in wanted]
    return list(dict.fromkeys(one.reported_with for one in reported if one.reported_with))


def given_study() -> StudyRecord | None:
    """Return the study that `mlflow run --run-id` names. Raises InputError for any other run."""
    run = given_run()
    if run is None:
        return None
    wrong = f"run {run.info.run_id} can't be continued as a study"
    if kind_of(run) != "study":
        raise InputError(f"{wrong}: it is none; leave --run-id out to start one")
    check_ended(run)
    try:
        return read_record(StudyRecord, run)
    except UnreadableRunError as error:
        raise InputError(f"{wrong}: {error}; leave --run-id out to start one") from None


def check_same_recipe(name: str, recipe: Mapping[str, object], plan: Plan) -> None:
    """Raise InputError if a study of that name has another recipe, or counts another value.

    `auto` is not a name.
    """
    if name == AUTO:
        return
    studies = find_studies()
    if studies.note:
        log.warning(studies.note)
    now = {**recipe, "value": plan.value}
    for record in studies.records:
        then = {**record.recipe, "value": record.plan.value}
        if record.study == name and then != now:
            raise InputError(
                f"a study named {name!r} exists with {differences(then, now)}; give this one"
                " another name"
            )


def is_continued_by(plan: Plan, maker_id: str, study_id: str) -> bool:
    """Whether the study that made a run is this one, or is continued by it.

    It is continued if deleted, or if it was stopped or failed and this one has all its cells.
    """
    maker = find_run(maker_id)
    if maker is None or maker_id == study_id:
        return True
    if maker.info.status not in ("FAILED", "KILLED") or not is_readable(maker, StudyRecord):
        return False
    return plan.has_all_of(read_record(StudyRecord, maker).plan)
