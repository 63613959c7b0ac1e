"""What of an ablation's and of the project's code decides numbers, and in which encodings."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, Answer, forget_stores, run, runs_in

from pipeline.ablation.loading import load_ablation
from pipeline.ablation.source import code_of, hidden_neighbours
from pipeline.ablation.syntax import ast_digest
from pipeline.config import AUTO
from pipeline.reproduction.code import ablation_of
from pipeline.runs import provenance
from pipeline.runs.queries import check_ours

CODE = '''
import math  # for the pi

class Net:
    """What it is."""
    width: int = 8

    def area(self, radius, factor=2.0):
        """Its area."""
        return f"{math.pi * radius ** 2 * factor:>{self.width}} m"
'''
SAME = {
    "a comment": ("import math  # for the pi", "# pi\nimport math"),
    "a docstring": ("Its area.", "The area of a disc."),
    "no docstring": ('        """Its area."""\n', ""),
    "a remark": ("    width: int = 8", '    width: int = 8\n    """In pixels."""'),
    "formatting": ("radius, factor=2.0", "\n            radius,\n            factor=2.0,\n"),
    "quotes": ('f"{math.pi * radius ** 2 * factor:>{self.width}} m"', "(f'{math.pi*radius**2*"
               "factor:>{self.width}}' ' m')"),
    "ends of lines": ("\n", "\r\n"),
}  # fmt: skip
OTHER = {
    "a constant": ("radius ** 2", "radius ** 3"),
    "an operator": ("math.pi * radius", "math.pi / radius"),
    "a default": ("factor=2.0", "factor=2.5"),
    "a type of number": ("width: int = 8", "width: int = 8.0"),
    "a name": ("math.pi", "math.tau"),
    "a string": (" m", " km"),
    "an order": ("radius, factor=2.0", "factor, radius=2.0"),
    "a statement": ("import math ", "import math; math.pi = 3 "),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_what_computes_nothing_does_not_count(old: str, new: str) -> None:
    assert old in CODE
    assert ast_digest(CODE.replace(old, new).encode()) == ast_digest(CODE.encode())


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_what_computes_counts(old: str, new: str) -> None:
    assert old in CODE
    assert ast_digest(CODE.replace(old, new).encode()) != ast_digest(CODE.encode())


def test_the_digest_is_the_same_in_every_version_of_python() -> None:
    # Versions differ in the fields of a node, and in how they divide the text of an f-string.
    expected = "d35cf26751dcbeebf5aedae81062a11f"
    assert ast_digest(CODE.encode())[:32] == expected


def test_what_is_no_python_code_is_digested_as_it_is() -> None:
    assert ast_digest(b"def f(:") != ast_digest(b"def g(:")
    assert ast_digest(b"\0") != ast_digest(b"\0\0")
    assert ast_digest(b"x = " + b"1+" * 5000 + b"1") != ast_digest(b"x = " + b"1+" * 5000 + b"2")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the project's code, of which the digest is taken."""
    copy = shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    yield copy
    provenance._result_code_digest.cache_clear()  # no later test has the copy's


UNCHANGED = {
    "a mirror's address": ("data/fetching/sources.py", "www.cs.toronto.edu", "mirror.example"),
    "a message": ("ablation/checks.py", "name at least one", "give one at least"),
    "words": ("ablation/wording.py", "on top of", "on"),
    "how a folder is read": ("data/pictures/folder.py", '/ "training"', '/ "train"'),
    "a comment": ("training/loop.py", "# Validation keeps no", "# It keeps no"),
    "a docstring": ("training/epoch.py", '"""The', '"""In short, the'),
}
CHANGED = {
    "a constant": ("training/loop.py", "VALIDATION_BATCH_SIZE = 500", "VALIDATION_BATCH_SIZE = 50"),
    "a default": ("ablation/definition.py", "weight_decay: float = 0.0", "weight_decay: float = 1"),
    "augmentation": ("data/augmentation.py", "= 15", "= 16"),
}


