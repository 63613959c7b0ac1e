"""The process of a program that is a function: call it in the run that this process was given."""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

from pipeline.ablation.definition import Ablation
from pipeline.ablation.importing import import_file, look_last
from pipeline.ablation.source import is_module
from pipeline.errors import InputError, printable, shown


def main() -> NoReturn:
    """Call the function of an ablation.

    The arguments are its file or module, the folder of that, the variant, and the seed.
    """
    reference, folder, variant, seed = sys.argv[1:]
    del sys.argv[1:]  # they are not for a function that reads its command's arguments
    ablation = _load(reference, folder)
    program: Any = ablation.program
    import mlflow

    with mlflow.start_run() as run:
        returned = program(dict(ablation.variants[variant]), int(seed))
    try:
        # To the run by its id: it need not be active any more, since autologging may have ended it.
        _log(run.info.run_id, metrics_in(returned))
    except InputError as error:
        sys.exit(f"error: {printable(str(error))}")
    sys.exit()


def _load(reference: str, folder: str) -> Ablation:
    """Load an ablation, by the name by which the processes that a function starts find its code."""
    look_last(folder)
    name = reference if is_module(reference) else Path(reference).stem
    found = PathFinder.find_spec(name)  # another module may have that name
    if is_module(reference) or (found and found.origin == reference):
        module = import_module(name)
    else:
        module = import_file(Path(reference))
    ablation: Ablation = module.ablation
    return ablation


def metrics_in(returned: object) -> dict[str, float]:
    """The metrics that a function has returned. Raises InputError for what is none."""
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise InputError(
            f"the function returned {shown(returned)}; it must be a dictionary of metrics, or None"
        )
    for name, value in returned.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise InputError(
                f"the function returned {shown(value)} as {shown(name)}; a metric has a name and a"
                " number, such as by float(…)"
            )
    return {name: float(value) for name, value in returned.items()}


def _log(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log what was returned, so that it counts as the last value of what was logged already."""
    from mlflow import MlflowClient

    client = MlflowClient()
    logged = client.get_run(run_id).data.metrics
    for name, value in metrics.items():
        before = client.get_metric_history(run_id, name) if name in logged else []
        client.log_metric(run_id, name, value, step=max((one.step for one in before), default=0))
