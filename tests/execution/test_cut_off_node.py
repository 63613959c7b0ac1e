"""A node that loses its network, as a machine of its own would: in a network namespace."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import BIN, environment
from servers import Server, needs_postgres, postgres
from test_cluster import STUDY, curves, runs_of, training

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
pytestmark = [
    needs_postgres,
    pytest.mark.thorough,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0, reason="makes network namespaces"
    ),
]
NETWORK = "10.77.7"
BRIDGE, HERE = "pipeline7", f"{NETWORK}.254"


def node(number: int, *command: str) -> list[str]:
    """A command on the machine of that number."""
    return ["ip", "netns", "exec", f"pipeline{number}", *command]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[None]:
    """Two machines with addresses of their own, joined by a bridge that this one is on too."""
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number in (1, 2):
            name, cable, plug = f"pipeline{number}", f"cable{number}", f"plug{number}"
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", plug, "netns", name)
            ip("link", "set", cable, "master", BRIDGE, "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", plug)
            for device in (plug, "lo"):
                ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "route", "add", "default", "via", HERE)
        yield
    finally:
        for number in (1, 2):
            with suppress(subprocess.CalledProcessError):
                listed = ["ip", "netns", "pids", f"pipeline{number}"]
                pids = subprocess.check_output(listed, text=True).split()
                subprocess.run(["kill", "-9", *pids], check=False)
                ip("netns", "delete", f"pipeline{number}")
        ip("link", "delete", BRIDGE)


@pytest.mark.timeout(1200)  # Ray's connection to a worker gives up after 6 minutes
def test_the_runs_of_a_node_that_is_cut_off_continue_on_another(
    tmp_path: Path, machines: None
) -> None:
    ray = [str(BIN / "ray"), "start", "--num-cpus", "1"]
    own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    first = [*ray, "--head", "--port", "6379", "--include-dashboard", "false"]
    # Sockets have short paths.
    first += ["--temp-dir", f"/tmp/ray{os.getpid()}"]
    for number, command in ((1, first), (2, [*ray, "--address", f"{NETWORK}.1:6379"])):
        subprocess.run(
            node(number, *command), check=True, env=own, capture_output=True, timeout=120
        )
    with postgres() as uri:
        server = Server(tmp_path, uri, HERE)
        server.start()
        try:
            folder = tmp_path / "study"
            folder.mkdir()
            options = [*STUDY, "--epochs", "30", "--cluster", f"{NETWORK}.1:6379"]
            settings = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": "cut"}
            study = subprocess.Popen(
                node(1, sys.executable, "-m", "pipeline", *options),
                cwd=folder,
                env=environment(folder) | settings,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            training(study, server, "cut", 2)
            ip("link", "set", "cable2", "down")
            out, err = study.communicate(timeout=900)
            assert study.returncode == 0, err
            assert out.count(" continues after ") == 1
            assert [run.info.status for run in runs_of(server, "cut")] == ["FINISHED"] * 2
            for run in runs_of(server, "cut"):
                assert all(len(curve) == 30 for curve in curves(server.uri, run).values())
        finally:
            server.stop()
