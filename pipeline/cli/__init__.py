"""The commands: read the options, call the package that does the work, print the outcome.

Torch and MLflow take seconds to import, so only commands that need them do. Signals wait: neither
can be imported again after a partial import.
"""

import typer

from pipeline.cli.models import evaluate, predict, serve
from pipeline.cli.program import program
from pipeline.cli.runs import compare, list_, reproduce
from pipeline.cli.stores import relocate, ui
from pipeline.cli.studies import ablate
from pipeline.cli.training import data, train

app = typer.Typer(
    pretty_exceptions_enable=False,
    # MLproject writes data_dir; the command-line convention is data-dir. Accept both.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)
app.callback()(program)
app.command("list")(list_)
for command in (train, ablate, compare, ui, reproduce, evaluate, predict, serve, data, relocate):
    app.command()(command)
