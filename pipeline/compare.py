"""Compare finished runs, however they were started, after checking that they can be compared."""

import json
from collections import defaultdict
from collections.abc import Sequence

from mlflow.entities import Run

from pipeline import finished, tracking
from pipeline.analysis import analyse
from pipeline.config import VARIANTS
from pipeline.errors import InputError
from pipeline.publish import publish
from pipeline.results import RunResult, differences, recipe

Finished = tuple[Run, RunResult]


def compare_runs(run_ids: Sequence[str], experiment: str) -> None:
    """Write the report of a study on the given runs, or on all training runs of the experiment.

    Runs can be compared if they have the same recipe and data. The largest group that can be is
    taken; the others are listed with what differs. Of runs of the same cell the newest counts.

    Raises InputError for an unknown run or experiment, and if nothing can be compared.
    """
    experiment_id = finished.experiment_id(experiment)
    found = finished.find_results([experiment_id])
    if run_ids:
        by_id = {run.info.run_id: (run, result) for run, result in found}
        for run_id in run_ids:
            if run_id not in by_id:
                raise InputError(
                    f"{run_id!r} is not the id of a finished training run in experiment"
                    f" {experiment!r}; it is on the run's page, 32 characters long"
                )
        found = [by_id[run_id] for run_id in run_ids]
    if not found:
        raise InputError(f"experiment {experiment!r} has no finished training run to compare")
    results, unused = comparable(found)
    analysis = analyse(results)
    if not analysis.headline:
        reasons = "; ".join(f"{run}: {reason}" for run, reason in list(unused.items())[:3])
        variants = ", ".join(sorted({result.config.run_name for result in results}))
        raise InputError(
            "nothing to compare: it takes two variants with the same recipe, seed and learning"
            f" rate; the largest group has {variants}" + (f" ({reasons})" if reasons else "")
        )
    settings = {"runs": ",".join(run_ids) or "all", "experiment": experiment}
    with tracking.track("comparison", settings, {"kind": "comparison"}, experiment_id):
        publish(analysis, unused, {})


def comparable(found: Sequence[Finished]) -> tuple[list[RunResult], dict[str, str]]:
    """Split runs into the largest group that can be compared and the rest, with its reasons.

    Largest by variants, then by runs; of equal ones the newest.
    """
    groups: dict[str, list[Finished]] = defaultdict(list)
    for run, result in found:
        groups[json.dumps(recipe(result.config, result.tags))].append((run, result))
    shared = max(
        groups,
        key=lambda key: (
            len({result.config.variant for _, result in groups[key]}),
            len(groups[key]),
            max(run.info.start_time for run, _ in groups[key]),
        ),
    )
    unused = {}
    newest: dict[tuple[str, int, float], RunResult] = {}
    for run, result in sorted(found, key=lambda one: -one[0].info.start_time):
        name = f"{result.config.run_name} ({run.info.run_id[:8]})"
        own = recipe(result.config, result.tags)
        cell = (result.config.variant, result.config.seed, result.config.lr)
        if own != json.loads(shared):
            unused[name] = differences(own, json.loads(shared))
        elif cell in newest:
            unused[name] = f"repeated by run {newest[cell].run_id[:8]}"
        else:
            newest[cell] = result
    order = list(VARIANTS)
    ordered = sorted(newest.items(), key=lambda one: (one[0][1:], order.index(one[0][0])))
    return [result for _, result in ordered], unused
