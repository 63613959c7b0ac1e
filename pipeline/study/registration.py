"""Register the models of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion

from pipeline.ablation.definition import Ablation
from pipeline.errors import RegistrationError
from pipeline.models.aliases import move_aliases
from pipeline.models.registry import RegisteredVersion
from pipeline.report.learning_rates import chosen_rates
from pipeline.runs.record import RunRecord
from pipeline.runs.training_run import register_model
from pipeline.store.lookup import find_run
from pipeline.store.tags import PARENT_TAG
from pipeline.study.spec import StudySpec


def register_models(
    results: Sequence[RunRecord], study: StudySpec, study_id: str
) -> tuple[list[RunRecord], RegistrationError | None]:
    """Register the models that the study names, until one is refused.

    Aliases move to the median of each variant, because a lucky seed promises more than retraining
    gives. It is taken at the variant's chosen learning rate; if none is chosen, no alias moves, and
    `register="median"` registers no model.
    """
    which, ablation = study.register, study.ablation
    if which == "none":
        return list(results), None
    median = set[str]()
    for variant, lr in (chosen_rates(ablation.variants, results, []) or {}).items():
        runs = [r for r in results if (r.config.variant, r.config.lr) == (variant, lr)]
        runs.sort(key=lambda result: result.history[-1].val_accuracy)
        median.add(runs[(len(runs) - 1) // 2].run_id)
    known, refusal = dict[str, RegisteredVersion](), None
    try:
        for result in results:
            if which == "all" or result.run_id in median:
                version = register_model(result, study.run, study_id).registered
                assert version  # else it is refused
                known[result.run_id] = version
        medians = [run_id for run_id in known if run_id in median]
        aliased, holders = move_aliases([known[run_id] for run_id in medians], study.data)
        known |= zip(medians, aliased, strict=True)
        if aliased and (note := _several_studies(aliased[-1].name, holders, ablation, study_id)):
            known[medians[-1]] = aliased[-1]._replace(notes=(*aliased[-1].notes, note))
    except RegistrationError as error:
        refusal = error
    return [replace(result, registered=known.get(result.run_id)) for result in results], refusal


def _several_studies(
    name: str, holders: Mapping[str, ModelVersion], ablation: Ablation, study_id: str
) -> str:
    """Say so if the aliases of the compared variants point at models of different studies."""
    origins: dict[str, list[str]] = {}
    for variant in ablation.compared or ablation.variants:
        if version := holders.get(variant):
            origins.setdefault(_origin(version), []).append(f"@{variant}")
    if len(origins) < 2:
        return ""
    here = f"study {study_id}"
    parts = [
        f"{', '.join(aliases)} of {'this study' if origin == here else origin}"
        for origin, aliases in origins.items()
    ]
    return f"the aliases of models:/{name} are not from one study: {'; '.join(parts)}"


def _origin(version: ModelVersion) -> str:
    """The study that has registered a version, else that of its run, else the run."""
    run = None if "study" in version.tags else find_run(str(version.run_id))
    study = version.tags.get("study") or (run and run.data.tags.get(PARENT_TAG))
    return f"study {study}" if study else f"run {version.run_id}"
