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

TRAIN = """
import sys
from pipeline.__main__ import main

try:
    main()
finally:
    assert "torch" in sys.modules
    assert "sklearn" not in sys.modules
"""


def test_imports_are_not_searched_for_garbage_but_what_follows_is(tmp_path: Path) -> None:
    answer = run(tmp_path, "python", "-c", IMPORT)
    assert answer.status == 0, answer.err


def test_training_does_not_import_scikit_learn_which_only_evaluation_needs(tmp_path: Path) -> None:
    train = ["train", "--dataset", "synthetic", "--train-images", "100", "--epochs", "1"]
    answer = run(tmp_path, "python", "-c", TRAIN, *train)
    assert answer.status == 0, answer.err
    assert "registered as" in answer.out
