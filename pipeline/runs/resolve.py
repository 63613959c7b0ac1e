"""Resolve what was typed into what decides a run's numbers, once."""

from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import load_ablation, load_data, named
from pipeline.config import Config
from pipeline.machine import usable_threads
from pipeline.training.device import choose_device, choose_precision
from pipeline.training.spec import RunSpec

THREADS = usable_threads()


def resolve(config: Config, ablation: Ablation | None = None) -> RunSpec:
    """Load the ablation, unless it is given, and its data; choose what is left at `auto`.

    Raises InputError if what was typed can't be used here, MachineError if data can't be had.
    """
    ablation = ablation or load_ablation(config.ablation)
    return specify(named(config, ablation), ablation)


def specify(config: Config, ablation: Ablation) -> RunSpec:
    """The same for a configuration that names the data set."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    return RunSpec(config, ablation, load_data(config, ablation), device, precision, THREADS)
