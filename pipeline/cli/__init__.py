"""The commands: call the function of the same name, and print what it returns.

Torch and MLflow take seconds to import, so only commands that need them do. Signals wait: neither
can be imported again after a partial import.
"""

import typer

from pipeline.api.models import evaluate
from pipeline.api.runs import reproduce
from pipeline.api.studies import ablate, compare
from pipeline.api.training import train
from pipeline.cli import show
from pipeline.cli.command import command_of
from pipeline.cli.models import predict, serve
from pipeline.cli.program import program
from pipeline.cli.runs import list_
from pipeline.cli.stores import data, relocate, ui

REPRODUCE = (
    "Train a run again from its record and compare every metric; exit status 1 if one differs.\n\n"
    "Of a study, one run of each variant."
)

app = typer.Typer(
    pretty_exceptions_enable=False,
    # MLproject writes data_dir; the command-line convention is data-dir. Accept both.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)
app.callback()(program)
app.command("list")(list_)
for command in (
    command_of(train, show.trained),
    command_of(ablate, show.studied),
    command_of(compare, show.studied),
    ui,
    command_of(reproduce, show.reproduced, REPRODUCE),
    command_of(evaluate, show.evaluated),
    predict,
    serve,
    data,
    relocate,
):
    app.command()(command)
