"""`python -m pipeline`: prepare the process, run a command, report an error in one line."""

import io
import os
import sys
from typing import NoReturn

import typer

from pipeline import interruption
from pipeline.api.environment import set_variables
from pipeline.cli import app
from pipeline.cli.program import program_name
from pipeline.config import check_text
from pipeline.errors import InputError, MachineError, printable
from pipeline.interruption import Interrupted
from pipeline.news import show_news


def main() -> NoReturn:
    """Run a command; report an error in one line and exit with the matching status."""
    interruption.install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a Windows console may lack "−" (cp1252)
        # Each line is in a log file, or read by another program, as soon as it is printed.
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file gets lines instead of bars
    set_variables()
    show_news()
    project_run = os.environ.get("MLFLOW_RUN_ID")  # set by `mlflow run`, unset by MLflow later
    try:
        for argument in sys.argv[1:]:
            check_text("an argument", argument)
        # A command returns its status; None is 0.
        sys.exit(app(prog_name=program_name(), standalone_mode=False))
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        if "extra argument" in message and ".py" in message:
            message += "; an ablation's file is named by --ablation FILE"
        _fail(project_run, InputError(f"{message} (see --help)"))
    except (InputError, MachineError) as error:
        _fail(project_run, error)
    except Interrupted as error:
        error.remedy = error.remedy or "the same command again"
        _say(str(error))  # before another Ctrl-C
        interruption.end_at_once()
        _end_project_run(project_run, error, "KILLED")
        sys.exit(error.exit_status)
    except Exception as error:
        _end_project_run(project_run, error)
        raise


def _end_project_run(run_id: str | None, error: BaseException, new: str | None = None) -> None:
    if run_id:
        from pipeline.runs.lifecycle import end_project_run

        end_project_run(run_id, sys.argv[1], error, new)


def _fail(project_run: str | None, error: InputError | MachineError) -> NoReturn:
    _end_project_run(project_run, error)
    _say(str(error))
    sys.exit(error.exit_status)


def _say(message: str) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)


if __name__ == "__main__":
    main()
