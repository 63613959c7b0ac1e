"""MLflow's interface: the links to what a command has made, and a server that shows it here."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import mlflow
import psutil

from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted
from pipeline.machine import bound_socket
from pipeline.store.address import shell_uri, shown_uri, sqlite_file
from pipeline.store.initialization import DEFAULT_EXPERIMENT
from pipeline.store.lookup import search
from pipeline.upstream import is_database

HOST = "127.0.0.1"
# MLflow's own default, and the variable by which it takes another.
PORT, PORT_VARIABLE = 5000, "MLFLOW_PORT"
MAX_PORT = 2**16 - 1
# A new visitor's pages are in MLflow's other mode, in which an experiment shows no runs.
MODE = "?workflowType=machine_learning"
# On Linux a browser needs one of these. Without, Python would start a text browser in the terminal.
DISPLAYS = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}
# How the line begins that MLflow's server prints first, though nothing is wrong.
NOT_AN_ERROR = "[MLflow] Security middleware enabled"
# Set unless the user has set them.
ENVIRONMENT = {
    "MLFLOW_WORKERS": "1",  # MLflow starts four, of 240 MB each, which takes 3 times as long
    "PYTHONWARNINGS": "ignore",  # of libraries that MLflow uses
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, which nothing here uses
}


def page(experiment_id: str | None, run_id: str = "", artifact: str = "") -> str:
    """The address of an experiment's runs, of one run, or of an artifact of a run.

    On the server, or where `mlflow ui` shows it if that runs.
    """
    uri = mlflow.get_tracking_uri()
    # Without user and password.
    server = re.sub("//[^/]*@", "//", uri).rstrip("/") if uri.startswith("http") else _local()
    return f"{server}/{link(experiment_id, run_id, artifact)}"


def link(experiment_id: str | None, run_id: str = "", artifact: str = "") -> str:
    """The same on a page of the interface itself, such as in a description, whatever its port."""
    run = f"/runs/{run_id}" if run_id else ""
    file = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}{run}{file}{MODE}"


def where_to_look(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Say where MLflow shows a run, or an artifact of it, and all runs of its experiment."""
    uri = mlflow.get_tracking_uri()
    start = ""
    if is_database(uri):
        start = f", by: {_command()}"
    elif not uri.startswith("http"):
        return f"See run {run_id} in {shown_uri()}"
    what = artifact.partition(".")[0] or "run"
    return (
        f"See it in MLflow{start}\n"
        f"  the {what}: {page(experiment_id, run_id, artifact)}\n"
        f"  all runs: {page(experiment_id)}"
    )


def _local() -> str:
    port = os.environ.get(PORT_VARIABLE, "")
    usable = re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= MAX_PORT
    return f"http://{HOST}:{int(port) if usable else PORT}"


def _command() -> str:
    """The command that shows a local store's runs."""
    database = sqlite_file(mlflow.get_tracking_uri())
    if database and database.resolve() == Path("mlflow.db").resolve():
        made = Path(".venv/installed").exists()  # by make, which Windows lacks
        return "make ui" if made else "python -m pipeline ui"
    return f"mlflow ui --backend-store-uri {shell_uri()}"


def serve_interface(port: int) -> int:
    """Show the store's runs in MLflow's interface: print its address, open it in a browser.

    Returns the interface's exit status when it ends; 0 after a signal. A server has an interface
    that runs: then nothing is started.

    Raises InputError if there is no such port, or no interface for this kind of store, and
    MachineError if the port can't be used.
    """
    if not 1 <= port <= MAX_PORT:
        raise InputError(f"port is {port}; it must be from 1 to {MAX_PORT}")
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        _show(page(_newest_experiment()))
        return 0
    if not is_database(uri):
        raise InputError(f"the store is {shown_uri()!r}, which has an interface of its own")
    _check_free(port)
    here, usual = f"http://{HOST}:{port}", _local()
    hint = f"\nLinks that other commands print name {usual}, unless {PORT_VARIABLE} is {port}"
    # The store in a variable: a command can be read by every user of the machine.
    environment = {**ENVIRONMENT, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    # Without a line for each request of a page. In a session of its own, as Ctrl-C would reach it
    # twice, from the terminal and from here, and print tracebacks while it is importing.
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--uvicorn-opts=--log-level=warning"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stderr
    errors = threading.Thread(target=_print_errors, args=(server.stderr,), daemon=True)
    errors.start()
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.1)
        if server.poll() is None:
            address = f"{here}/{link(_newest_experiment())}"
            _show(address, f" until Ctrl-C{hint if here != usual else ''}")
        return server.wait()
    except Interrupted as stop:
        server.terminate()
        server.wait()
        print(stop)
        return 0
    finally:
        if server.poll() is None:  # as after a second Ctrl-C
            parent = psutil.Process(server.pid)
            for process in [*parent.children(recursive=True), parent]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        errors.join(1)


def _print_errors(lines: IO[str]) -> None:
    for line in lines:
        if not line.startswith(NOT_AN_ERROR):
            sys.stderr.write(line)


def _show(address: str, until: str = "") -> None:
    """Print where the newest run's experiment is shown, and open it if there is a browser."""
    print(f"MLflow shows the runs at {address}{until}", flush=True)
    if sys.platform in ("darwin", "win32") or DISPLAYS & os.environ.keys():
        quiet = subprocess.DEVNULL  # browsers warn of much
        command = [sys.executable, "-m", "webbrowser", address]
        subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)


def _newest_experiment() -> str:
    newest = search("", most=1)
    return str(newest[0].info.experiment_id) if newest else DEFAULT_EXPERIMENT


def _check_free(port: int) -> None:
    try:
        bound_socket(HOST, port).close()
    except OSError as error:
        by_airplay = "; macOS uses it for AirPlay" * (port == PORT and sys.platform == "darwin")
        other = PORT + 1 if port != PORT + 1 else PORT + 2
        raise MachineError(
            f"port {port} can't be used ({error.strerror or error}{by_airplay}); choose"
            f" another: make ui PORT={other}, or python -m pipeline ui --port {other}"
        ) from None


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
