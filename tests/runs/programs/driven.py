"""Run small programs as a study would, for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from pipeline import Ablation, Outcome
from pipeline.ablation.checks import check_ablation
from pipeline.ablation.importing import import_file
from pipeline.runs.programs.run import ProgramRun, run_program
from pipeline.store.initialization import check_store
from pipeline.store.tags import PARENT_TAG

RMSE = Outcome("test_rmse", better="lower")
TAGS = {"kind": "train", PARENT_TAG: "f" * 32, "mlflow.source.name": "boosting.py"}

# What a program needs to log a metric to the run that it was given, without MLflow's seconds.
LOGS = """
import os, sqlite3, sys, time
run, uri = os.environ["MLFLOW_RUN_ID"], os.environ["MLFLOW_TRACKING_URI"]
def store(statement, *values):
    with sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60) as database:
        database.execute(statement, values)
def log(name, value, step=0, run=run):
    for table in ("metrics", "latest_metrics"):
        columns = "(key, value, timestamp, run_uuid, step, is_nan)"
        row = (name, value, int(time.time() * 1000), run, step, 0)
        store(f"INSERT OR REPLACE INTO {table} {columns} VALUES (?, ?, ?, ?, ?, ?)", *row)
"""


def place(folder: Path, **files: str) -> Path:
    """Write files of Python code into a folder of programs, whose name has a space."""
    programs = folder / "my programs"
    programs.mkdir(exist_ok=True)
    for name, code in files.items():
        (programs / f"{name}.py").write_text(code)
    return programs


def of_command(
    folder: Path, code: str, *, program: Any = "python train.py {seed}", **given: Any
) -> Ablation:
    """An ablation whose program is a script of this code, in a folder."""
    programs = place(folder, train=LOGS + code)
    stated: dict[str, Any] = {"variants": {"a": {}}, "outcome": RMSE, "name": "boosting"}
    return Ablation(**{**stated, **given}, program=program, source=str(programs / "boosting.py"))


def of_file(folder: Path, code: str, name: str = "boosting") -> Ablation:
    """The ablation of a file with this code, in a folder."""
    file = place(folder, **{name: f"from pipeline import Ablation, Outcome\n{code}"}) / f"{name}.py"
    ablation: Ablation = import_file(file).ablation
    return replace(ablation, source=str(file), name=name)


def carry_out(ablation: Ablation, variant: str = "a", **changes: Any) -> ProgramRun:
    """Run a variant of an ablation with seed 3, in the store of the current folder."""
    check_ablation(ablation)
    check_store()
    how: dict[str, Any] = {"name": "a-seed3", "tags": TAGS, "experiment_id": "0", **changes}
    return run_program(ablation, variant, 3, **how)


def run_of(result: ProgramRun) -> Run:
    """The run as it is in the store."""
    return mlflow.MlflowClient().get_run(result.run_id)


def output_of(result: ProgramRun, name: str = "output.txt") -> bytes:
    """What the program has printed, as the store has it."""
    uri = run_of(result).info.artifact_uri
    path = mlflow.artifacts.download_artifacts(f"{uri}/{name}")
    return Path(path).read_bytes()
