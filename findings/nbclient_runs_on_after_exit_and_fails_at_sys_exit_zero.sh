#!/bin/sh
# GUESS: `exit()` ends a notebook that is executed by nbclient (so by nbconvert and papermill), as it
#   ends the kernel in Jupyter: a guard such as `if not data: exit()` keeps what is below it from
#   running. `sys.exit(0)` ends the notebook too, and says that all is well.
# REAL: `exit()` and `quit()` return. The rest of the cell runs, and so do all cells below; then the
#   notebook counts as executed, without a word. `sys.exit(0)` does end it, but with an error, as
#   sys.exit(1) does. So what ends a script early and in good order has no counterpart but an `if`.
# VERSIONS: nbclient 0.11.0, ipykernel 7.4.0, ipython 9.18.1, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   pass         before, after, next cell  executed
#   exit()       before, after, next cell  executed
#   quit()       before, after, next cell  executed
#   sys.exit(0)  before                    CellExecutionError, SystemExit: 0
#   sys.exit(1)  before                    CellExecutionError, SystemExit: 1
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nbclient==0.11.0 ipykernel==7.4.0 ipython==9.18.1

cd "$folder"
export IPYTHONDIR="$folder/ipython" JUPYTER_RUNTIME_DIR="$folder/runtime"
"$folder/venv/bin/python" - 2> log <<'PYTHON'
import sys

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook


def executed(end):
    """What a notebook prints whose first cell has `end` in its middle, and how it ended."""
    cells = [f"import sys\nprint('before')\n{end}\nprint('after')", "print('next cell')"]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    try:
        NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
        how = "executed"
    except CellExecutionError as error:
        how = f"CellExecutionError, {error.ename}: {error.evalue}"
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    printed = "".join(one.text for one in outputs if one.get("name") == "stdout")
    return printed.split("\n")[:-1], how


seen = {end: executed(end) for end in ("pass", "exit()", "quit()", "sys.exit(0)", "sys.exit(1)")}
for end, (printed, how) in seen.items():
    print(f"{end:12} {', '.join(printed):25} {how}")
ran_on = all(seen[end] == (["before", "after", "next cell"], "executed") for end in list(seen)[:3])
failed = seen["sys.exit(0)"][1] == "CellExecutionError, SystemExit: 0"
sys.exit(0 if ran_on and failed else "this has changed")
PYTHON
