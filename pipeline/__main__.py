"""`python -m pipeline`: prepare the process, run a command, report an error in one line."""

import io
import os
import sys
from typing import NoReturn

import typer

from pipeline import interruption, openmp
from pipeline.cli import app
from pipeline.cli.program import program_name
from pipeline.config import check_text
from pipeline.errors import InputError, MachineError, printable
from pipeline.interruption import Interrupted

# Set unless the user has set them.
ENVIRONMENT = {
    # MLflow's own messages and bars would bury our progress bar.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The command itself prints, once, where to view its run.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default MLflow tries for four minutes to reach a server, and waits two for an answer;
    # `store.outages.waiting` also waits, but says so, and training continues meanwhile.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # By default MLflow samples CPU and memory every 10 s; a shorter run gets none.
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
}


def main() -> NoReturn:
    """Run a command; report an error in one line and exit with the matching status."""
    interruption.install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a Windows console may lack "−" (cp1252)
        # Each line is in a log file, or read by another program, as soon as it is printed.
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file gets lines instead of bars
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    openmp.spin_shortly()
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
        wrong = InputError(f"{message} (see --help)")
        _end_project_run(project_run, wrong)
        _fail(str(wrong), wrong.exit_status)
    except (InputError, MachineError) as error:
        _end_project_run(project_run, error)
        _fail(str(error), error.exit_status)
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


def _fail(message: str, exit_status: int) -> NoReturn:
    _say(message)
    sys.exit(exit_status)


def _say(message: str) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)


if __name__ == "__main__":
    main()
