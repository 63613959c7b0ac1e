"""The tutorial's notebook, and the page on Python: every cell and snippet runs as it stands."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, run, runs_in
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from benchmarks.notebook import METADATA, NOTEBOOK, execute, read, without_chance
from pipeline.runs.software import git_dirty

# What makes the notebook take seconds; nothing else is changed.
SMALLER = {"epochs=5": "epochs=1", "seeds=3": "seeds=2", "4000": "600", "1000": "300"}
PAGE = (ROOT / "docs" / "python.md").read_text()
OWN_FILE, OWN_STUDY, *SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def smaller(text: str, sizes: dict[str, str]) -> str:
    for size, less in sizes.items():
        text = text.replace(size, less)
    return text


def kinds(cell: NotebookNode) -> list[list[str]]:
    """What a cell shows: the name of a stream, or the types of a value or picture."""
    return [sorted(one.get("data", [one.get("name", "")])) for one in cell.get("outputs", ())]


def shown(notebook: NotebookNode, kind: str) -> str:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return "\n".join(
        one.text if one.get("name") == kind else one.get("data", {}).get(kind, "")
        for one in outputs
    )


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return read()


def test_every_cell_runs_and_shows_what_is_committed(
    tmp_path: Path, committed: NotebookNode
) -> None:
    small = read()
    for cell in small.cells:
        cell.source = smaller(cell.source, SMALLER)
    assert sum(a.source != b.source for a, b in zip(small.cells, committed.cells, strict=True)) == 3
    done = execute(small, tmp_path)
    assert "srcdoc=" in shown(done, "text/html")  # a page of its own, whose style stays inside
    for cell, as_committed in zip(without_chance(done).cells, committed.cells, strict=True):
        assert kinds(cell) == kinds(as_committed), cell.source
    bars = re.findall(r"^Epoch (\d \([TV]\)), Loss: .*100%", shown(done, "stderr"), re.MULTILINE)
    assert bars == [
        "1 (T)",
        "1 (V)",
        "2 (T)",
        "2 (V)",
        "1 (T)",
        "1 (V)",
    ]  # `epoch`'s, then `train`'s
    assert re.search("BatchNorm .*validation accuracy", shown(done, "stdout"))
    # That of `train` is one of the study's.
    runs = [run.info.run_name for run in runs_in(tmp_path, "train")]
    assert sorted(runs) == sorted(f"{v}-seed{n}" for v in ("base", "bn", "dropout") for n in (0, 1))


def test_the_committed_notebook_is_whole_small_and_of_no_machine(committed: NotebookNode) -> None:
    assert NOTEBOOK.stat().st_size < 700_000
    assert committed.metadata == METADATA
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)
    bars = shown(committed, "stderr")
    assert "\x1b" not in bars  # a text that moves up is shown as further lines
    assert re.search(r"^Study: 100%\|.*\| 9/9 runs$", bars, re.MULTILINE)
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|usr)/|[A-Z]:\\\\", NOTEBOOK.read_text())
    for cell in committed.cells:
        if cell.cell_type == "markdown":
            assert [line for line in cell.source.splitlines() if len(line) > 120] == []
            for path in re.findall(r"\]\(([^)#]+)\)", cell.source):
                assert (NOTEBOOK.parent / path).exists(), path


def test_an_own_network_to_a_shown_report_in_an_empty_folder(tmp_path: Path) -> None:
    assert len((OWN_FILE + OWN_STUDY).replace("\n\n", "\n").splitlines()) <= 10
    cells = [OWN_FILE, smaller(OWN_STUDY, {"seeds=3, epochs=5": "seeds=2, epochs=1"})]
    code = [new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    done = execute(new_notebook(cells=code), tmp_path)  # type: ignore[no-untyped-call]
    assert "width 32 instead of 8" in shown(done, "text/html")
    assert len(runs_in(tmp_path, "train")) == 4


def test_the_snippets_of_the_page_one_after_the_other(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "picture.png")
    sizes = {"epochs=2": "epochs=1", "[0, 1, 2]": "[0, 1]"}
    code = smaller("\n".join(SNIPPETS), sizes)
    is_committed = git_dirty() == "false"
    if not is_committed:  # which alone is repeated
        code = code.partition("(comparison,) = reproduce")[0]
    answer = run(tmp_path, "python", "-c", code)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].startswith("bn-seed0 0.")
    assert lines[-1] == "True" or not is_committed
    assert len(runs_in(tmp_path, "train")) == 4  # the first is used again
