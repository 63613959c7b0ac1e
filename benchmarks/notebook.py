"""Execute docs/tutorial.ipynb and keep what it shows: `python -m benchmarks.notebook`.

What differs from run to run without need is left out: the times of cells and of bars, which
Python the kernel is, and the report, a page of its own that GitHub doesn't show.
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from benchmarks.figures import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
# Neither seconds nor batches per second; read by tqdm.
BAR = {"TQDM_BAR_FORMAT": "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}"}
# tqdm's, about the bars that it would show with ipywidgets. It names a file of this machine.
WARNINGS = {"PYTHONWARNINGS": "ignore:IProgress not found"}
REPORT = "The study's report, which is shown when the cell is run."
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read() -> NotebookNode:
    """Return the notebook as it is committed."""
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Execute a notebook in a folder, with this code and this Python; return it with outputs.

    Raises CellExecutionError, with the cell and its traceback, for the first cell that fails.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / ".ipython"), **BAR, **WARNINGS}
    client = NotebookClient(
        notebook,
        timeout=None,  # for a cell; whoever calls this has a patience of their own
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # also of a bar that moves, the last state
        resources={"metadata": {"path": str(folder)}},
    )
    done: NotebookNode = client.execute(env=inherited | own)
    return done


def without_chance(done: NotebookNode) -> NotebookNode:
    """Take out of an executed notebook what differs from run to run without need."""
    for cell in done.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:  # of a study's bar, which has a format of its own
                output.text = re.sub(r"(?m)^(Study: .*) \[.*\] *$", r"\1", output.text)
            if "<iframe" in output.get("data", {}).get("text/html", ""):
                output.data = {"text/plain": REPORT}
    done.metadata = METADATA
    return done


def main() -> None:
    """Execute the notebook and write it."""
    with TemporaryDirectory() as folder:
        done = execute(read(), Path(folder))
    nbformat.write(without_chance(done), NOTEBOOK)  # type: ignore[no-untyped-call]
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
