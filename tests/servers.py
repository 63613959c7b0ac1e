"""Tracking servers for tests: `mlflow server`, with its runs in SQLite or PostgreSQL."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest
from conftest import environment, free_port

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """A tracking server that also serves the artifacts, and can be stopped."""

    def __init__(self, folder: Path, store: str, host: str = "127.0.0.1") -> None:
        self.folder, self.store, self.host, self.port = folder, store, host, free_port()
        self.uri = f"http://{host}:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        options = ["--backend-store-uri", self.store, "--workers", "1", "--port", str(self.port)]
        artifacts = ["--artifacts-destination", str(self.folder / "served")]
        command = ["mlflow", "server", "--host", self.host, *options, *artifacts]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            time.sleep(0.2)
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server on loopback; the URI of its database."""
    data, port = Path(mkdtemp()), free_port()  # where another user may enter
    user: list[str] = []
    if os.getuid() == 0:  # as root it refuses to run
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(data, "postgres")

    def control(*arguments: str) -> None:
        subprocess.run([*user, *arguments], check=True, capture_output=True, cwd="/")

    control(f"{POSTGRES[-1]}/initdb", "-D", str(data), "-U", "runs", "-A", "trust", "-E", "UTF8")
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
    pg_ctl = [f"{POSTGRES[-1]}/pg_ctl", "-D", str(data), "-w"]
    control(*pg_ctl, "-o", options, "-l", str(data / "log"), "start")
    try:
        yield f"postgresql://runs@127.0.0.1:{port}/postgres"
    finally:
        control(*pg_ctl, "-m", "immediate", "stop")
        shutil.rmtree(data)


needs_postgres = pytest.mark.skipif(
    not POSTGRES, reason="PostgreSQL's server is not installed here"
)
