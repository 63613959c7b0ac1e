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
from conftest import PATIENCE, ROOT, Answer, Study, free_port, runs_in, start
from playwright.sync_api import Browser, Page, expect

from pipeline.store.interface import MODE, where_to_look

VARIANTS = ("base", "bn", "dropout")
# MLflow opens its assistant beside every page of a new visitor.
WITHOUT_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


class Server(NamedTuple):
    """What `make ui` has started, its port, and the file that the browser would open, by a line."""

    process: psutil.Process
    port: int
    opened: Path

    def link(self, printed: str) -> str:
        """A link as a command has printed it, on this server instead of the usual port."""
        return printed.replace("http://127.0.0.1:5000/", f"http://127.0.0.1:{self.port}/")


@pytest.fixture(scope="module")
def server(study: Study) -> Iterator[Server]:
    """`make ui`, started in the study's folder."""
    port = free_port()
    # In the environment that the tests run in. A link, since make can't take a folder with a space.
    (study.folder / "environment").symlink_to(sys.prefix)
    make = ["make", "--makefile", str(ROOT / "Makefile"), "--old-file", ".venv/installed"]
    make += ["BIN=environment/bin", "ui", f"PORT={port}"]
    opened = study.folder / "opened"
    browser = study.folder / "browser"  # which records what it is asked to open
    browser.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\necho NOISE | tee /dev/stderr\n')
    browser.chmod(0o755)
    started = start(study.folder, "env", f"BROWSER='{browser}' %s", *make)
    deadline = time.monotonic() + 180  # it takes 11 s of a processor, of which others may take most
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert started.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
    yield Server(psutil.Process(started.pid), port, opened)
    os.killpg(started.pid, signal.SIGTERM)
    out, err = started.communicate(timeout=20)
    address = f"http://127.0.0.1:{port}/#/experiments/"
    assert f"MLflow shows the runs at {address}" in out
    assert f"print name http://127.0.0.1:5000, unless MLFLOW_PORT is {port}\n" in out
    assert "NOISE" not in out + err
    assert "Security middleware" not in err
    assert " 200 " not in out + err  # no line for each request


@pytest.fixture
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def links_in(said: str) -> list[str]:
    """The links that a command has printed."""
    return re.findall(r"http://\S+", said)


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


def test_make_ui_opens_the_experiment_of_the_newest_run(study: Study, server: Server) -> None:
    deadline = time.monotonic() + 60
    while not server.opened.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (link,) = server.opened.read_text().splitlines()
    # A test in another process may have begun a run since.
    last = max(run.info.start_time for run in study.runs.values())
    newest = {r.info.experiment_id for r in runs_in(study.folder) if r.info.start_time >= last}
    page = f"http://127.0.0.1:{server.port}/#/experiments"
    assert link in {f"{page}/{experiment}{MODE}" for experiment in newest}


def test_a_first_visitor_sees_the_runs_at_every_link(
    study: Study, server: Server, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/mlflow.db")
    child = study.children["bn"].info
    ended = where_to_look(child.experiment_id, child.run_id)  # as `train` ends
    run, runs = links_in(ended)
    report, same_runs = links_in(study.answer.out)
    assert runs == same_runs
    for link, seen in {
        run: child.run_name,
        runs: study.parent.info.run_name,
        report: "report.html",
    }.items():
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(server.link(link))
        expect(page.get_by_text(seen, exact=True).first).to_be_visible()
        # Which the sidebar has in MLflow's other mode under no experiment.
        expect(page.get_by_role("link", name="Model registry")).to_be_visible()
        expect(page.get_by_role("link", name="Runs", exact=True).first).to_be_visible()
        page.context.close()


def test_of_a_server_the_link_is_opened(
    server: Server,
    address: str,
    pipeline: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    answer = pipeline("ui")
    assert answer.status == 0
    (link,) = links_in(answer.out)
    assert link.startswith(f"{address}/#/experiments/")


def test_the_parent_unfolds_to_its_children(
    study: Study, server: Server, page: Page, screenshot: Callable[[str], None]
) -> None:
    *_, runs = links_in(study.answer.out)
    page.goto(server.link(runs))
    title = page.get_by_text(study.parent.info.run_name, exact=True)
    expect(title.first).to_be_visible()
    parent = page.get_by_role("row").filter(has=title)
    parent.locator('button[data-component-id*="runnamecell"]').last.click()
    for child in study.runs:
        expect(page.get_by_text(child, exact=True)).to_be_visible()
    screenshot("runs")


def test_compare_draws_the_curves_of_three_variants(
    study: Study, address: str, page: Page, screenshot: Callable[[str], None]
) -> None:
    ids = [study.runs[f"{variant}-seed0"].info.run_id for variant in VARIANTS]
    experiments = json.dumps([study.parent.info.experiment_id])
    mode = MODE.replace("?", "&")  # MLflow reads the runs from what follows the `?`
    query = f"?runs={json.dumps(ids)}&experiments={experiments}{mode}"
    page.goto(f"{address}/#/compare-runs{query}")
    expect(page.get_by_text("Comparing 3 Runs from 1 Experiment")).to_be_visible()
    link = page.get_by_role("link", name="val_accuracy", exact=True).first
    # Not a click, which is lost while the page redraws itself.
    page.goto(f"{address}/{link.get_attribute('href')}{mode}")
    curves = page.locator(".js-plotly-plot .scatterlayer .trace .js-line")
    expect(curves.nth(2)).to_be_attached()
    for variant in VARIANTS:
        expect(page.get_by_text(f"{variant}-seed0").first).to_be_visible()
    screenshot("compare")


def test_the_report_opens_in_the_artifact_viewer(
    study: Study, server: Server, page: Page, screenshot: Callable[[str], None]
) -> None:
    link, _ = links_in(study.answer.out)
    page.goto(server.link(link))
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
    page.goto(f"{address}/#/models/synthetic-cnn{MODE}")
    for alias in (*VARIANTS, "champion"):
        expect(page.get_by_text(re.compile(rf"^@\s*{alias}$")).first).to_be_visible()
    screenshot("model")
