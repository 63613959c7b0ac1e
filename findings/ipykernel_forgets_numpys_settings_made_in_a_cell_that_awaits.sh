#!/bin/sh
# GUESS: What a notebook's cell sets holds in the cells below it: `np.seterr(all="raise")`, so that no
#   NaN gets further, `np.set_printoptions`, `decimal.getcontext().prec`. An `await` in the same cell,
#   for some other purpose, changes nothing about that.
# REAL: A cell that has an `await` anywhere runs as a task of its own, and these settings end with it:
#   NumPy 2 and decimal keep them in context variables. In the next cell dividing by zero only warns
#   again. Variables stay, and so does what a module keeps itself, such as the state of `random`.
# VERSIONS: ipykernel 7.4.0, ipython 9.18.1, nbclient 0.11.0, numpy 2.4.6, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#                    seterr, precision, decimal's, random, variable
#   without await    raise 2 5 0.134 1
#   with await       warn 8 28 0.134 1
#   await, same cell raise 2 5 0.134 1
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nbclient==0.11.0 ipykernel==7.4.0 ipython==9.18.1 numpy==2.4.6

cd "$folder"
export IPYTHONDIR="$folder/ipython" JUPYTER_RUNTIME_DIR="$folder/runtime"
"$folder/venv/bin/python" - 2> log <<'PYTHON'
import sys

from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SET = """\
import asyncio, decimal, random
import numpy as np
np.seterr(all="raise")
np.set_printoptions(precision=2)
decimal.getcontext().prec = 5
random.seed(1)
plain = 1
"""
SHOW = """\
error, digits = np.geterr()["divide"], np.get_printoptions()["precision"]
print(error, digits, decimal.getcontext().prec, round(random.random(), 3), plain)
"""


def settings(*cells):
    """What the last cell prints."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return notebook.cells[-1].outputs[0].text.strip()


seen = {
    "without await": settings(SET, SHOW),
    "with await": settings(SET + "await asyncio.sleep(0)\n", SHOW),
    "await, same cell": settings(SET + "await asyncio.sleep(0)\n" + SHOW),
}
print(f"{'':16} seterr, precision, decimal's, random, variable")
for name, found in seen.items():
    print(f"{name:16} {found}")
kept, lost, same = seen.values()
as_seen = kept == same == "raise 2 5 0.134 1" and lost == "warn 8 28 0.134 1"
sys.exit(0 if as_seen else "this has changed")
PYTHON
