"""Register the models that programs have logged."""

from collections.abc import Mapping, Sequence

import mlflow

from pipeline.ablation.definition import Ablation
from pipeline.errors import RegistrationError
from pipeline.models.registry import refused_as, register_version
from pipeline.runs.record import ProgramRecord
from pipeline.store.outages.waiting import in_store


def register_programs(
    ablation: Ablation,
    results: Sequence[ProgramRecord],
    values: Mapping[str, float],
    which: str,
    study_id: str,
) -> tuple[list[str], RegistrationError | None]:
    """Register the model of each variant's median run, and point the variant's alias at it.

    Of all runs if `which` is `all`. values: of the primary outcome, by run. Runs without a logged
    model have none to register. Returns a line for each model, and what the store has refused,
    which ends it.
    """
    lines = list[str]()
    if which == "none":
        return lines, None
    try:
        for variant in ablation.variants:
            runs = [one for one in results if one.variant == variant]
            runs.sort(key=lambda one: values[one.run_id])
            median = runs[(len(runs) - 1) // 2] if runs else None
            for one in runs:
                if one.models and (which == "all" or one is median):
                    version = _register(ablation, one, values[one.run_id], study_id)
                    lines.append(f"Registered {one.name} as models:/{ablation.name}/{version}")
                    if one is median:
                        _point(ablation.name, variant, version)
                        lines[-1] += f", models:/{ablation.name}@{variant}"
    except RegistrationError as error:
        return lines, error
    return lines, None


@in_store
def _register(ablation: Ablation, run: ProgramRecord, value: float, study_id: str) -> str:
    name, metric = ablation.name, ablation.outcomes[0].metric
    tags = {"variant": run.variant, "seed": str(run.seed), metric: repr(value), "study": study_id}
    with refused_as(f"the model of {run.name} can't be registered as {name}"):
        return str(register_version(name, f"models:/{run.models[0]}", tags).version)


@in_store
def _point(name: str, variant: str, version: str) -> None:
    """Point the variant's alias at a version."""
    with refused_as(f"models:/{name}@{variant} can't be moved to version {version}"):
        mlflow.MlflowClient().set_registered_model_alias(name, variant, version)
