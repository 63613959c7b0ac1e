"""A study before it begins: what it is to train, and with what."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.ablation.definition import Ablation
from pipeline.ablation.inputs import digest_of
from pipeline.ablation.recording import inputs_of
from pipeline.config import AUTO, Config
from pipeline.data.dataset import ImageDataset
from pipeline.execution.engine import NONE, Where
from pipeline.execution.tasks import Engine
from pipeline.models.registry import check_may_register
from pipeline.models.trial.variants import try_variants
from pipeline.runs import provenance
from pipeline.runs.identity import Identity
from pipeline.runs.record import StudyRecord
from pipeline.runs.resolve import specify
from pipeline.study.grid import Grid
from pipeline.training.spec import RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StudySpec:
    """What a study trains: every cell of the grid; other settings are those of `run`.

    run: one of its runs, as it would be trained in this process. engine: what trains them, and on
    which device. register, reuse: keys of `grid.REGISTER`, one of `grid.REUSE`.
    """

    run: RunSpec
    grid: Grid
    where: Where
    engine: Engine
    name: str
    register: str
    reuse: str
    keep_state: bool

    @property
    def ablation(self) -> Ablation:
        """What is compared."""
        return self.run.ablation

    @property
    def data(self) -> ImageDataset:
        """What all runs are trained on."""
        return self.run.data

    @property
    def title(self) -> str:
        """The name of its run: as given, or what tells it from others."""
        if self.name != AUTO:
            return self.name
        return self.grid.title(self.ablation.name, self.run.config)

    @cached_property
    def cells(self) -> Sequence[Config]:
        """The configurations of its runs, in running order."""
        return self.grid.cells(self.run.config)

    @cached_property
    def identity(self) -> Identity:
        """What all its runs have in common, with the variant, seed and rate of one of them."""
        here = provenance.identity_of(self.run)
        return replace(here, device=self.engine.device, precision=self.engine.precision)

    def identity_of(self, cell: Config) -> Identity:
        """The identity of one of its runs."""
        return replace(self.identity, variant=cell.variant, seed=cell.seed, lr=cell.lr)

    @property
    def record(self) -> StudyRecord:
        """What it says of itself when it begins."""
        inputs = [inputs_of(self.ablation.source, variant) for variant in self.grid.variants]
        return StudyRecord(
            run_id="",
            study=self.name,
            ablation=self.ablation.name,
            dataset=self.data.name,
            plan=self.grid.plan,
            recipe=self.identity.recipe,
            code_digest=self.identity.code_digest,
            data_digest=self.data.digest,
            images=self.data.description,
            inputs_digest=digest_of(*inputs),
            jobs_chosen=self.engine.jobs.reason,
            reuse=self.reuse,
        )


def prepare_study(
    config: Config,
    ablation: Ablation,
    grid: Grid,
    where: Where,
    *,
    name: str = AUTO,
    register: str = "none",
    reuse: str = "same",
    keep_state: bool = False,
) -> StudySpec:
    """Load the data, try every variant, and choose what trains them; nothing is stored.

    config: with names of variant and data set.

    Raises InputError if a variant can't be trained, or if the cluster can't be used.
    """
    # What trains the runs of a cluster may not be here.
    here = config if where.cluster == NONE else replace(config, device="cpu")
    run = replace(specify(here, ablation), config=config)
    log.info(f"ablation {ablation.name} on {run.data.heading}")
    if register != "none":
        check_may_register(ablation, run.data, "give register=none")
    try_variants(run, grid.variants)
    count = len(grid.variants) * len(grid.seeds) * len(grid.rates)
    engine = where.engine(run, count)
    return StudySpec(run, grid, where, engine, name, register, reuse, keep_state)