def edited(package: Path, name: str, old: str, new: str) -> str:
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new))
    return digest()


def digest() -> str:
    """That of the tutorial's ablation, as a new process finds it."""
    provenance._result_code_digest.cache_clear()
    return provenance.code_digest(load_ablation(AUTO))


@pytest.mark.parametrize("edit", UNCHANGED.values(), ids=UNCHANGED)
def test_an_edit_that_decides_no_number_leaves_runs_reusable(
    edit: tuple[str, str, str], package: Path
) -> None:
    before = digest()
    assert edited(package, *edit) == before


@pytest.mark.parametrize("edit", CHANGED.values(), ids=CHANGED)
def test_an_edit_that_decides_numbers_is_another_code(
    edit: tuple[str, str, str], package: Path
) -> None:
    before = digest()
    assert edited(package, *edit) != before


TINY = """
import torch
from torch import nn
from pipeline import Ablation
from pipeline.data import synthetic

class Net(nn.Module):
    def __init__(self, num_classes, größe=1):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

ablation = Ablation(
    network=Net, variants={"a": {}, "b": {"größe": 2}}, datasets={"synthetic": synthetic.generate},
)
"""
SMALL = ("--train-images", "100", "--epochs", "1")
ENCODINGS = {
    "latin-1": b"# -*- coding: latin-1 -*-\n" + TINY.encode("latin-1"),
    "a byte order mark": "\ufeff".encode() + TINY.encode(),
    "a DOS code page": b"# coding: cp850\r\n" + TINY.replace("\n", "\r\n").encode("cp850"),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_a_file_may_have_any_encoding_that_python_reads(
    content: bytes, pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_bytes(content)
    answer = pipeline("train", "--ablation", "mine.py", *SMALL)
    assert answer.status == 0, answer.err
    record = check_ours(runs_in(tmp_path)[0])
    copy = mlflow.artifacts.download_artifacts(f"runs:/{record.run_id}/ablation/mine.py")
    assert Path(copy).read_bytes() == content
    # `reproduce` uses the file while it computes the same, and otherwise the run's copy.
    file.write_bytes(content + b"# done\n")
    assert ablation_of(record, tmp_path / "used") == str(file)
    file.write_bytes(content + b"x = 1\n")
    other = ablation_of(record, tmp_path / "copied")
    assert Path(other).read_bytes() == content
    # The digest is of the text, whatever its bytes.
    assert ast_digest(content) == ast_digest(TINY.encode())


def test_a_file_that_python_can_not_decode_is_refused_in_one_line(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    for content in (TINY.encode("latin-1"), TINY.encode("utf-16"), b"# coding: no\n"):
        (tmp_path / "mine.py").write_bytes(content)
        answer = pipeline("train", "--ablation", "mine.py", *SMALL)
        assert answer.status == 2
        assert len(answer.error_lines) == 1
        assert "mine.py" in answer.err
        assert "Traceback" not in answer.err
        assert ("save the file as UTF-8" in answer.err) == (b"\0" in content)
    assert not runs_in(tmp_path)


def test_names_of_other_modules_replace_them_neither_here_nor_in_workers(tmp_path: Path) -> None:
    # The file has the name of a standard module, and neighbours that are never meant.
    for name in ("tempfile", "torch", "numpy", "socket", "tqdm"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was replaced')")
    (tmp_path / "layers.py").write_text("from torch import nn\n")
    (tmp_path / "random.py").write_text(
        TINY.replace("from torch import nn", "from layers import nn")
    )
    study = ["ablate", "--ablation", "random.py", "--seeds", "1", "--jobs", "2", *SMALL]
    answer = run(tmp_path, "python", "-m", "pipeline", *study)
    assert answer.status == 0, answer.err + answer.out
    assert "a-seed0: validation accuracy" in answer.err + answer.out
    hidden = [line for line in answer.err.splitlines() if line.startswith("warning: 'torch'")]
    assert hidden == [
        f"warning: 'torch' in the ablation is another module, not {tmp_path}/torch.py; rename the"
        " file to import it"
    ]


def test_a_neighbour_comes_before_a_helper_of_that_name_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, value in ((tmp_path, 1), (tmp_path / "mine", 2), (tmp_path / "library", 3)):
        folder.mkdir(exist_ok=True)
        (folder / "my_helper.py").write_text(f"value = {value}")
    text = TINY.replace("ablation =", "import my_helper\nassert my_helper.value == 2\nablation =")
    (tmp_path / "mine" / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    reference = str(tmp_path / "mine" / "mine.py")
    load_ablation(reference)
    assert not hidden_neighbours(reference)
    del sys.modules["my_helper"]
    # A folder that PYTHONPATH names comes first, with a warning.
    monkeypatch.setattr(sys, "path", [str(tmp_path / "library"), *sys.path])
    assert hidden_neighbours(reference) == [("my_helper", tmp_path / "mine" / "my_helper.py")]


def test_code_from_elsewhere_and_packages_are_found_wherever_they_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, folder = tmp_path / "library", tmp_path / "mine"
    for path, content in {
        library / "nets" / "__init__.py": "from . import blocks\n",
        library / "nets" / "blocks.py": "import PIL.Image, os\nfrom .more import x\n",
        library / "nets" / "more.py": "x = 1\n",
        library / "unused.py": "",
        folder / "mine.py": "import yaml, helper\nfrom pipeline import Ablation\n",
        folder / "helper.py": "def f():\n    from nets import blocks\n    __import__('sklearn')\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(library)
    monkeypatch.syspath_prepend(folder)
    forget_stores()
    code = code_of(f"{folder}/mine.py")
    assert [path.name for path in code.own] == ["helper.py", "mine.py"]
    assert sorted(code.elsewhere) == ["nets/__init__.py", "nets/blocks.py", "nets/more.py"]
    assert code.packages == ["PIL", "sklearn", "yaml"]


@pytest.mark.parametrize(
    "code",
    [
        "HERE / 'weights' / 'w.h5'",
        "Path('weights') / 'w.h5'",
        "os.path.join(HERE, 'weights', 'w.h5')",
        "f'{HERE}/weights/w.h5'",
        "f'{HERE / \"weights\"}/w.h5'",
        "str(HERE / 'weights') + '/w.h5'",
        "str(HERE) + '/weights' + '/w.h5'",
        "'%s/weights/w.h5' % HERE",
        "'%(here)s/weights/w.h5' % {'here': HERE}",
        "'{here}/weights/w.h5'.format(here=HERE)",
        "''.join([str(HERE), '/weights/w.h5'])",
        "f'file:{HERE}/weights/w.h5?mode=ro'",
        "'sqlite:///weights/w.h5'",
    ],
)
def test_the_name_of_a_file_is_found_however_a_path_is_put_together(
    code: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(f"path = {code}\n")
    assert ("weights/w.h5", tmp_path) in code_of(f"{tmp_path}/mine.py").named


def test_code_that_is_nested_deeply_is_searched_in_no_time(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 'w.h5'" + " + str(x)" * 900)
    assert ("w.h5", tmp_path) in code_of(f"{tmp_path}/mine.py").named


@pytest.mark.parametrize(
    "call",
    [
        "import_module('.blocks', package='nets')",
        "import_module('.blocks', 'nets')",
        "import_module('..blocks', 'nets.more')",
        "import_module('nets.blocks', package=None)",
    ],
)
def test_a_module_that_a_call_imports_is_found_by_its_name_in_its_package(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_stores()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("import_module('.late', __package__)\n")
    for name in ("blocks", "late"):
        (tmp_path / "nets" / f"{name}.py").write_text("")
    (tmp_path / "mine.py").write_text(f"from importlib import import_module\n{call}\n")
    code = code_of(f"{tmp_path}/mine.py")
    names = ["mine.py", "nets/__init__.py", "nets/blocks.py", "nets/late.py"]
    assert [path.relative_to(tmp_path).as_posix() for path in code.own] == names
    assert not code.packages
