"""The commands and their options.

Torch and MLflow are imported when a command needs them, since that takes seconds. Signals wait
meanwhile: neither can be imported again after half an import.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from pipeline import interruption
from pipeline.config import (
    DATASETS,
    DEVICES,
    PRECISIONS,
    VALIDATIONS,
    VARIANTS,
    Config,
    check_choice,
    check_text,
)
from pipeline.errors import InputError, MachineError
from pipeline.grid import (
    REGISTER,
    REUSE,
    check_name,
    parse_jobs,
    parse_rates,
    parse_seeds,
    parse_variants,
)
from pipeline.interruption import Interrupted

app = typer.Typer(
    help="Train, compare and evaluate the tutorial's CIFAR-100 network, tracked with MLflow.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # MLproject writes data_dir where the convention of the command line is data-dir; take both.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)

DEFAULT = Config()
STUDY_REMEDY = "the same command again, which keeps what is done"


Variant = Annotated[str, typer.Option(help=f"Network: {', '.join(VARIANTS)}.")]
Dataset = Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)} (built in).")]
DataDir = Annotated[
    str,
    typer.Option(
        help="Folder that holds the files of CIFAR-100, or gets them. auto: $PIPELINE_DATA_DIR,"
        " else ./data if the data is there, else a cache per user."
    ),
]
Epochs = Annotated[int, typer.Option(help="Passes over the training images; at least 1.")]
BatchSize = Annotated[int, typer.Option(help="Images per training step; at least 1.")]
LearningRate = Annotated[float, typer.Option(help="Adam's learning rate; above 0.")]
Seed = Annotated[
    int, typer.Option(help="Decides weights, order, augmentation and dropout; at least 0.")
]
Device = Annotated[str, typer.Option(help=f"{', '.join(DEVICES)} (cuda if there is one).")]
Precision = Annotated[
    str, typer.Option(help=f"{', '.join(PRECISIONS)} (bf16 where the hardware has it).")
]
TrainImages = Annotated[
    int, typer.Option(help="Use only the first so many training images; 0 uses all.")
]
Validation = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(VALIDATIONS)}: validate on the train=False split, or on a tenth of the"
        " training split, and read the train=False split once, at the end."
    ),
]


@app.command()
def train(
    context: typer.Context,
    variant: Variant = DEFAULT.variant,
    dataset: Dataset = DEFAULT.dataset,
    data_dir: DataDir = DEFAULT.data_dir,
    epochs: Epochs = DEFAULT.epochs,
    batch_size: BatchSize = DEFAULT.batch_size,
    lr: LearningRate = DEFAULT.lr,
    seed: Seed = DEFAULT.seed,
    device: Device = DEFAULT.device,
    precision: Precision = DEFAULT.precision,
    train_images: TrainImages = DEFAULT.train_images,
    validation: Validation = DEFAULT.validation,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Id of a run that was stopped or failed, to go on with it. Its settings are kept;"
            " epochs may be raised."
        ),
    ] = None,
) -> None:
    """Train one variant as one MLflow run, and register its model."""
    settings = {name: context.params[name] for name in DEFAULT.as_dict()}
    config = Config(**settings)
    with interruption.deferred():
        from pipeline import finished, liveness, tracking
        from pipeline import resume as resuming
        from pipeline.data import load
        from pipeline.device import choose_device
        from pipeline.runs import train_run
        from pipeline.store import check_experiment, check_store, where_to_look

    check_store()
    run = tracking.given_run()
    # `mlflow run` passes every parameter on, also those that nobody has given.
    given = {name: value for name, value in settings.items() if value != getattr(DEFAULT, name)}
    if resume is not None:
        run = finished.get_run(resume)
        given = {name: settings[name] for name in settings if _is_given(context, name)}
    if run:
        liveness.mark_dead_runs()
        run = finished.get_run(run.info.run_id)
        config = resuming.configuration(run, given)
        if run.info.status == "FINISHED" and config.epochs == finished.config_of(run).epochs:
            print(
                f"run {run.info.run_id} is finished, with {config.epochs} epochs; for more:"
                f" python -m pipeline train --resume {run.info.run_id} --epochs N"
            )
            return
    else:
        check_experiment()
    choose_device(config.device)
    data = load(config.dataset, config.data_dir, config.train_images, config.validation)
    result = train_run(config, data, continued=run)
    last, registered = result.history[-1], result.registered
    assert registered  # as asked for
    print(
        f"{config.run_name} on {data.name}: validation accuracy {last['val_accuracy']:.1%},"
        f" loss {last['val_loss']:.3f}, {result.seconds:.0f} s"
    )
    print(f"run {result.run_id}, registered as {registered.uri}")
    for alias in registered.aliases:
        print(f"  also models:/{registered.name}@{alias}")
    print(f"See it beside other runs: {where_to_look(result.run_id)}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command()
def ablate(
    variants: Annotated[
        str, typer.Option(help=f"Networks to compare, out of {','.join(VARIANTS)}.")
    ] = "base,bn,dropout",
    seeds: Annotated[
        str, typer.Option(help="A count (5: seeds 0 to 4), a range (0-9) or a list (0,3,7).")
    ] = "5",
    dataset: Dataset = DEFAULT.dataset,
    data_dir: DataDir = DEFAULT.data_dir,
    epochs: Epochs = DEFAULT.epochs,
    batch_size: BatchSize = DEFAULT.batch_size,
    lr: Annotated[
        str, typer.Option(help="Adam's learning rate, above 0, or several (0.01,0.001).")
    ] = str(DEFAULT.lr),
    device: Device = DEFAULT.device,
    precision: Precision = DEFAULT.precision,
    train_images: TrainImages = DEFAULT.train_images,
    validation: Annotated[
        str,
        typer.Option(help="As in train; auto: test, or holdout if there are several lr."),
    ] = "auto",
    name: Annotated[
        str,
        typer.Option(help="Of the study; another recipe under a name that exists is refused."),
    ] = "auto",
    register: Annotated[
        str,
        typer.Option(
            help="Models to register: median (of each variant the seed with the median accuracy),"
            " all, none."
        ),
    ] = "median",
    reuse: Annotated[
        str,
        typer.Option(
            help="Finished runs that need not run again: same (made by the same code), any, none."
        ),
    ] = "same",
    jobs: Annotated[
        str,
        typer.Option(
            help="Runs to train side by side, each in a process with its share of the threads;"
            " auto: as many as processors and free memory allow, and one on a GPU."
        ),
    ] = "auto",
) -> None:
    """Train several variants with several seeds: a parent run, a child run for each, a report."""
    chosen_variants, chosen_seeds = parse_variants(variants), parse_seeds(seeds)
    rates = parse_rates(lr)
    check_name(name)
    check_choice("register", register, tuple(REGISTER))
    check_choice("reuse", reuse, REUSE)
    chosen_jobs = parse_jobs(jobs)
    if validation == "auto":
        validation = "test" if len(rates) == 1 else "holdout"
    settings: dict[str, Any] = {
        "dataset": dataset,
        "data_dir": data_dir,
        "epochs": epochs,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "train_images": train_images,
        "validation": validation,
    }
    for rate in rates:
        config = Config(**settings, lr=rate)
    with interruption.deferred():
        from pipeline.store import StoreError, check_experiment, check_store
        from pipeline.study import run_study

    check_store()
    check_experiment()
    try:
        run_study(
            config,
            chosen_variants,
            chosen_seeds,
            rates,
            name=name,
            register=register,
            reuse=reuse,
            jobs=chosen_jobs,
        )
    except Interrupted as stop:
        stop.remedy = STUDY_REMEDY
        raise
    except StoreError as error:
        raise type(error)(f"{error}; the study goes on by: {STUDY_REMEDY}") from None


@app.command()
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of finished training runs; none: all of an experiment."),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            help="The experiment whose runs are compared if no ids are given; by default that of"
            " MLFLOW_EXPERIMENT_NAME or _ID, or Default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of a study on finished runs, for instance three that were started alone."""
    with interruption.deferred():
        from pipeline.compare import compare_runs
        from pipeline.store import check_experiment, check_store

    check_store()
    compare_runs(runs or [], experiment or ("" if runs else check_experiment()))


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Option(help="A model's URI, such as models:/cifar100-cnn@bn, or the id of its run."),
    ],
    dataset: Annotated[
        str, typer.Option(help=f"auto (what it was trained on), {', '.join(DATASETS)}.")
    ] = "auto",
    data_dir: DataDir = DEFAULT.data_dir,
) -> None:
    """Evaluate a model on its data set's validation split, as an MLflow run of its own."""
    check_choice("dataset", dataset, ("auto", *DATASETS))
    with interruption.deferred():
        from pipeline.runs import evaluate_run
        from pipeline.store import check_experiment, check_store, where_to_look

    check_store()
    check_experiment()
    run_id, name, evaluation = evaluate_run(model, dataset, data_dir)
    print(f"{model} on {name}'s validation split")
    for metric, value in evaluation.metrics.items():
        print(f"  {metric:20} {value:.4f}")
    print("most frequent confusions")
    for row in evaluation.confusions.head(5).to_dict("records"):
        print(f"  {row['class']} taken for {row['taken_for']}: {row['images']} images")
    print(f"See the run: {where_to_look(run_id)}")


