"""Train a real run on a few images, at a slow pace, and record what it sends to its server.

PYTHONPATH=CHECKOUT python -P benchmarks/recorded_run.py EPOCHS SECONDS FILE

Also of an older commit, whose checkout is on the path. `benchmarks.scale` replays the file: a
pickled list of `Exchange`, as tuples.
"""

import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import requests


class Exchange(NamedTuple):
    """A request to the tracking server.

    file_size: bytes of a file that it uploads, whose content does not matter. created: the id of a
    new run or model in its answer. epochs: how many were complete. at: the seconds of training
    until then. is_behind: whether it was sent while the run was trained, by another thread.
    """

    method: str
    path: str
    content_type: str
    body: bytes
    file_size: int
    created: str
    epochs: int
    at: float
    is_behind: bool


def main() -> None:
    """Train, and write the file."""
    epochs, seconds = int(sys.argv[1]), float(sys.argv[2])
    sent: list[Exchange] = []
    send, lock = requests.Session.send, threading.Lock()
    done, started = 0, 0.0

    def record(session: Any, request: Any, **settings: Any) -> requests.Response:
        if hasattr(request.body, "read"):
            request.body = request.body.read()
        trains = 0 < done < epochs
        own = threading.current_thread() is threading.main_thread()
        at = time.monotonic() - started if started else 0.0
        answer = send(session, request, **settings)
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        created = ""
        if request.path_url.endswith("/runs/create"):
            created = answer.json()["run"]["info"]["run_id"]
        if request.path_url.endswith("/logged-models") and request.method == "POST":
            created = answer.json()["model"]["info"]["model_id"]
        kind = request.headers.get("Content-Type", "")
        is_file = request.method == "PUT" and "/artifacts/" in request.path_url
        size, body = (len(body), b"") if is_file else (0, body)
        with lock:
            sent.append(
                Exchange(
                    request.method,
                    request.path_url,
                    kind,
                    body,
                    size,
                    created,
                    done,
                    at,
                    is_behind=trains and not own,
                )
            )
        return answer

    def show(history: Any) -> None:
        """Make an epoch last as long as it should."""
        nonlocal done, started
        done = len(history)
        started = started or time.monotonic()
        if done < epochs:
            time.sleep(seconds / epochs)

    requests.Session.send = record  # type: ignore[assignment]
    train(epochs, show)
    Path(sys.argv[3]).write_bytes(pickle.dumps([tuple(one) for one in sent]))


def train(epochs: int, show: Any) -> None:
    """Train a run, by this commit's functions or by an older one's."""
    from pipeline.config import Config
    from pipeline.runs import training_run

    config = Config(dataset="synthetic", train_images=100, epochs=epochs, variant="base")
    if hasattr(training_run, "Beginning"):
        from pipeline.runs.resolve import resolve

        how = training_run.Beginning(register="none", keep_state=False)  # as of a study
        training_run.train_run(resolve(config), how, show)
    else:
        from pipeline.ablation import loading

        older: Any = training_run
        data = loading.load_data(config)  # type: ignore[call-arg]
        older.train_run(config, data, register=False, show=show)


if __name__ == "__main__":
    main()
