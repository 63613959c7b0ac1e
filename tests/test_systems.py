"""The commands work without what Windows lacks."""

import json
import subprocess
from pathlib import Path

from conftest import ROOT, TINY, environment, runs_in

COMMANDS = [
    ["train", *TINY],
    ["train", "--resume", "RUN", "--epochs", "2"],
    ["ablate", *TINY, "--variants", "base,bn", "--seeds", "1", "--jobs", "2"],
    ["compare"],
    ["evaluate", "--model", "models:/synthetic-cnn@champion"],
]
ONE_BY_ONE = """
import importlib, json, pkgutil, sys
import mlflow, pipeline
from pipeline.__main__ import main
ray = ("execution.cluster", "execution.nodes", "execution.ray_worker")  # not without Unix's names
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if not module.name.endswith(ray):
        importlib.import_module(module.name)
for command in json.loads(sys.argv.pop()):
    if "RUN" in command:
        command[command.index("RUN")] = mlflow.last_active_run().info.run_id
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
"""


def without_unix(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in an interpreter from which the names that Windows lacks are taken away."""
    place = f"{ROOT}/tests/without_unix:{ROOT}"
    # cp1252 is what a console of Windows in the West speaks.
    variables = {**environment(folder), "PYTHONPATH": place, "PYTHONIOENCODING": "cp1252"}
    command = ["python", *arguments]
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, encoding="cp1252"
    )


def test_every_module_imports_and_every_command_runs_without_what_windows_lacks(
    tmp_path: Path,
) -> None:
    said = without_unix(tmp_path, "-c", ONE_BY_ONE, json.dumps(COMMANDS))
    assert said.returncode == 0, said.stderr
    assert "Traceback" not in said.stderr
    assert {run.info.status for run in runs_in(tmp_path)} == {"FINISHED"}


def test_the_project_s_commands_are_ones_that_every_shell_knows() -> None:
    text = (ROOT / "MLproject").read_text()
    assert "exec " not in text
    assert not [line for line in text.splitlines() if line.endswith("\\")]
