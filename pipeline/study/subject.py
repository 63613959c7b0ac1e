"""What a study is about: networks that this project trains, or somebody's program.

A study knows neither: it asks for what is to be made, what there is already, and what came of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pipeline.config import Config
from pipeline.errors import RegistrationError
from pipeline.execution.tasks import Engine, Made, Task
from pipeline.report.publish import Published
from pipeline.report.runs_analysis import AnyAnalysis
from pipeline.runs.plan import Plan
from pipeline.runs.record import StudyRecord
from pipeline.statistics.intervals import Design
from pipeline.study.forecast import Forecast
from pipeline.study.grid import Grid
from pipeline.study.reuse import Begun, Reusable


class Subject(Protocol):
    """What makes a study's runs."""

    @property
    def verb(self) -> str:
        """What is done with a cell: train, or run."""

    @property
    def outcome(self) -> str:
        """What variants are compared by, in words."""

    @property
    def grid(self) -> Grid:
        """Which runs."""

    @property
    def engine(self) -> Engine:
        """Where they are made."""

    @property
    def name(self) -> str:
        """The study's, as given; it may be `auto`."""

    @property
    def register(self) -> str:
        """Which models are registered: a key of `grid.REGISTER`."""

    @property
    def title(self) -> str:
        """The name of the study's run: as given, or what tells it from others."""

    @property
    def cells(self) -> Sequence[Config]:
        """Its runs, in running order."""

    @property
    def memory(self) -> int:
        """The bytes of memory that a run takes; 0 if that is not known."""

    @property
    def settings(self) -> dict[str, object]:
        """The parameters of the study's run."""

    @property
    def record(self) -> StudyRecord:
        """What it says of itself when it begins."""

    def log(self) -> None:
        """Store what the runs are made of with the active run."""

    def find(self, experiment_id: str, study_id: str = "") -> Reusable:
        """Find which runs there are already. study_id: of the study's run, if it has begun."""

    def forecast(self, finished: Mapping[Config, Made], *, is_preview: bool) -> Forecast:
        """Estimate how long runs take."""

    def describe_variants(self, forecast: Forecast) -> Iterator[str]:
        """Say what each variant is, for a preview."""

    def describe_cell(self, cell: Config) -> str:
        """What there is to say of a run that is to be made, for a preview; begins with a sign."""

    def task(self, cell: Config, threads: int, begun: Begun | None) -> Task:
        """What makes a run; `begun` is one of its cell that it goes on from."""

    def describe_result(self, made: Made) -> str:
        """Say what came of a run: `validation accuracy 50.1 %, 12 s`."""

    def earlier_plans(self) -> list[Plan]:
        """The plans with which runs of its cells were reported, reused or not, the oldest first."""

    def register_models(
        self, results: Sequence[Made], study_id: str
    ) -> tuple[Sequence[Made], RegistrationError | None]:
        """Register models, until one is refused."""

    def analyse(self, results: Sequence[Made], design: Design) -> AnyAnalysis:
        """Compare the variants."""

    def publish(
        self,
        results: Sequence[Made],
        design: Design,
        failures: Mapping[str, str],
        facts: Mapping[str, str],
    ) -> Published:
        """Log the report to the active run."""
