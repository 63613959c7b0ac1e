"""A study of somebody's program, which logs to the runs that it is given."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

import mlflow

from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import Inputs, digest_of
from pipeline.config import AUTO, Config, yes_or_no
from pipeline.errors import RegistrationError, plural, shortlist
from pipeline.execution.engine import Where, program_engine
from pipeline.execution.tasks import Engine, ProgramTask
from pipeline.report.contrasts import contrasts
from pipeline.report.publish import Published, command, publish
from pipeline.report.runs_analysis import (
    EARLY,
    Compared,
    MeasuredRun,
    RunsAnalysis,
    analyse_runs,
)
from pipeline.runs.histories import Measured
from pipeline.runs.plan import Plan
from pipeline.runs.programs.commands import printable_command
from pipeline.runs.programs.inputs import program_inputs, program_statement
from pipeline.runs.programs.study import (
    is_measured,
    program_digest,
    read_measured,
    tags_of,
)
from pipeline.runs.provenance import changed_inputs, log_ablation, log_inputs
from pipeline.runs.queries import find_program_runs
from pipeline.runs.record import ProgramRecord, StudyRecord
from pipeline.statistics.intervals import Design
from pipeline.store.outages.waiting import in_store
from pipeline.study.forecast import Forecast
from pipeline.study.grid import Grid
from pipeline.study.reuse import Begun, Reusable, is_continued_by

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Programs:
    """What `Subject` asks, of a program."""

    ablation: Ablation
    grid: Grid
    where: Where
    engine: Engine
    name: str
    register: str
    reuse: str
    memory: int = 0
    verb: str = "run"
    _measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    _told: list[str] = field(default_factory=list)  # of registered models

    @property
    def title(self) -> str:
        """The name of the study's run: as given, or what tells it from others."""
        seeds = "seeds auto" if self.grid.margin else plural(len(self.grid.seeds), "seed")
        return f"{self.ablation.name}, {seeds}" if self.name == AUTO else self.name

    @property
    def outcome(self) -> str:
        """The primary outcome."""
        return self.ablation.outcomes[0].metric

    @cached_property
    def cells(self) -> Sequence[Config]:
        """Its runs, in running order. Of a program's settings, a `Config` has variant and seed."""
        return self.grid.cells(Config(ablation=self.ablation.source, epochs=1))

    @cached_property
    def inputs(self) -> dict[str, Inputs]:
        """What each variant's numbers depend on."""
        return {one: program_inputs(self.ablation, one) for one in self.grid.variants}

    @property
    def settings(self) -> dict[str, object]:
        """The parameters of the study's run."""
        grid = self.grid
        seeds: dict[str, object] = {"seeds": ",".join(map(str, grid.seeds))}
        if grid.margin:
            early = yes_or_no(grid.stop_early)
            seeds = {"seeds": AUTO, "margin": grid.margin, "stop_early": early}
        seeds["max_seeds"] = grid.most
        return {
            "ablation": self.ablation.source,
            "variants": ",".join(grid.variants),
            **seeds,
            **{"name": self.name, "register": self.register, "reuse": self.reuse},
            **{**self.where._asdict(), "jobs": self.where.jobs or AUTO},
        }

    @property
    def record(self) -> StudyRecord:
        """What it says of itself when it begins."""
        recipe = {
            "ablation": self.ablation.name,
            "program": program_statement(self.ablation),
            "outcome": [[one.metric, one.value] for one in self.ablation.outcomes],
        }
        return StudyRecord(
            run_id="",
            study=self.name,
            ablation=self.ablation.name,
            plan=self.grid.plan,
            recipe=recipe,
            code_digest=program_digest(self.ablation, self.grid.plan.variants),
            inputs_digest=digest_of(*self.inputs.values()),
            jobs_chosen=self.engine.jobs.reason,
            reuse=self.reuse,
        )

    def log(self) -> None:
        """Store the ablation's code and the program's inputs with the active run."""
        log_ablation(self.ablation)
        log_inputs(self.inputs)

    def find(self, experiment_id: str, study_id: str = "") -> Reusable:
        """Find the cells that are finished in the experiment, by the same program and settings."""
        found = Reusable()
        if self.reuse == "none":
            return found
        runs = find_program_runs(experiment_id, {"ablation": self.ablation.name})
        if runs.note:
            log.warning(runs.note)
        wanted = {(cell.variant, cell.seed): cell for cell in self.cells}
        same = [one for one in runs.records if self._is_same(one) and one.exit_status == "0"]
        self._read(same)
        for record in same:
            cell = wanted.get((record.variant, record.seed))
            if cell is None or cell in found.finished:
                continue
            if not is_measured(self._measured[record.run_id]):
                continue
            why = "" if self.reuse == "any" else self._changed(record, same)
            if why:
                found.outdated.setdefault(cell, why)
                continue
            found.finished[cell] = replace(record, reused=True)
        found.outdated = {c: why for c, why in found.outdated.items() if c not in found.finished}
        found.adopted = [
            one
            for one in found.finished.values()
            if one.parent
            and one.parent != study_id
            and is_continued_by(self.grid.plan, one.parent, study_id)
        ]
        return found

    def _is_same(self, record: ProgramRecord) -> bool:
        """Whether a run was that of a variant as it is now."""
        settings = self.ablation.variants.get(record.variant)
        statement = json.dumps(program_statement(self.ablation))
        if settings is None or record.statement != statement:
            return False
        # As text: a program that gets True, 1 or 1.0 is called in different ways.
        then, now = (json.dumps(dict(one), sort_keys=True) for one in (record.settings, settings))
        return then == now

    def _changed(self, record: ProgramRecord, others: Sequence[ProgramRecord]) -> str:
        """What has changed since a run, in one line; `others` are all of the same program."""
        now = self.inputs.get(record.variant)
        return _other_data(record, others) or (
            changed_inputs(record, record.variant, now) if now else ""
        )

    def _read(self, records: Sequence[ProgramRecord]) -> None:
        """Read what runs have measured, each once."""
        new = [one for one in records if one.run_id not in self._measured]
        self._measured.update(read_measured(new, self.ablation.outcomes))

    def forecast(self, finished: Mapping[Config, ProgramRecord], *, is_preview: bool) -> Forecast:
        """How long runs take, by those that are finished."""
        known: dict[str, list[float]] = {}
        for cell, record in finished.items():
            known.setdefault(cell.variant, []).append(record.seconds)
        means = {variant: fmean(seconds) for variant, seconds in known.items()}
        basis = "from those that are finished"
        return Forecast(self.engine.jobs.number, means, basis, "run")

    def describe_variants(self, forecast: Forecast) -> Iterator[str]:
        """Nothing: each run's command says it."""
        yield from ()

    def describe_cell(self, cell: Config) -> str:
        """The command of a run."""
        return f": {printable_command(self.ablation, cell.variant, cell.seed)}"

    def task(self, cell: Config, threads: int, begun: Begun | None) -> ProgramTask:
        """A program to run, anew: whole runs are continued."""
        return ProgramTask(cell, threads)

    def describe_result(self, made: ProgramRecord) -> str:
        """Say what a program has measured."""
        self._read([made])
        primary = self.ablation.outcomes[0]
        value = self._measured[made.run_id][primary.metric].value
        shown = "none" if value is None else f"{value * primary.scale:.6g} {primary.unit}".rstrip()
        return f"{primary.metric} {shown}, {made.seconds:.0f} s"

    def earlier_plans(self) -> list[Plan]:
        """The plans with which runs of its cells were reported, anywhere, the oldest first."""
        wanted = {(cell.variant, cell.seed) for cell in self.cells}
        runs = find_program_runs(None, {"ablation": self.ablation.name})
        found = (
            one.reported_with
            for one in reversed(runs.records)
            if one.reported_with and self._is_same(one) and (one.variant, one.seed) in wanted
        )
        return list(dict.fromkeys(found))

    def register_models(
        self, results: Sequence[ProgramRecord], study_id: str
    ) -> tuple[Sequence[ProgramRecord], RegistrationError | None]:
        """Register the model of each variant's median run, if it has logged one, or of all runs."""
        from pipeline.study.program_models import register_programs

        self._read(results)
        primary = self.ablation.outcomes[0].metric
        values = {one.run_id: self._measured[one.run_id][primary].value or 0.0 for one in results}
        lines, refusal = register_programs(self.ablation, results, values, self.register, study_id)
        self._told.extend(lines)
        return results, refusal

    def analyse(
        self,
        results: Sequence[ProgramRecord],
        design: Design,
        failures: Mapping[str, str] | None = None,
    ) -> RunsAnalysis:
        """Compare the variants, by the seeds that both have."""
        self._read(results)
        chosen = {one.variant for one in results}
        lost = Counter(name.rpartition("-seed")[0] for name in failures or {})
        what = Compared(
            about=self.ablation.name,
            outcomes=self.ablation.outcomes,
            settings={
                variant: self.ablation.values(variant)
                for variant in self.ablation.variants
                if variant in chosen
            },
            contrasts=[one for one in contrasts(self.ablation) if set(one.variants) <= chosen],
            by=("variant",),
            pair=("seed",),
            lost=lost,
            notes=self._notes(results),
        )
        return analyse_runs([self._as_measured(one) for one in results], what, design)

    def _as_measured(self, record: ProgramRecord) -> MeasuredRun:
        measured = self._measured[record.run_id]
        return MeasuredRun(
            name=f"{record.variant}-seed{record.seed}",
            variant=record.variant,
            pair=str(record.seed),
            run_id=record.run_id,
            experiment_id=record.experiment_id,
            values={n: m.value for n, m in measured.items() if m.value is not None},
            curves={n: m.curve for n, m in measured.items()},
            lengths={n: m.length for n, m in measured.items()},
            notes=[m.note for m in measured.values() if m.note],
            stopped=any(name in EARLY for name in record.metrics),
        )

    def _notes(self, results: Sequence[ProgramRecord]) -> list[str]:
        """What is to be said of these runs together."""
        several = [f"{one.variant}-seed{one.seed}" for one in results if len(one.models) > 1]
        notes = []
        if several:
            notes.append(
                f"{shortlist(several, 3)} logged several models: of two fits in one run, metrics"
                " and parameters mix."
            )
        names = {name for one in results for name in one.datasets}
        for name in sorted(names):
            old, new = (
                {
                    one.datasets[name]
                    for one in results
                    if one.reused == is_old and name in one.datasets
                }
                for is_old in (True, False)
            )
            if old and new and old.isdisjoint(new):
                notes.append(
                    f"The data set {name} of the reused runs has another digest than that of the"
                    " others: they may differ in their data; reuse=none runs all again."
                )
        return notes

    def publish(
        self,
        results: Sequence[ProgramRecord],
        design: Design,
        failures: Mapping[str, str],
        facts: Mapping[str, str],
    ) -> Published:
        """Log the report to the active run; each run keeps the plan of its first one."""
        analysis = self.analyse(results, design, failures)
        active = mlflow.active_run()
        assert active
        elsewhere = {
            f"{one.variant}-seed{one.seed}": (one.experiment_id, one.run_id)
            for one in results
            if one.parent != active.info.run_id
        }
        plan = replace(self.grid.plan, follows=design.follows)
        for one in results:
            if one.reported_with is None:
                in_store(mlflow.MlflowClient().set_tag)(one.run_id, "reported_with", plan.as_json())
        primary = self.ablation.outcomes[0]
        better = f", {primary.better} is better" if primary.better else ""
        seeds = len({one.seed for one in results})
        subtitle = (
            f"{primary.metric}{better}: {primary.words}. {plural(len(results), 'run')} with"
            f" {plural(seeds, 'seed')}."
        )
        commands = {
            f"command of {variant}-seed{seed}": printable_command(self.ablation, variant, seed)
            for variant in self.grid.variants
            for seed in self.grid.seeds[:1]
        }
        packages = {n: v for one in self.inputs.values() for n, v in one.packages.items()}
        known = {
            **commands,
            "packages that it imports": ", ".join(f"{n} {v}" for n, v in sorted(packages.items())),
            "time of the runs": f"{sum(one.seconds for one in results):.0f} s, all together",
            "command": command(),
        }
        if self.register != "none" and not self._told:
            facts = {**facts, "registered models": "none: the chosen runs have logged no model"}
        return publish(analysis, subtitle, failures, {**known, **facts}, elsewhere, self._told)


def _other_data(record: ProgramRecord, others: Sequence[ProgramRecord]) -> str:
    """Say so if a newer study's run of the same seed has logged a data set with another digest.

    Within a study, digests may depend on the variant.
    """
    for name, digest in record.datasets.items():
        same_seed = [one for one in others if one.seed == record.seed and name in one.datasets]
        own = {one.datasets[name] for one in same_seed if one.parent == record.parent}
        newest = max(same_seed, key=lambda one: one.started)
        if newest.started > record.started and newest.datasets[name] not in {digest, *own}:
            return f"data set {name} has changed since"
    return ""


def prepare_programs(
    ablation: Ablation, grid: Grid, where: Where, *, name: str, register: str, reuse: str
) -> Programs:
    """Check what a study of a program is to run, and choose where; nothing is stored.

    Raises InputError if the cluster can't be used, or if settings are too long to be recorded.
    """
    count = len(grid.variants) * len(grid.seeds)
    engine = program_engine(where, ablation, grid.variants, count)
    study = Programs(ablation, grid, where, engine, name, register, reuse)
    for cell in study.cells:
        tags_of(ablation, cell)  # which checks their length
    return study
