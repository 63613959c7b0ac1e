"""The options of the commands that use what was trained: runs, models, data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

OwnAblation = Annotated[
    str, typer.Option(help="File or module of the ablation; auto: that of the runs.")
]
if TYPE_CHECKING:
    RunIds = Any  # in Python also a table
else:
    RunIds = Annotated[
        list[str] | None,
        typer.Argument(
            help="Finished training runs, by id, the beginning of one, or name; none: all of an"
            " experiment."
        ),
    ]
LastCompared = Annotated[
    int | None,
    typer.Option(
        help="Compare only the newest N finished training runs of the experiment; at least 2.",
        show_default="all",
    ),
]
LastListed = Annotated[int, typer.Option(help="How many to list; at least 1.")]
Best = Annotated[bool, typer.Option("--best", help="The most accurate first, not the newest.")]
OfExperiment = Annotated[
    str | None, typer.Option(help="The experiment to list.", show_default="all")
]
RunId = Annotated[
    str,
    typer.Argument(help="A training run or a study, by id, the beginning of one, or name."),
]
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
# Of any runs.
TEXTS: dict[str, Any] = {"parser": str, "metavar": "<str>"}  # Python may give lists
Outcomes = Annotated[
    Any,
    typer.Option(
        help="Compare anybody's runs, by this metric: one, or several (val_auc,val_loss), the"
        " primary one first.",
        show_default=False,
        **TEXTS,
    ),
]
By = Annotated[
    Any,
    typer.Option(
        help="What tells their variants apart: params.NAME or tags.NAME, or several with commas.",
        show_default=False,
        **TEXTS,
    ),
]
Pair = Annotated[
    Any,
    typer.Option(
        help="What makes two runs a pair, such as params.seed or tags.fold; none: they are"
        " independent samples.",
        show_default=False,
        **TEXTS,
    ),
]
Where = Annotated[
    str, typer.Option(help="Which runs: a filter of MLflow's, such as \"params.data = 'a'\".")
]
Baseline = Annotated[
    Any,
    typer.Option(
        help="The variant that others are compared with, by its value; by default the first in"
        " order.",
        show_default=False,
        **TEXTS,
    ),
]
Better = Annotated[
    Any, typer.Option(help="higher or lower; of several outcomes, one for each.", **TEXTS)
]
Unit = Annotated[str, typer.Option(help="What the outcome is shown in, such as points.")]
Scale = Annotated[
    float, typer.Option(help="How many of that unit 1 is: 100 shows an accuracy in points.")
]
EffectMargin = Annotated[
    float | None,
    typer.Option(
        help="The largest difference, in that unit, that does not matter; it takes one to call"
        " variants equally good.",
        show_default="unknown",
    ),
]
WhichValue = Annotated[
    Any,
    typer.Option(
        help="Which of a run's values counts: last (of the highest step), mean5 (the mean of the"
        " last 5 steps, or of another number), max, min, or a step's number.",
        **TEXTS,
    ),
]
Planned = Annotated[
    int | None,
    typer.Option(
        help="How many pairs were planned before the first look (of independent samples: runs of"
        " each variant): gives shorter intervals, if exactly these exist and nobody compared a"
        " part of them.",
        show_default="no plan",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="NAME@VARIANT or NAME/VERSION of a registered model, a URI, a folder, or the run that"
        " trained it, by id, the beginning of one, or name."
    ),
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
InterfacePort = Annotated[
    int, typer.Option(envvar="MLFLOW_PORT", help="Port to listen on, 1 to 65535.")
]
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
