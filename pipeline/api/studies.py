"""Train a study, or compare runs that there are."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import openmp
from pipeline.api import options, use_options
from pipeline.api.environment import set_variables
from pipeline.config import (
    AUTO,
    Config,
    as_list,
    check_at_least,
    check_choice,
    text_of,
    texts_of,
)
from pipeline.errors import InputError
from pipeline.imports import importing
from pipeline.interruption import Interrupted
from pipeline.outcome import outcomes_of, value_of_networks
from pipeline.runs.plan import LAST
from pipeline.study.grid import (
    MAX_SEEDS,
    REGISTER,
    REUSE,
    Grid,
    as_text,
    check_cluster,
    check_margin,
    check_name,
    parse_jobs,
    parse_number,
    parse_rates,
    parse_seeds,
    parse_variants,
)

if TYPE_CHECKING:
    from pipeline.ablation.definition import Ablation
    from pipeline.report.publish import Published
    from pipeline.study.subject import Subject

DEFAULT = options.DEFAULT
# The settings that all runs of a study share.
MARGIN = 0.5  # points
# What a program does not have.
OF_NETWORKS = (
    *("dataset", "data_dir", "epochs", "batch_size", "lr", "device", "precision"),
    *("train_images", "validation", "holdout_seed", "keep_state"),
)
SHARED = DEFAULT.as_dict().keys() - {"ablation", "variant", "seed", "lr"}
# The defaults of what is said of anybody's runs alone.
OF_OTHERS = {
    **{"where": "", "baseline": None, "better": "", "unit": "", "scale": 1.0, "margin": None},
    **{"value": "last", "planned": None},
}
REMEDY = "the same command again, which keeps what is done"


def ablate(
    ablation: options.Ablation = DEFAULT.ablation,
    *,
    variants: options.Variants = AUTO,
    seeds: options.Seeds = "5",
    margin: options.Margin = AUTO,
    max_seeds: options.MaxSeeds = 30,
    stop_early: options.StopEarly = "no",
    value: options.Value = LAST,
    dataset: options.Dataset = DEFAULT.dataset,
    data_dir: options.DataDir = DEFAULT.data_dir,
    epochs: options.Epochs = DEFAULT.epochs,
    batch_size: options.BatchSize = DEFAULT.batch_size,
    lr: options.LearningRates = str(DEFAULT.lr),
    device: options.Device = DEFAULT.device,
    precision: options.Precision = DEFAULT.precision,
    train_images: options.TrainImages = DEFAULT.train_images,
    validation: options.StudyValidation = AUTO,
    holdout_seed: options.HoldoutSeed = DEFAULT.holdout_seed,
    name: options.Name = AUTO,
    register: options.Register = "median",
    reuse: options.Reuse = "same",
    keep_state: options.KeepState = "no",
    jobs: options.Jobs = AUTO,
    cluster: options.Cluster = "none",
    gpu_share: options.GpuShare = 1.0,
    dry_run: options.DryRun = False,
) -> "Published | list[str]":
    """Train several variants with several seeds: a parent run, one child run each, a report.

    In Python, `variants`, `seeds` and `lr` may be lists, too. Returns the report, with `effects`,
    `runs` and `curves` as tables; with `dry_run`, lines on what would be trained.

    Raises InputError for what can't be trained, and MachineError if the store fails, or if a run
    has failed (PartialError, with the report of the others).
    """
    asked = dict(locals())
    settings = {name: value for name, value in asked.items() if name in SHARED}
    rates = parse_rates(as_text(lr))
    seeds = as_text(seeds)
    check_at_least("max_seeds", max_seeds, 1, MAX_SEEDS)
    may_stop = options.is_yes("stop_early", stop_early)
    if may_stop and seeds != AUTO:
        raise InputError("stop_early is for seeds=auto; give seeds=auto, or leave it out")
    asked_seeds = range(max_seeds) if seeds == AUTO else parse_seeds(seeds)
    check_name(name)
    check_choice("register", register, tuple(REGISTER))
    check_choice("reuse", reuse, REUSE)
    keeps = options.is_yes("keep_state", keep_state)
    asked_jobs, gpu_share = parse_jobs(jobs), check_cluster(cluster, gpu_share)
    if validation == AUTO:
        settings["validation"] = "test" if len(rates) == 1 else "holdout"
    for rate in rates:
        Config(**settings, lr=rate)  # which checks it
    set_variables()
    if cluster == "none":
        openmp.spin_if_idle()
        if not dry_run and ablation == AUTO:  # another may be of a program, which needs none of it
            from pipeline.execution.jobs import import_ahead

            import_ahead()
    with importing():
        from pipeline.ablation.loading import load_ablation
        from pipeline.errors import StoreError
        from pipeline.execution.engine import Where
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.margin import check_effects
        from pipeline.study.preview import preview_study
        from pipeline.study.reuse import given_study
        from pipeline.study.study import run_study

    own = load_ablation(options.absolute(ablation))
    chosen = parse_variants(as_text(variants), own.variants, own.compared)
    if own.is_program:
        check_of_program(asked, own.name)
        rates, counted = [], str(own.outcomes[0].value)
    else:
        counted = value_of_networks(value, epochs, settings["validation"])
    unit = own.outcomes[0].unit if own.is_program else "points"
    wanted = 0.0
    if seeds == AUTO:
        wanted = check_margin(margin_of(own, margin), max_seeds, rates, unit)
    most = max(len(asked_seeds), max_seeds)
    grid = Grid(chosen, asked_seeds, rates, wanted, unit, counted, may_stop, most)
    grid.plan.as_json()  # which checks its length
    check_effects(own, grid)
    choices = {"name": name, "register": register, "reuse": reuse}
    where = Where(cluster, asked_jobs, gpu_share)

    def prepare() -> "Subject":
        if own.is_program:
            from pipeline.study.programs import prepare_programs

            return prepare_programs(own, grid, where, **choices)
        from pipeline.study.networks import Networks
        from pipeline.study.spec import prepare_study

        return Networks(prepare_study(config, own, grid, where, **choices, keep_state=keeps))

    if not own.is_program:
        from pipeline.ablation.loading import named
        from pipeline.training.device import choose_device, choose_precision

        config = named(Config(ablation=own.source, lr=rates[0], **settings), own)
        if cluster == "none":
            choose_precision(config.precision, choose_device(config.device))  # which check both
    check_store()
    experiment = check_experiment(models=True)
    where.connect(experiment)
    begun = None if dry_run else given_study()
    study = prepare()
    if dry_run:
        return list(preview_study(study, experiment))
    try:
        return run_study(study, begun)
    except Interrupted as stop:
        stop.remedy = REMEDY
        raise
    except StoreError as error:
        raise type(error)(f"{error}; continue the study by: {REMEDY}") from None


def check_of_program(asked: Mapping[str, Any], name: str) -> None:
    """Raise InputError if an option is asked for that a program's study does not have.

    `mlflow run` passes all options on, most of them as they are by default.
    """
    usual = inspect.signature(ablate).parameters
    if str(asked["value"]) != LAST:
        raise InputError(f"value is for networks; {name} is about a program, whose Outcome says it")
    if wrong := [one for one in OF_NETWORKS if str(asked[one]) != str(usual[one].default)]:
        raise InputError(
            f"{wrong[0]} is for networks, and {name} is about a program: make it a setting of its"
            " variants"
        )


def margin_of(ablation: "Ablation", margin: Any) -> float:
    """The margin of `seeds=auto`: as given, or as usual. Raises InputError if it is no number.

    Of a program it is in the unit of its outcome, which has one or must be given one.
    """
    if margin != AUTO:
        return parse_number("margin", margin)
    if not ablation.is_program:
        return MARGIN
    known = ablation.outcomes[0].margin
    if known is None:
        unit = ablation.outcomes[0].unit or f"the unit of {ablation.outcomes[0].metric}"
        raise InputError(f"seeds=auto takes a margin, in {unit}: give --margin, or Outcome's")
    return known


def compare(
    runs: use_options.RunIds = None,
    *,
    last: use_options.LastCompared = None,
    experiment: use_options.Experiment = None,
    ablation: use_options.OwnAblation = AUTO,
    outcome: use_options.Outcomes = None,
    by: use_options.By = None,
    pair: use_options.Pair = None,
    where: use_options.Where = "",
    baseline: use_options.Baseline = None,
    better: use_options.Better = "",
    unit: use_options.Unit = "",
    scale: use_options.Scale = 1.0,
    margin: use_options.EffectMargin = None,
    value: use_options.WhichValue = "last",
    planned: use_options.Planned = None,
) -> "Published":
    """Write a report on finished runs: this project's own, or anybody's, by --outcome.

    With `outcome`, `by` and `pair`, the runs of an experiment are compared by what they have
    logged, whoever has made them. In Python, `runs` may be a table instead (pandas), whose columns
    `outcome`, `by` and `pair` then name; nothing is stored for it. `outcome` may be an `Outcome`,
    or a list.

    Returns the report, as `ablate` does.

    Raises InputError for runs that can't be compared.
    """
    if experiment is not None and not experiment.strip():
        raise InputError("experiment is empty; it must be the name of one, or be left out")
    if outcome is None and by is None and pair is None:
        for name, plain in OF_OTHERS.items():
            if locals()[name] != plain:
                raise InputError(f"{name} is for anybody's runs: give outcome, by and pair, too")
        return _compare_own(runs, last, experiment, ablation)
    for name, given in (("last", last), ("ablation", ablation != AUTO)):
        if given:
            raise InputError(f"{name} is for this project's own runs; choose others with where")
    if outcome is None or by is None or pair is None:
        asked = {"outcome": outcome, "by": by, "pair": pair}
        missing = [name for name, value in asked.items() if value is None]
        raise InputError(
            f"{' and '.join(missing)} is missing: to compare anybody's runs takes outcome, by and"
            " pair, such as val_auc, params.model and params.seed; pair is none for independent"
            " samples"
        )
    is_table = hasattr(runs, "columns")
    if runs is not None and not is_table:
        raise InputError(
            "runs can't be given with outcome, by and pair, unless they are a table of pandas;"
            " choose them with where"
        )
    outcomes = outcomes_of(outcome, better, unit, scale, margin, value)
    if planned is not None:
        check_at_least("planned", planned, 2)
    set_variables()
    with importing():
        from pipeline.runs.others import Question, checked_keys, keys_of
        from pipeline.study.compare_any import compare_any, compare_table

    def keys(name: str, given: Any) -> list[str]:
        listed = as_list(given)
        if name == "pair" and (listed == [] or str(given).lower() == "none"):
            return []
        texts = [text_of(name, one) for one in ([given] if listed is None else listed)]
        return checked_keys(name, texts if is_table else keys_of(name, texts))

    question = Question(
        outcomes,
        keys("by", by),
        keys("pair", pair),
        where,
        None if baseline is None else str(baseline),
        int(planned or 0),
    )
    if both := [one for one in question.by if one in question.pair]:
        raise InputError(f"{both[0]} can't be in both by and pair")
    if is_table:
        if where or experiment:
            name = "where" if where else "experiment"
            raise InputError(
                f"{name} is for runs in a store; choose the rows of a table with pandas"
            )
        return compare_table(runs, question)
    from pipeline.store.initialization import check_experiment, check_store

    check_store()
    return compare_any(experiment or check_experiment(), question)


def _compare_own(runs: Any, last: int | None, experiment: str | None, ablation: str) -> "Published":
    """Compare runs that this project has trained."""
    references = [] if runs is None else texts_of("a run", runs)
    if runs is not None and not references:
        raise InputError("runs is empty; name two or more, or leave it out to compare all")
    if last is not None:
        check_at_least("last", last, 2)
        if references:
            raise InputError("last chooses the newest runs; give either last or runs, not both")
    set_variables()
    with importing():
        from pipeline.store.initialization import check_experiment, check_store
        from pipeline.study.compare import compare_runs

    check_store()
    experiment = experiment or ("" if references else check_experiment())
    return compare_runs(references, experiment, options.absolute(ablation), last)
