"""A study of networks, which this project trains."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config, yes_or_no
from pipeline.errors import RegistrationError, percent, plural
from pipeline.execution.engine import NONE
from pipeline.execution.parallelism import job_memory
from pipeline.execution.tasks import Engine, NetworkTask
from pipeline.report.analysis import analyse
from pipeline.report.findings import NetworkAnalysis
from pipeline.report.publish import Published, publish_study
from pipeline.runs.plan import Plan
from pipeline.runs.provenance import log_ablation, log_dataset, log_inputs
from pipeline.runs.record import RunRecord, StudyRecord
from pipeline.statistics.intervals import Design
from pipeline.study.forecast import Forecast, in_words, make_forecast
from pipeline.study.grid import Grid
from pipeline.study.registration import register_models
from pipeline.study.reuse import Begun, Reusable, earlier_plans, find_cells
from pipeline.study.spec import StudySpec
from pipeline.training.device import choose_device


@dataclass(frozen=True)
class Networks:
    """What `Subject` asks, of networks."""

    spec: StudySpec
    verb: str = "train"
    outcome: str = "validation accuracy"

    @property
    def grid(self) -> Grid:
        """Which runs."""
        return self.spec.grid

    @property
    def engine(self) -> Engine:
        """Where they are trained."""
        return self.spec.engine

    @property
    def name(self) -> str:
        """The study's, as given."""
        return self.spec.name

    @property
    def register(self) -> str:
        """Which models are registered."""
        return self.spec.register

    @property
    def title(self) -> str:
        """The name of the study's run."""
        return self.spec.title

    @property
    def cells(self) -> Sequence[Config]:
        """Its runs, in running order."""
        return self.spec.cells

    @property
    def memory(self) -> int:
        """The bytes of memory that a run takes."""
        return job_memory(self.spec.data.nbytes)

    @property
    def record(self) -> StudyRecord:
        """What it says of itself when it begins."""
        return self.spec.record

    @property
    def settings(self) -> dict[str, object]:
        """The shared settings, the axes of its runs, and how they are run."""
        spec, grid = self.spec, self.grid
        shared = spec.run.config.as_dict()
        for axis in ("variant", "seed", "lr"):
            del shared[axis]
        axes = {"variants": grid.variants, "seeds": grid.seeds, "lr": grid.rates}
        lists = {axis: ",".join(map(str, values)) for axis, values in axes.items()}
        auto = {"seeds": "auto", "margin": grid.margin, "stop_early": yes_or_no(grid.stop_early)}
        choices = {"name": spec.name, "register": spec.register, "reuse": spec.reuse}
        choices |= {"keep_state": yes_or_no(spec.keep_state), "value": grid.value}
        choices["max_seeds"] = str(grid.most)
        where = {**spec.where._asdict(), "jobs": spec.where.jobs or "auto"}
        return {**shared, **lists, **(auto if grid.margin else {}), **choices, **where}

    def log(self) -> None:
        """Store data, code and inputs with the active run."""
        spec = self.spec
        log_dataset(spec.data)
        log_ablation(spec.ablation)
        log_inputs({one: inputs_of(spec.ablation.source, one) for one in spec.grid.variants})

    def find(self, experiment_id: str, study_id: str = "") -> Reusable:
        """Find which runs there are already."""
        return find_cells(self.spec, experiment_id, study_id)

    def forecast(self, finished: Mapping[Config, RunRecord], *, is_preview: bool) -> Forecast:
        """Estimate how long runs take, by a few steps if there is nothing else.

        A study does not take them on a GPU, of which a process that waits for its jobs would hold
        hundreds of MB; the first epoch takes seconds there.
        """
        device = torch.device("cpu")
        if is_preview:  # what trains here, or would if a cluster has the same
            is_here = self.spec.where.cluster == NONE
            device = torch.device(self.engine.device) if is_here else choose_device(AUTO)
        return make_forecast(self.spec, finished, device)

    def describe_variants(self, forecast: Forecast) -> Iterator[str]:
        """Say how large each variant is, and how long a run of it takes."""
        for cell in self.cells[: len(self.grid.variants)]:
            network = self.spec.run.changed(variant=cell.variant).network()
            parameters = sum(parameter.numel() for parameter in network.parameters())
            alone = forecast.seconds_of(cell)
            time_of_run = "" if alone is None else f", {in_words(alone)} a run"
            yield f"  {cell.variant}: {plural(parameters, 'parameter')}{time_of_run}"

    def describe_cell(self, cell: Config) -> str:
        """Nothing more: its name says it."""
        return ""

    def task(self, cell: Config, threads: int, begun: Begun | None) -> NetworkTask:
        """A network to train."""
        start = begun.record if begun and begun.is_start else None
        continued = begun.record if begun and not begun.is_start else None
        return NetworkTask(cell, threads, continued, start, self.spec.keep_state)

    def describe_result(self, made: RunRecord) -> str:
        """Say what a network has reached."""
        accuracy = percent(made.history[-1].val_accuracy)
        return f"validation accuracy {accuracy}, {made.seconds:.0f} s"

    def earlier_plans(self) -> list[Plan]:
        """The plans with which runs of its cells were reported, the oldest first."""
        return earlier_plans(self.spec)

    def register_models(
        self, results: Sequence[RunRecord], study_id: str
    ) -> tuple[list[RunRecord], RegistrationError | None]:
        """Register models, until one is refused."""
        return register_models(results, self.spec, study_id)

    def analyse(self, results: Sequence[RunRecord], design: Design) -> NetworkAnalysis:
        """Compare the variants."""
        return analyse(self.spec.ablation, results, design, self.grid.value)

    def publish(
        self,
        results: Sequence[RunRecord],
        design: Design,
        failures: Mapping[str, str],
        facts: Mapping[str, str],
    ) -> Published:
        """Log the report to the active run."""
        plan = replace(self.grid.plan, follows=design.follows)
        return publish_study(self.analyse(results, design), failures, facts, plan)
