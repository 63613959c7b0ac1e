"""The commands' options: the type of each, and its help text with unit and range."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.single import RUN_HAS_ONE, STUDY_HAS_ONE, one
from pipeline.config import DEVICES, PRECISIONS, VALIDATIONS, Config

DEFAULT = Config()

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
        " authors have not tried."
    ),
]
Precision = Annotated[
    str, typer.Option(help=f"{', '.join(PRECISIONS)}; auto: bf16 if the hardware has it.")
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
        " training images, and read the validation images once, at the end."
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        help="Id of a run to continue that was stopped or failed. Its settings are kept; epochs may"
        " be raised."
    ),
]

# Studies.
Variants = Annotated[
    str, typer.Option(help="Variants to compare, such as a,b; auto: those that the ablation names.")
]
Seeds = Annotated[
    str, typer.Option(help="A count (5: seeds 0 to 4), a range (0-9), a list (0,3,7), or auto.")
]
Margin = Annotated[
    float,
    typer.Option(
        help="With seeds=auto: add seeds until each effect on the accuracy is known to within"
        " ± this many points; above 0."
    ),
]
MaxSeeds = Annotated[int, typer.Option(help="With seeds=auto: the most seeds of a variant.")]
LearningRates = Annotated[
    str, typer.Option(help="Learning rate, above 0, or several (0.01,0.001).")
]
StudyValidation = Annotated[
    str, typer.Option(help="As in train; auto: test, or holdout if there are several lr.")
]
Name = Annotated[
    str,
    typer.Option(
        help="Of the study; rejected if it exists with other settings than variants, seeds and lr."
    ),
]
Register = Annotated[
    str,
    typer.Option(
        help="Models to register: median (of each variant the seed with the median accuracy), all,"
        " none."
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

# Other commands.
OwnAblation = Annotated[
    str, typer.Option(help="File or module of the ablation; auto: that of the runs.")
]
RunIds = Annotated[
    list[str] | None,
    typer.Argument(help="Ids of finished training runs; none: all of an experiment."),
]
RunId = Annotated[str, typer.Argument(help="Id of a training run, or of a study.")]
FirstEpochs = Annotated[
    int | None, typer.Option(help="Repeat only so many epochs; at least 1.", show_default="all")
]
OtherDataDir = Annotated[
    str | None,
    typer.Option(help="Folder that holds the data set's files.", show_default="the run's"),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        help="The experiment whose runs are compared if no ids are given; by default that of"
        " MLFLOW_EXPERIMENT_NAME or _ID, or Default.",
        show_default=False,
    ),
]
Model = Annotated[
    str, typer.Option(help="A model's URI, such as models:/NAME@VARIANT, or the id of its run.")
]
ModelDataset = Annotated[
    str, typer.Option(help="A data set of the ablation; auto: what the model was trained on.")
]
Images = Annotated[
    list[str],
    typer.Argument(
        help="Pictures: files, folders, patterns such as 'photos/**/*.jpg', or - for standard input"
        " (a picture, or names of files, one per line).",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Look also in the folders below a folder.")
]
Output = Annotated[
    str, typer.Option(help="File to write instead of a table: *.csv, or *.jsonl for JSON lines.")
]
Top = Annotated[int, typer.Option(help="How many of the most probable classes; at least 1.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: on every one.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Serve another version when the alias moves to it.")
]
AllowedHosts = Annotated[
    str,
    typer.Option(
        help="Names of this server, as behind a proxy: classify.example.org,*.lan; *: any. Without"
        " it: localhost, this machine's name, and private addresses."
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Verify every byte of what is there; fetch nothing.")
]
Sources = Annotated[
    bool,
    typer.Option("--sources", help="List the sources of the data, and how long each takes."),
]
SourceAddress = Annotated[
    str | None,
    typer.Option(help="Base address to fetch from instead of those (also: $PIPELINE_DATA_SOURCE)."),
]
Artifacts = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the artifacts, such as mlruns; by default it is looked for next to"
        " the database and in the current folder.",
        show_default=False,
    ),
]


def absolute(ablation: str) -> str:
    """The reference to an ablation, also valid in other processes and folders."""
    from pipeline.ablation.loading import absolute
    from pipeline.upstream import typed_in

    return absolute(ablation, typed_in())
