"""A study's runs of a program: begin one, find those that there are, read what they measured."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import mlflow

from pipeline.ablation.definition import Ablation
from pipeline.config import Config
from pipeline.errors import InputError, MachineError
from pipeline.outcome import Outcome
from pipeline.runs.histories import Measured, read_histories
from pipeline.runs.programs.inputs import program_inputs, program_statement
from pipeline.runs.programs.run import run_program
from pipeline.runs.queries import KINDS, STATUSES, find_program_runs, read_record
from pipeline.runs.record import ProgramRecord, StudyRecord, to_tags
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import KIND, PARENT_TAG, pack

# Two runs that log one data set at the same moment: MLflow looks for it, and then adds it.
SAME_DATA = re.compile("(unique constraint|duplicate).*dataset", re.IGNORECASE)
SAME_DATA_NOTE = "run twice: MLflow refused a data set that another run logged at the same moment"


def program_digest(ablation: Ablation, variants: Sequence[str]) -> str:
    """sha256 (hex) of the code and packages of a program's variants.

    Other files that it names may be its results, which it writes meanwhile.
    """
    found = [program_inputs(ablation, variant) for variant in variants]
    code = [[{name: one.files[name] for name in one.certain}, one.packages] for one in found]
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def run_cell(
    ablation: Ablation, cell: Config, study: StudyRecord, threads: int
) -> tuple[ProgramRecord, Sequence[str]]:
    """Run a program as a child of a study's run; return its record, and notes.

    Raises InputError if the program has changed since the study began, and MachineError if it
    fails, diverges or measures nothing.
    """
    if program_digest(ablation, study.plan.variants) != study.code_digest:
        raise InputError("the program has changed since the study began; start the study again")
    run = partial(
        run_program,
        ablation,
        cell.variant,
        cell.seed,
        name=cell.run_name,
        tags={**tags_of(ablation, cell), PARENT_TAG: study.run_id},
        experiment_id=study.experiment_id,
        threads=threads,
    )
    done = run()
    if SAME_DATA.search(done.failure):
        done = run()
        done = replace(done, notes=(*done.notes, SAME_DATA_NOTE))
    if done.failure:
        raise MachineError(done.failure)
    if done.diverged:
        shown = ", ".join(f"{name} is {done.values[name]}" for name in done.diverged)
        raise MachineError(f"it has diverged: {shown}")
    return read_record(ProgramRecord, in_store(mlflow.get_run)(done.run_id)), done.notes


def tags_of(ablation: Ablation, cell: Config) -> dict[str, str]:
    """The tags of a program's run. Raises InputError if they are too long."""
    record = ProgramRecord(
        run_id="",
        ablation=ablation.name,
        variant=cell.variant,
        seed=cell.seed,
        settings=dict(ablation.variants[cell.variant]),
        statement=json.dumps(program_statement(ablation)),
    )
    # The seed as a tag of its own, by which people and `compare` can find pairs.
    packed = pack({KIND: KINDS[ProgramRecord], **to_tags(record)})
    return {**packed, "seed": str(cell.seed)}


def tries_of(cell: Config, study: StudyRecord) -> list[ProgramRecord]:
    """The runs of a study's cell, however they ended, the newest first."""
    tags = {PARENT_TAG: study.run_id, "variant": cell.variant, "seed": str(cell.seed)}
    return find_program_runs(study.experiment_id, tags, *STATUSES).records


def read_measured(
    records: Sequence[ProgramRecord], outcomes: Sequence[Outcome]
) -> dict[str, dict[str, Measured]]:
    """What each run has measured, by its id and by metric."""
    places = {one.run_id: one.measured_in for one in records}
    found: dict[str, dict[str, Measured]] = {one.run_id: {} for one in records}
    for outcome in outcomes:
        known = read_histories(list(places.values()), outcome)
        if again := [run_id for run_id, place in places.items() if known[place].value is None]:
            known |= {places[o]: m for o, m in read_histories(again, outcome).items()}
        for run_id, place in places.items():
            found[run_id][outcome.metric] = known[place]
    return found


def is_measured(measured: Mapping[str, Measured]) -> bool:
    """Whether all outcomes are numbers."""
    return all(m.value is not None and math.isfinite(m.value) for m in measured.values())