@app.command()
def data(
    data_dir: DataDir = DEFAULT.data_dir,
    check: Annotated[
        bool, typer.Option("--check", help="Verify every byte of what is there; fetch nothing.")
    ] = False,
    sources: Annotated[
        bool,
        typer.Option("--sources", help="List where the data can be had, and how long it takes."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            help="Base address to fetch from instead of those (also: $PIPELINE_DATA_SOURCE)."
        ),
    ] = None,
) -> None:
    """Fetch, verify and prepare CIFAR-100; training does the same when it is not there."""
    if source:
        os.environ["PIPELINE_DATA_SOURCE"] = source
    with interruption.deferred():
        from pipeline.data import cifar100, download
        from pipeline.data.sources import chosen_sources

    if sources:
        print("\n".join(download.describe(chosen_sources())))
    elif check:
        told = cifar100.check(data_dir)
        if not told:
            raise MachineError(
                "CIFAR-100 is neither in data_dir nor in the cache; fetch it by: data"
            )
        print("\n".join(told))
    else:
        loaded = cifar100.load(data_dir)
        print(
            f"CIFAR-100: {len(loaded.training):,} training and {len(loaded.validation):,}"
            f" validation images, sha256 {loaded.digest}, cached in {cifar100.array_folder()}"
        )


