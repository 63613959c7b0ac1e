"""Register the models of a study."""

from collections.abc import Sequence

from pipeline.data.dataset import ImageDataset
from pipeline.errors import RegistrationError
from pipeline.models import registry
from pipeline.report.learning_rates import chosen_rates
from pipeline.runs.run_result import RunResult
from pipeline.runs.training_run import register_model


def register_models(
    results: Sequence[RunResult], data: ImageDataset, which: str, variants: Sequence[str]
) -> tuple[list[RunResult], RegistrationError | None]:
    """Register the models that `which`, a key of REGISTER, names, until one is refused.

    The median, because a lucky seed promises more than retraining gives. It is taken at the
    variant's chosen learning rate; if none is chosen, no model is registered.
    """
    chosen = {result.run_id for result in results} if which == "all" else set[str]()
    if which == "median":
        for variant, lr in (chosen_rates(variants, results, []) or {}).items():
            runs = [r for r in results if (r.config.variant, r.config.lr) == (variant, lr)]
            runs.sort(key=lambda result: result.history[-1]["val_accuracy"])
            chosen.add(runs[(len(runs) - 1) // 2].run_id)
    registered = list(results)
    refusal = None
    try:
        for place, result in enumerate(results):
            if result.run_id in chosen:
                registered[place] = register_model(result, data)
    except RegistrationError as error:
        refusal = error
    return [  # a later one may have taken an alias
        r._replace(registered=registry.refresh(r.registered)) if r.registered else r
        for r in registered
    ], refusal
