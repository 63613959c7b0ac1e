"""Messages fit the cause: where the runs are, and advice that helps."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import psutil
import pytest
from conftest import TINY, Answer, free_port, runs_in
from sqlalchemy.exc import ProgrammingError

from pipeline.errors import InputError
from pipeline.interruption import Interrupted
from pipeline.store.address import without_password
from pipeline.store.initialization import check_store
from pipeline.store.interface import serve_interface, where_to_look
from pipeline.store.outages.advice import WRITABLE, as_store_error
from pipeline.store.tags import pack, say_failure, unpack


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "MLFLOW_EXPERIMENT_ID",
            "99",
            "is '99', but there are only: 0 (Default)",
        ),
        ("MLFLOW_EXPERIMENT_ID", "abc", "is 'abc', but there are only: 0 (Default)"),
        ("MLFLOW_EXPERIMENT_ID", "gone", "the experiment 'old' is deleted"),
        ("MLFLOW_EXPERIMENT_NAME", "old", "mlflow experiments restore --experiment-id"),
    ],
)
def test_an_experiment_that_takes_no_runs_is_named_with_what_helps(
    variable: str,
    value: str,
    told: str,
    pipeline: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deleted = mlflow.create_experiment("old")
    mlflow.delete_experiment(deleted)
    monkeypatch.setenv(variable, deleted if value == "gone" else value)
    answer = pipeline("train", *TINY)
    assert answer.status == 2
    (line,) = answer.error_lines
    assert told in line
    assert "MLFLOW_TRACKING_URI" not in line
    monkeypatch.delenv(variable)
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_only_a_run_that_begins_needs_the_experiment_of_the_variables(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert pipeline("train", *TINY).status == 0
    (run,) = runs_in(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "99")
    answer = pipeline("train", "--resume", run.info.run_id)
    assert (answer.status, answer.err) == (0, "")
    answer = pipeline("evaluate", "--model", run.info.run_id)
    assert answer.status == 2
    assert "is '99', but there are only: 0 (Default)" in answer.err


def test_compare_takes_the_experiment_of_the_variables(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.create_experiment("mine")
    for variable, value in (("MLFLOW_EXPERIMENT_NAME", "mine"), ("MLFLOW_EXPERIMENT_ID", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            answer = pipeline("compare")
        assert answer.status == 2
        assert answer.error_lines == [
            "error: experiment 'mine' has no finished training run to compare"
        ]


def test_artifacts_that_cannot_be_written_are_reported_before_a_run_begins(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "mlruns").write_text("a file in its place")
    for command in (["train", *TINY], ["ablate", *TINY]):
        answer = pipeline(*command)
        assert answer.status == 1
        (line,) = answer.err.splitlines()
        assert f"{tmp_path}/mlruns/0 can't be written" in line
        assert "tracking store" not in line
    assert runs_in(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "such as sqlite:///mlflow.db or http://127.0.0.1:5000"),
        ("file:///nonsense", "such as sqlite:///mlflow.db or http://127.0.0.1:5000"),
        ("http://[", ""),
        ("sqlite://mlflow.db", "Invalid SQLite URL"),
        ("sqlite://a:b/runs.db", ""),
    ],
)
def test_what_is_not_an_address_is_reported(
    address: str, said: str, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    answer = pipeline("compare")
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert line.startswith(f"error: the tracking store {address} can't be used")
    assert said in line


def test_compare_says_that_an_experiment_is_deleted(pipeline: Callable[..., Answer]) -> None:
    deleted = mlflow.create_experiment("old")
    mlflow.delete_experiment(deleted)
    answer = pipeline("compare", "--experiment", "old")
    assert answer.status == 2
    assert answer.error_lines == [
        "error: the experiment 'old' is deleted; name another one, or restore it by: mlflow"
        f" experiments restore --experiment-id {deleted}"
    ]


def test_the_right_way_to_see_the_runs_is_reported_for_every_kind_of_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def told(uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        command, *links = where_to_look("7", "0123").splitlines()
        assert links == [
            f"  the run: http://127.0.0.1:{port}/#/experiments/7/runs/0123{mode}",
            f"  all runs: http://127.0.0.1:{port}/#/experiments/7{mode}",
        ]
        return command.removeprefix("See it in MLflow, by: ")

    mode, port = "?workflowType=machine_learning", 5000
    assert told("sqlite:///mlflow.db") == "python -m pipeline ui"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    assert told("sqlite:///mlflow.db") == "make ui"
    elsewhere = told("sqlite:////tmp/my runs.db")
    assert elsewhere == "mlflow ui --backend-store-uri 'sqlite:////tmp/my runs.db'"
    hidden = told("postgresql://me:secret@host/runs")
    assert hidden == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    for wrong in ("abc", "0", "65536", "-1", "", "9" * 5000):
        monkeypatch.setenv("MLFLOW_PORT", wrong)
        assert told("sqlite:///mlflow.db") == "make ui"
    port = 5001  # the variable by which MLflow takes another
    monkeypatch.setenv("MLFLOW_PORT", str(port))
    assert told("sqlite:///mlflow.db") == "make ui"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert where_to_look("7", "0123") == "See run 0123 in databricks"


def test_every_command_ends_with_links_to_what_it_has_made(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    def made(*command: str) -> str:
        answer = pipeline(*command)
        assert answer.status == 0, answer.err
        run_id = str(runs_in(tmp_path)[0].info.run_id)
        assert answer.out.endswith(f"{where_to_look('0', run_id)}\n")
        return run_id

    trained = made("train", *TINY)
    assert made("train", "--resume", trained) == trained
    assert made("evaluate", "--model", trained) != trained


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_interface_says_that_its_port_is_taken(
    by_variable: bool, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        if by_variable:
            monkeypatch.setenv("MLFLOW_PORT", port)
        answer = pipeline("ui", *([] if by_variable else ["--port", port]))
    assert answer.status == 1
    assert answer.error_lines == [
        f"error: port {port} can't be used (Address already in use); choose another: make ui"
        " PORT=5001, or python -m pipeline ui --port 5001"
    ]


@pytest.mark.parametrize(
    ("system", "said"), [("darwin", "; macOS uses it for AirPlay"), ("linux", "")]
)
def test_the_interface_says_on_macos_what_takes_its_usual_port(
    system: str, said: str, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with socket.socket() as taken:
        with suppress(OSError):  # another process has it
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        (line,) = pipeline("ui").error_lines
    assert f"(Address already in use{said}); choose another: make ui" in line


# A server with another process, whose id it prints, and which SIGTERM does not end.
STUBBORN = """
import signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
wait = "import time; time.sleep(600)"
print("[MLflow] Security middleware enabled with default settings", file=sys.stderr)
print(subprocess.Popen([sys.executable, "-c", wait]).pid, file=sys.stderr)
with socket.create_server(("127.0.0.1", PORT)):
    time.sleep(600)