def main() -> NoReturn:
    """Run a command; report what is wrong in one line, with the exit status that it deserves."""
    interruption.install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console of Windows may know no "−" (cp1252)
        sys.stdout.reconfigure(errors="replace")
    # Torch's threads wait for each other thousands of times a second. By default they wait by
    # spinning, and with one other busy process on the machine training takes twice as long; without
    # any spinning it takes a tenth to a fifth longer on an idle one (docs/LOG.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # MLflow's remarks about itself, and its bars, would bury the progress bar.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # The command says itself, once, where its run is seen.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # By default MLflow tries for four minutes to reach a server, and waits two for its answer;
    # `store.in_store` waits as well, but tells so, and training goes on meanwhile.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # By default MLflow samples CPU and memory every 10 s; a run shorter than that has no sample.
    os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
    project_run = os.environ.get("MLFLOW_RUN_ID")  # set by `mlflow run`, unset by MLflow later
    try:
        for argument in sys.argv[1:]:
            check_text("an argument", argument)
        app(standalone_mode=False)
        sys.exit(0)
    except typer.TyperException as error:
        _fail(f"{error.format_message().rstrip('.')} (see --help)", InputError.exit_status)
    except (InputError, MachineError) as error:
        if project_run:
            _keep_status(project_run)
        _fail(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped for the second time, before the run could end properly", 130)
    except Interrupted as error:
        error.remedy = error.remedy or "the same command again"
        if project_run:
            _keep_status(project_run, "KILLED")
        _fail(str(error), error.exit_status)


def _keep_status(run_id: str, new: str | None = None) -> None:
    """Have the run of `mlflow run` keep the status that it has; one that has just begun gets `new`.

    With --run-id it may have ended long ago, or belong to a process that is still at work on it.
    """
    from pipeline import finished, liveness, tracking
    from pipeline.store import check_relative

    with suppress(InputError, MachineError):
        check_relative()
        run = finished.get_run(run_id)
        status: str | None = run.info.status
        if status == "RUNNING":
            alive = liveness.PROCESS in run.data.tags and liveness.is_alive(run)
            status = "RUNNING" if alive else new
        if status:
            tracking.keep_status(run_id, status)


def _fail(message: str, exit_status: int) -> NoReturn:
    # What was typed may hold line breaks, or codes that would steer the terminal.
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"error: {line}", file=sys.stderr)
    sys.exit(exit_status)
