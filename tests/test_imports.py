"""A command's imports, which take most of its start."""

from pathlib import Path

from conftest import run

IMPORT = """
import gc
from pipeline.imports import importing

def searches():
    return [generation["collections"] for generation in gc.get_stats()]

before = searches()
with importing():
    import torch
    assert searches() == before, searches()
assert gc.get_freeze_count() > 100_000
assert gc.isenabled()
"""


def test_imports_are_not_searched_for_garbage_but_what_follows_is(tmp_path: Path) -> None:
    answer = run(tmp_path, "python", "-c", IMPORT)
    assert answer.status == 0, answer.err


def test_training_does_not_import_scikit_learn_which_only_evaluation_needs(tmp_path: Path) -> None:
    code = "import sys, pipeline.runs.training_run, pipeline.report.figures\n"
    answer = run(tmp_path, "python", "-c", f"{code}assert 'sklearn' not in sys.modules")
    assert answer.status == 0, answer.err
