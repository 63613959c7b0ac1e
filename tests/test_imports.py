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
