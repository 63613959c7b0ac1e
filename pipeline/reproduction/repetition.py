"""Train a run again, by its own code's command, in another process and a temporary store."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from sqlalchemy.engine import URL
from tqdm import tqdm

from pipeline.ablation.inputs import input_differences
from pipeline.ablation.source import is_module
from pipeline.errors import InputError, MachineError
from pipeline.interruption import deferred
from pipeline.reproduction.record import ADVICE, LOGGED_ONCE, Measured, Values, read_values
from pipeline.runs.identity import BITS, shortened
from pipeline.runs.provenance import read_inputs
from pipeline.runs.queries import check_ours
from pipeline.store.lookup import get_run
from pipeline.store.outages.waiting import in_store

LOOK_SECONDS = 0.5
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}]"


def repeat(
    record: Measured, code: Path, ablation: str, data_dir: str | None, epochs: int, folder: Path
) -> tuple[Values, bytes | None]:
    """Train the first `epochs` of a run again, with the code in `code`.

    Returns what that measured, and its checkpoint if it trained to the end. The run's own number of
    epochs is asked for, which a learning-rate schedule depends on; after `epochs` the process is
    stopped. `folder` takes the temporary store.

    Raises InputError if the run can't be repeated, MachineError if its code fails.
    """
    uri = URL.create("sqlite", database=str(folder / "mlflow.db")).render_as_string()
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("repetition", (folder / "artifacts").as_uri())
    log = folder / "output.txt"
    command = [sys.executable, "-P", "-m", "pipeline", "train"]
    command += _options(record, ablation, data_dir)
    environment = _environment(record, code, uri, experiment)
    whole = epochs == record.run.identity.epochs
    search, history = in_store(client.search_runs), in_store(client.get_metric_history)
    with (
        log.open("wb") as output,
        _process(command, environment, output) as process,
        tqdm(total=epochs, bar_format=BAR, disable=None, leave=False) as bar,
    ):
        while process.poll() is None and (whole or bar.n < epochs):
            time.sleep(LOOK_SECONDS)
            for run in search([experiment]):
                check_same(record, run)
                # All metrics of an epoch are logged at once.
                bar.update(len(history(run.info.run_id, LOGGED_ONCE)) - bar.n)
        if process.poll():
            raise _failure(process.returncode, log.read_text(errors="replace"))
    (run,) = search([experiment])
    check_same(record, run)
    checkpoint = None
    if whole:
        file = client.download_artifacts(run.info.run_id, "checkpoint.pt", str(folder))
        checkpoint = Path(file).read_bytes()
    return read_values(client, run), checkpoint


def _options(record: Measured, ablation: str, data_dir: str | None) -> Iterator[str]:
    """The options of `train`: those that the run's own version knew, as they turned out."""
    settings = record.run.config.as_dict() | {"ablation": ablation}
    identity = record.run.identity
    settings |= {"device": identity.device, "precision": identity.precision}
    settings |= {"data_dir": data_dir} if data_dir else {}
    known = get_run(record.run.run_id).data.params
    for name, value in settings.items():
        if name in known:
            yield from (f"--{name.replace('_', '-')}", str(value))


def _environment(record: Measured, code: Path, uri: str, experiment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = [str(code), *filter(None, [kept.get("PYTHONPATH")])]  # the run's code first
    if is_module(record.run.config.ablation):
        path.append(str(Path.cwd()))  # which may hold it
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": str(record.run.identity.threads),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_ID": experiment,
    }


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], output: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and end it with the block."""
    process = None
    try:
        with deferred():  # what has been started is known, and will be ended
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        yield process
    finally:
        if process:
            process.kill()  # its store is temporary: there is nothing to end properly
            process.wait()


def check_same(record: Measured, run: Run) -> None:
    """Raise InputError if a repetition does not have the data, code and files of the record."""
    repeated = check_ours(run)
    here = repeated.identity.only(BITS)
    for name, before in record.run.identity.only(BITS).items():
        if before != here[name] and name != "torch":  # versions are shown, not enforced
            raise InputError(
                f"run {record.run.run_id} was made with {name} {shortened(before)}, here it is"
                f" {shortened(here[name])}; {ADVICE.get(name, 'only the same can be compared')}"
            )
    variant = record.run.identity.variant
    then, now = read_inputs(record.run, variant), read_inputs(repeated, variant)
    now = now._replace(packages=then.packages, certain=frozenset(now.files))
    if changed := input_differences(then, now):
        raise InputError(
            f"run {record.run.run_id} can't be repeated: {changed}; restore what its ablation reads"
        )


def _failure(status: int, output: str) -> Exception:
    """What the command said, in one line."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    reason = (lines or output.splitlines() or ["it says nothing"])[-1].removeprefix("error: ")
    kind = InputError if status == InputError.exit_status else MachineError
    return kind(f"training failed: {reason}")
