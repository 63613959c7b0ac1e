"""How threads wait for each other is chosen by what the machine is doing, and recorded."""

import os
import sys
from pathlib import Path

import pytest
from conftest import run, runs_in

from pipeline import openmp
from pipeline.store.tags import unpack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has GNU's OpenMP")
TRAIN = ("train", "--dataset", "synthetic", "--train-images", "300", "--epochs", "1")


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (openmp.SPINS, openmp.POLICY, openmp.WHY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.mark.parametrize(
    ("idle", "spins", "why"),
    [
        (2.0, "5000", "long: 2.0 processors were idle, for 2 threads"),
        (1.8, "5000", "long: 1.8 processors were idle, for 2 threads"),  # a browser
        (1.0, "1000", "short: 1.0 processors were idle, for 2 threads"),  # a compiler
        (0.1, "1000", "short: 0.1 processors were idle, for 2 threads"),  # another training
    ],
)
def test_threads_spin_for_long_only_where_each_has_an_idle_processor(
    idle: float, spins: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmp, "idle_processors", lambda: idle)
    openmp.spin_shortly()
    assert os.environ[openmp.SPINS] == "1000"
    openmp.spin_if_idle()
    assert os.environ[openmp.SPINS] == spins
    assert openmp.describe_spinning(2) == why


@pytest.mark.parametrize(("given", "threads"), [("3,2", 3), ("many", 4), ("", 4)])
def test_the_number_of_threads_is_read_as_openmp_reads_it(
    given: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(openmp, "_cores", lambda: 4)
    monkeypatch.setattr(openmp, "idle_processors", lambda: 8.0)
    openmp.spin_shortly()
    openmp.spin_if_idle()
    assert os.environ[openmp.WHY].endswith(f"for {threads} threads")


@pytest.mark.parametrize("name", [openmp.SPINS, openmp.POLICY])
def test_what_the_user_has_chosen_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    openmp.spin_shortly()
    openmp.spin_if_idle()
    assert {n for n in (openmp.SPINS, openmp.POLICY) if n in os.environ} == {name}
    assert os.environ[name] == "7"
    assert openmp.describe_spinning(2) == f"as given: {name}=7"


def test_a_run_says_how_its_threads_wait(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, "-m", "pipeline", *TRAIN).status == 0
    (trained,) = runs_in(tmp_path)
    tags = unpack(trained)
    assert tags["threads"] == "2"
    assert tags["spinning"].startswith(("long: ", "short: "))
    assert tags["spinning"].endswith(" processors were idle, for 2 threads")
    assert openmp.describe_spinning(1) == "none: a single thread does not wait"
