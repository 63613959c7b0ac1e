"""What a user sees of a study by `make ui`, with a real browser.

`pytest tests/test_interface.py --screenshots FOLDER` saves what it sees. So the docs' pictures were
made, of a study by `make ablation`.
"""

import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from conftest import PATIENCE, ROOT, Study, free_port, start
from playwright.sync_api import Browser, Page, expect

VARIANTS = ("base", "bn", "dropout")
# MLflow opens its assistant beside every page of a new visitor.
WITHOUT_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


class Server(NamedTuple):
    """What `make ui` has started, and its port."""

    process: psutil.Process
    port: int


@pytest.fixture(scope="module")
def server(study: Study) -> Iterator[Server]:
    """`make ui`, started in the study's folder."""
    port = free_port()
    # In the environment that the tests run in. A link, since make can't take a folder with a space.
    (study.folder / "environment").symlink_to(sys.prefix)
    make = ["make", "--makefile", str(ROOT / "Makefile"), "--old-file", ".venv/installed"]
    make += ["BIN=environment/bin", "ui"]
    started = start(study.folder, "env", f"MLFLOW_PORT={port}", "MLFLOW_WORKERS=1", *make)
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert started.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
    yield Server(psutil.Process(started.pid), port)
    os.killpg(started.pid, signal.SIGTERM)
    started.communicate(timeout=20)


@pytest.fixture
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(WITHOUT_ASSISTANT)
    return page


@pytest.fixture
def screenshot(page: Page, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Save what the page shows, if `--screenshots` names a folder."""

    def save(name: str) -> None:
        folder = request.config.getoption("--screenshots")
        if folder:
            page.wait_for_timeout(2000)  # figures are drawn after the text is there
            path = page.get_by_text(re.compile("^Path:"))  # where it lies on this machine
            page.screenshot(path=Path(folder) / f"{name}.png", mask=[path], mask_color="white")

    return save


def test_it_listens_on_loopback_only(server: Server) -> None:
    listening = set()
    for process in [server.process, *server.process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a short-lived one has ended meanwhile
            connections = process.net_connections("inet")
            listening |= {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    assert server.port in {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_the_parent_unfolds_to_its_children(
    study: Study, address: str, page: Page, screenshot: Callable[[str], None]
) -> None:
    page.goto(f"{address}/#/experiments/{study.parent.info.experiment_id}/runs")
    name = page.get_by_text(study.parent.info.run_name, exact=True)
    expect(name.first).to_be_visible()
    parent = page.get_by_role("row").filter(has=name)
    parent.locator('button[data-component-id*="runnamecell"]').last.click()
    for child in study.runs:
        expect(page.get_by_text(child, exact=True)).to_be_visible()
    screenshot("runs")


def test_compare_draws_the_curves_of_three_variants(
    study: Study, address: str, page: Page, screenshot: Callable[[str], None]
) -> None:
    ids = [study.runs[f"{variant}-seed0"].info.run_id for variant in VARIANTS]
    experiments = json.dumps([study.parent.info.experiment_id])
    page.goto(f"{address}/#/compare-runs?runs={json.dumps(ids)}&experiments={experiments}")
    expect(page.get_by_text("Comparing 3 Runs from 1 Experiment")).to_be_visible()
    link = page.get_by_role("link", name="val_accuracy", exact=True).first
    # Not a click, which is lost while the page redraws itself.
    page.goto(f"{address}/{link.get_attribute('href')}")
    curves = page.locator(".js-plotly-plot .scatterlayer .trace .js-line")
    expect(curves.nth(2)).to_be_attached()
    for variant in VARIANTS:
        expect(page.get_by_text(f"{variant}-seed0").first).to_be_visible()
    screenshot("compare")


def test_the_report_opens_in_the_artifact_viewer(
    study: Study, address: str, page: Page, screenshot: Callable[[str], None]
) -> None:
    run = study.parent.info
    page.goto(
        f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report.html"
    )
    report = page.frame_locator("iframe")
    headline = json.loads(study.artifact(study.parent, "effects.json").read_text())["headline"]
    for sentence in headline:
        expect(report.get_by_text(sentence)).to_be_visible()
    pictures = report.locator("img")
    expect(pictures).to_have_count(5)
    widths = pictures.evaluate_all("all => all.map(img => img.naturalWidth)")
    assert min(widths) > 300
    screenshot("report")


def test_the_registered_model_shows_its_aliases(
    study: Study, address: str, page: Page, screenshot: Callable[[str], None]
) -> None:
    page.goto(f"{address}/#/models/synthetic-cnn")
    for alias in (*VARIANTS, "champion"):
        expect(page.get_by_text(re.compile(rf"^@\s*{alias}$")).first).to_be_visible()
    screenshot("model")