"""


def test_no_server_outlives_the_interface_whatever_ends_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check_store()
    port, started = free_port(), []

    class Server(subprocess.Popen[str]):
        def __init__(self, _: object, **settings: Any) -> None:
            program = STUBBORN.replace("PORT", str(port))
            super().__init__([sys.executable, "-c", program], **settings)
            started.append(self)

        def wait(self, timeout: float | None = None) -> int:
            if timeout:
                return super().wait(timeout)
            raise Interrupted(signal.SIGINT, again=True)

    def stop(*_: str) -> None:
        raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Server)
        patch.setattr("pipeline.store.interface._show", stop)
        with pytest.raises(Interrupted, match="for the second time"):
            serve_interface(port)
    (server,) = started
    assert server.wait(20) == -signal.SIGKILL
    (child,) = capfd.readouterr().err.splitlines()  # and no line that is not an error
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(child)).wait(20)


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_the_interface_refuses_what_is_no_port(port: str, pipeline: Callable[..., Answer]) -> None:
    answer = pipeline("ui", "--port", port)
    assert answer.status == 2
    assert answer.error_lines == [f"error: port is {port}; it must be from 1 to 65535"]


def test_a_finished_run_is_shown_even_when_the_server_is_down_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    page, mode = f"{server}/#/experiments/7", "?workflowType=machine_learning"
    assert where_to_look("7", "0123").splitlines() == [
        "See it in MLflow",
        f"  the run: {page}/runs/0123{mode}",
        f"  all runs: {page}{mode}",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@127.0.0.1:{port}/runs",
        "http://me:s3cret@127.0.0.1:{port}",
        "mysql+nothing://me:s3cret@127.0.0.1:{port}/runs",
    ],
)
def test_no_message_shows_a_password(
    address: str, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(port=free_port()))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    answer = pipeline("train", *TINY)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "://me:***@127.0.0.1" in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3c@ret@host/runs",
        "postgresql://me:s3c/ret@host/runs",
        "postgresql:///runs?user=me&password=s3c-ret&port=1",
        "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret%3BDATABASE%3Druns",
    ],
)
def test_a_password_is_hidden_wherever_it_is_in_an_address(address: str) -> None:
    shown = without_password(f"can't reach {address}, it is away")
    assert "s3c" not in shown
    assert "ret" not in shown
    assert "***" in shown
    assert shown.endswith("it is away")


def test_what_looks_like_a_password_in_a_path_is_none() -> None:
    for uri in (
        "sqlite:///C:/runs@home/mlflow.db",
        "sqlite:////a//b:c@d/mlflow.db",
        "http://host:5000/x@y",
    ):
        assert without_password(uri) == uri


@pytest.mark.parametrize("status", [200, 302, 404, 405])
def test_a_web_server_that_is_not_mlflow_is_reported(
    status: int, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/login" else status)
            self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(b"<!doctype html>\n<h1>Welcome</h1>")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        answer = pipeline("train", *TINY)
        server.shutdown()
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "no MLflow 3 server answers there" in line


def test_advice_is_given_only_where_it_fits() -> None:
    assert WRITABLE in str(as_store_error(PermissionError(13, "Permission denied")))
    for status, is_unknown in ((401, True), (403, False)):
        said = f"API request to endpoint /x failed with error code {status} != 200"
        error = str(as_store_error(mlflow.exceptions.MlflowException(said)))
        assert ("MLFLOW_TRACKING_PASSWORD" in error) is is_unknown
        assert ("this user lacks a right there; ask for it" in error) is not is_unknown
    unwritable = as_store_error(OSError(errno.EROFS, os.strerror(errno.EROFS)))
    assert WRITABLE in str(unwritable)
    foreign = as_store_error(ProgrammingError("SELEC", None, Exception("syntax error")))
    assert "folder" not in str(foreign)
    unknown = str(as_store_error(mlflow.exceptions.MlflowException("it is Monday")))
    assert unknown.endswith("can't be used (it is Monday)")


def test_what_does_not_fit_into_a_tag_is_refused_and_what_fits_is_read_as_it_was() -> None:
    around = len(json.dumps({"augmentation": ""}))
    values = {"kind": "train", "augmentation": "ü" * (8000 - around)}
    with mlflow.start_run(tags=pack(values)) as run:
        pass
    assert values.items() <= unpack(mlflow.get_run(run.info.run_id)).items()
    said = (
        r"takes 8,001 characters, over the limit of 8,000; shorten its augmentation, which .*: ü+…$"
    )
    with pytest.raises(InputError, match=said):
        pack(values | {"augmentation": values["augmentation"] + "ü"})


def test_a_failure_is_put_before_a_description_of_the_users_own_if_both_fit() -> None:
    line = "**FAILED:** `no memory`; continue by: `python -m pipeline train --resume {}`"
    for more in (0, 1):
        with mlflow.start_run(tags={"kind": "train"}) as run:
            line_of_run = line.format(run.info.run_id)
            own = "x" * (8000 - len(line_of_run) - len("\n\n") + more)
            mlflow.set_tag("mlflow.note.content", own)
        say_failure(run.info.run_id, "FAILED", "no memory")
        tags = mlflow.get_run(run.info.run_id).data.tags
        assert tags["failure"] == "no memory"
        assert tags["mlflow.note.content"] == (own if more else f"{line_of_run}\n\n{own}")
