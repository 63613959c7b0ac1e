"""What came of a finished run: its history, and which images its network classifies correctly."""

import io
import json
import math
import sys
from dataclasses import MISSING, fields, replace
from zipfile import BadZipFile

import mlflow
import numpy as np

from pipeline.errors import InputError
from pipeline.models.export import is_whole, newest_model
from pipeline.runs.record import Booleans, RunRecord
from pipeline.store.artifacts import read_artifact
from pipeline.store.outages.waiting import in_store
from pipeline.training.history import TIMES, Epoch, History

# A run's file: `history`, the metrics of each epoch as JSON, and `correct`, whether each image of
# the reported split was classified correctly (bool `[N]`). One file takes one request to read; the
# metrics take one each.
RESULT_FILE = "result.npz"


class IncompleteRunError(InputError):
    """A finished run whose files are missing."""


@in_store
def read_results(record: RunRecord, whole: bool = False) -> RunRecord:
    """Complete the record of a finished run: by two requests to a server.

    If its file is gone, the metrics count, which take a request each. Raises IncompleteRunError if
    they don't say what the run has measured. If it must be `whole`, which takes one more request,
    also if files of the run or of its model are gone.
    """
    content = read_artifact(record.artifact_uri, RESULT_FILE, expected=True)
    found = _unpacked(content) if content else None
    if whole and not found:
        raise IncompleteRunError(f"{RESULT_FILE} is missing in {record.artifact_uri}")
    model = newest_model(record.models, record.run_id)
    if whole and not model:
        raise IncompleteRunError("its model was deleted")
    if whole and model and not is_whole(model):
        raise IncompleteRunError(f"files of its model are missing in {model.artifact_location}")
    history, correct = found or (_logged(record), None)
    uri = str(model.model_uri) if model else ""
    return replace(record, history=history, correct=correct, model_uri=uri)


def pack_results(history: History, correct: Booleans) -> bytes:
    """Return the content of a RESULT_FILE. JSON keeps every bit of a float, and infinity."""
    file = io.BytesIO()
    metrics = json.dumps([epoch.metrics for epoch in history])
    np.savez_compressed(file, history=metrics, correct=correct)
    return file.getvalue()


def _unpacked(content: bytes) -> tuple[History, Booleans] | None:
    """What `pack_results` gave; None if that is only a part of it."""
    try:
        with np.load(io.BytesIO(content)) as arrays:
            metrics = json.loads(str(arrays["history"]))
            return tuple(Epoch(**epoch) for epoch in metrics), arrays["correct"]
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def _logged(record: RunRecord) -> History:
    """The history, as it is logged. Other metrics may have been logged by hand, at any step."""
    client, count = mlflow.MlflowClient(), record.identity.epochs
    epochs: list[dict[str, float]] = [{} for _ in range(count)]
    for name in record.metrics.keys() & {one.name for one in fields(Epoch)}:
        for metric in client.get_metric_history(record.run_id, name):
            if not 1 <= metric.step <= count:
                continue
            # MLflow stores infinity as the largest float.
            value = math.inf if abs(metric.value) >= sys.float_info.max else metric.value
            if epochs[metric.step - 1].setdefault(name, value) != value and name not in TIMES:
                raise IncompleteRunError(
                    f"it has logged two values of {name} in epoch {metric.step}"
                )
    for number, epoch in enumerate(epochs, 1):
        for one in fields(Epoch):
            if one.default is MISSING and one.name not in epoch:
                raise IncompleteRunError(f"it has no {one.name} of epoch {number}")
    return tuple(Epoch(**epoch) for epoch in epochs)
