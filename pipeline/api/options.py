"""The commands' options: the type of each, and its help text with unit and range."""

import re
from typing import Annotated, Any

import typer

from pipeline.config import (
    AUTO,
    DEVICES,
    PRECISIONS,
    REGISTRATIONS,
    VALIDATIONS,
    YES_OR_NO,
    Config,
    check_choice,
    text_of,
)

DEFAULT = Config()


def one(kind: type, several: str) -> dict[str, Any]:
    """What typer is told of an option that takes one value: how to answer a list of them, too."""

    def read(given: object) -> Any:
        text = str(given)  # a default comes as it is
        if "," in text:
            raise typer.BadParameter(f"{text!r} is a list; {several}")
        try:
            # `mlflow run` passes an integer on as it was typed, such as `1.0`.
            return kind(re.sub(r"\.0+\s*$", "", text) if kind is int else text)
        except ValueError:
            what = "an integer" if kind is int else "a number"
            raise typer.BadParameter(f"{text!r} is not {what}") from None

    return {"parser": read, "metavar": f"<{kind.__name__}>"}


RUN_HAS_ONE = "a run has one, and ablate takes several: {}"
STUDY_HAS_ONE = "all runs of a study have the same: start one for each (docs/your-own-ablation.md)"

Ablation = Annotated[
    str,
    typer.Option(
        help="What is compared: a Python file, or a module's name; auto: the tutorial's network"
        " (ablations/tutorial.py)."
    ),
]
Variant = Annotated[
    str,
    typer.Option(
        help="Which of the ablation's variants; auto: the first.",
        **one(str, RUN_HAS_ONE.format("variants=a,b")),
    ),
]
Dataset = Annotated[str, typer.Option(help="Which of the ablation's data sets; auto: the first.")]
DataDir = Annotated[
    str,
    typer.Option(
        help="Folder that holds the data set's files, or gets them; ignored if it has none. auto:"
        " $PIPELINE_DATA_DIR, else ./data if the data is there, else a per-user cache."
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        help="Passes over the training images; at least 1.",
        **one(int, f"{STUDY_HAS_ONE}, the least first, with keep_state=yes"),
    ),
]
BatchSize = Annotated[
    int, typer.Option(help="Images per training step; at least 1.", **one(int, STUDY_HAS_ONE))
]
LearningRate = Annotated[
    float,
    typer.Option(help="Learning rate; above 0.", **one(float, RUN_HAS_ONE.format("lr=0.01,0.001"))),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Decides all that is random: weights, order, augmentation; 0 to 2**32 - 1.",
        **one(int, RUN_HAS_ONE.format("seeds=0,1")),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(DEVICES)}; auto: cuda if there is one, else mps, a Mac's GPU, which the"
        " authors have not tried.",
        autocompletion=lambda: DEVICES,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(PRECISIONS)}; auto: bf16 if the hardware has it.",
        autocompletion=lambda: PRECISIONS,
    ),
]
TrainImages = Annotated[
    int,
    typer.Option(
        help="Use only N training images, the first ones of each class; 0 uses all.",
        **one(int, STUDY_HAS_ONE),
    ),
]
Validation = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(VALIDATIONS)}: validate on the validation images, or on a tenth of the"
        " training images, and read the validation images once, at the end.",
        autocompletion=lambda: VALIDATIONS,
    ),
]
HoldoutSeed = Annotated[
    int,
    typer.Option(
        help="With validation=holdout: decides which training images are held out; 0 to 2**32 - 1.",
        **one(int, STUDY_HAS_ONE),
    ),
]
RegisterOne = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(REGISTRATIONS)}: what becomes of the model. model: a version in the"
        " registry; alias: the variant's alias moves to it too, if it is trained on all training"
        " images, for as many epochs as the version before, and on the same data.",
        autocompletion=lambda: REGISTRATIONS,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        help="A run to continue that was stopped or failed, by id, the beginning of one, or name."
        " Its settings are kept; epochs may be raised."
    ),
]

# Studies.
# Python may give a list.
SEVERAL: dict[str, Any] = {"parser": str, "metavar": "<str>"}
Variants = Annotated[
    Any,
    typer.Option(
        help="Variants to compare, such as a,b; auto: those that the ablation names.", **SEVERAL
    ),
]
Seeds = Annotated[
    Any,
    typer.Option(
        help="A count (5: seeds 0 to 4), a range (0-9), a list (0,3,7), or auto.", **SEVERAL
    ),
]
Margin = Annotated[
    Any,
    typer.Option(
        help="With seeds=auto: add seeds until each effect is known to within ± this many points of"
        " accuracy, or units of a program's outcome; above 0. auto: 0.5 points, or the outcome's.",
        **SEVERAL,
    ),
]
MaxSeeds = Annotated[
    int,
    typer.Option(
        help="The most seeds of a variant that there could ever be: with seeds=auto, and if seeds"
        " are added later, after a report; the intervals are made for it."
    ),
]
StopEarly = Annotated[
    str,
    typer.Option(
        help="yes, no: with seeds=auto, add no more seeds once an effect is known to exceed the"
        " margin, or to be too small to matter. If neither is so, it takes more seeds."
    ),
]
Value = Annotated[
    str,
    typer.Option(
        help="Which validation accuracy of a run counts: last, that of the last epoch, or mean5,"
        " the mean of the last 5 epochs (or another number of them), which takes fewer seeds."
    ),
]
LearningRates = Annotated[
    Any, typer.Option(help="Learning rate, above 0, or several (0.01,0.001).", **SEVERAL)
]
StudyValidation = Annotated[
    str,
    typer.Option(
        help="As in train; auto: test, or holdout if there are several lr.",
        autocompletion=lambda: (AUTO, *VALIDATIONS),
    ),
]
Name = Annotated[
    str,
    typer.Option(
        help="Of the study; rejected if it exists with another recipe or value: only variants, lr"
        " and how it comes to its seeds may differ."
    ),
]
Register = Annotated[
    str,
    typer.Option(
        help="Models to register: median (of each variant the seed with the median accuracy), all"
        " (aliases point at the median's), none."
    ),
]
Reuse = Annotated[
    str,
    typer.Option(
        help="Finished runs that are not trained again: same (made by the same code), any, none."
    ),
]
KeepState = Annotated[
    str,
    typer.Option(
        help="yes, no: keep the state of finished runs, about three times the size of their"
        " weights, so that they can go on to more epochs."
    ),
]
Jobs = Annotated[
    str,
    typer.Option(
        help="Runs to train in parallel, each in a process with its share of the threads; auto: as"
        " many as processors and free memory allow, or as there are GPUs."
    ),
]

Cluster = Annotated[
    str,
    typer.Option(
        help="The Ray cluster to train on: auto (the one that this machine belongs to), HOST:PORT,"
        " or ray://HOST:PORT; none: processes of this machine."
    ),
]
GpuShare = Annotated[
    float,
    typer.Option(
        help="The part of a GPU that each run takes, 0.01 to 1; with 0.25, a GPU trains four runs."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only check every variant, list the runs, and estimate time and memory.",
    ),
]


def is_yes(name: str, text: str | bool) -> bool:
    """Read a choice of yes or no; in Python it may be True or False. Raises InputError."""
    if isinstance(text, bool):
        return text
    check_choice(name, text, YES_OR_NO)
    return text == YES_OR_NO[0]


def absolute(ablation: str) -> str:
    """The reference to an ablation, also valid in other processes and folders."""
    from pipeline.ablation.loading import absolute
    from pipeline.upstream import typed_in

    return absolute(text_of("ablation", ablation), typed_in())
