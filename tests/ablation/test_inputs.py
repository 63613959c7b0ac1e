"""What an ablation reads and imports is recorded, and compared with an earlier run's."""

import os
import pickle
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import forget_stores
from PIL import Image
from torch import nn
from trained import spec_of

from pipeline.ablation.inputs import Inputs, differences_here, input_differences
from pipeline.ablation.recording import inputs_of
from pipeline.config import Config
from pipeline.models.trial.reading import record_inputs

FILE = """
import functools, io, json, os, pickle, runpy, sqlite3
from pathlib import Path
import numpy as np
import torch
from torch import nn
from pipeline import Ablation
from pipeline.data.arrays import from_arrays

HERE = Path(__file__).parent
IMPORTED = 0  # at import

@functools.cache
def kept(name):
    return (HERE / name).read_text()

class Net(nn.Module):
    def __init__(self, num_classes, other=False):
        super().__init__()
        self.fc = nn.Linear(54, num_classes)
        if other:
            pass  # other
        else:
            pass  # plain
        pass  # both

    def forward(self, x):
        pass  # forward
        return self.fc(x.flatten(1))

class Loss(nn.CrossEntropyLoss):
    def forward(self, *arguments):
        pass  # loss
        return super().forward(*arguments)

def sgd(parameters, lr):
    pass  # optimizer
    return torch.optim.SGD(parameters, lr)

def step(optimizer, epochs):
    pass  # schedule
    return torch.optim.lr_scheduler.StepLR(optimizer, epochs)

def data():
    pass  # data
    images = np.arange(30 * 54, dtype=np.uint8).reshape(30, 6, 9)
    return from_arrays(images[:20], np.arange(20) % 3, images[20:], np.arange(10) % 3)

ablation = Ablation(
    network=Net, variants={"plain": {}, "other": {"other": True}}, datasets={"data": data},
    criterion=Loss, optimizer=sgd, schedule=step,
)
"""


def write(folder: Path, *changes: tuple[str, str]) -> None:
    text = FILE
    for place, statement in changes:
        old = "0  # at import" if place == "import" else f"pass  # {place}"
        assert old in text
        text = text.replace(old, statement)
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(text)


def record(folder: Path, variant: str = "plain") -> Inputs:
    """What a new process records for a variant."""
    forget_stores()
    spec = spec_of(Config(ablation=str(folder / "mine.py")))
    record_inputs(spec)
    return inputs_of(spec.ablation.source, variant)


def make_files(folder: Path) -> None:
    linear, images = nn.Linear(2, 2), (torch.zeros(1, 2),)
    torch.save(linear.state_dict(), folder / "w.pt")
    torch.jit.save(torch.jit.script(linear), folder / "w.ts")
    torch.export.save(torch.export.export(linear, images), folder / "w.pt2")
    np.save(folder / "w.npy", np.zeros(4))
    (folder / "w.bin").write_bytes(bytes(16))
    (folder / "w.json").write_text("{}")
    (folder / "w.pickle").write_bytes(pickle.dumps(1))
    (folder / "part.py").write_text("x = 1")
    Image.new("RGB", (4, 4)).save(folder / "w.png")
    with sqlite3.connect(folder / "w.sqlite") as base:
        base.execute("create table t (a)")
    base.close()


OPENS = {
    "torch": "torch.load(HERE / 'w.pt')",
    "torch, mapped": "torch.load(str(HERE / 'w.pt'), mmap=True)",
    "torch.jit": "torch.jit.load(f'{HERE}/w.ts')",
    "torch.export": "torch.export.load(f'{HERE}/w.pt2')",
    "torch.from_file": "torch.from_file(f'{HERE}/w.bin', size=4)",
    "a storage, as safetensors does": "torch.UntypedStorage.from_file(f'{HERE}/w.bin', False, 16)",
    "torchvision": "__import__('torchvision').io.read_file(str(HERE / 'w.png'))",
    "numpy": "np.load(HERE / 'w.npy')",
    "numpy, mapped": "np.load(HERE / 'w.npy', mmap_mode='r')",
    "memmap, writable": "np.memmap(HERE / 'w.bin')",
    "fromfile": "np.fromfile(HERE / 'w.bin')",
    "json": "json.loads((HERE / 'w.json').read_text())",
    "a relative path": "open('w.json').read()",
    "bytes": "open(os.fsencode(HERE / 'w.json')).read()",
    "os.open": "os.close(os.open(HERE / 'w.json', os.O_RDONLY))",
    "pickle": "pickle.load(open(HERE / 'w.pickle', 'rb'))",
    "a picture": "__import__('PIL.Image').Image.open(HERE / 'w.png').load()",
    "a table": "__import__('pandas').read_csv(HERE / 'w.json')",
    "a picture, by matplotlib": "__import__('matplotlib.image').image.imread(HERE / 'w.png')",
    "pkgutil": "__import__('pkgutil').get_data(__name__, 'w.json')",
    "a loader": "__loader__.get_data(str(HERE / 'w.json'))",
    "to read and to append": "open(HERE / 'w.json', 'a+').read()",
    "code": "runpy.run_path(HERE / 'part.py')",
    "SQLite, by its name": "sqlite3.connect(HERE / 'w.sqlite').execute('select * from t')",
    "SQLite, by an f-string": "sqlite3.connect(f'{HERE}/w.sqlite').execute('select * from t')",
    "SQLite, below a folder that is looked up": "sqlite3.connect(os.path.join(os.environ.get("
    "'NOWHERE', '.'), 'w.sqlite')).execute('select * from t')",
    "SQLite, by its address": "sqlite3.connect(f'file:{HERE}/w.sqlite?mode=ro', uri=True)"
    ".execute('select * from t')",
    "a thread": "(lambda t: (t.start(), t.join()))(__import__('threading').Thread(target=kept,"
    " args=('w.json',)))",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("statement", OPENS.values(), ids=OPENS)
def test_a_file_is_recorded_however_it_is_opened(statement: str, tmp_path: Path) -> None:
    make_files(tmp_path)
    write(tmp_path, ("both", statement))
    (name,) = record(tmp_path).files
    assert name in statement
    assert record(tmp_path).digest == record(tmp_path).digest


PLACES = ("import", "both", "forward", "loss", "optimizer", "schedule", "data")


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_recorded_wherever_they_are_read(place: str, tmp_path: Path) -> None:
    write(tmp_path, (place, "(HERE / ('sizes' + '.json')).read_text()"))
    (tmp_path / "sizes.json").write_text("1")
    before = record(tmp_path)
    assert list(before.files) == ["sizes.json"]
    (tmp_path / "sizes.json").write_text("2")
    assert input_differences(before, record(tmp_path)) == "sizes.json has changed since"
    assert differences_here(before, str(tmp_path / "mine.py")) == "sizes.json has changed since"
    (tmp_path / "sizes.json").write_text("1")
    os.utime(tmp_path / "sizes.json", (0, 0))
    assert not input_differences(before, record(tmp_path))


def test_settings_are_recorded_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    write(tmp_path, ("data", "(HERE / 'W.JSON').read_text()"))
    (tmp_path / "W.JSON").write_text("1")
    assert list(record(tmp_path).files) == ["W.JSON"]


@pytest.mark.parametrize("read", ["(HERE / 'w.json').read_text()", "(HERE / 'w.json').exists()"])
def test_a_file_from_the_future_is_compared_as_well(read: str, tmp_path: Path) -> None:
    write(tmp_path, ("both", read))
    ahead = time.time() + 1e5
    for content in ("1", "2"):
        (tmp_path / "w.json").write_text(content)
        os.utime(tmp_path / "w.json", (ahead, ahead))
        if content == "1":
            before = record(tmp_path)
    assert input_differences(before, record(tmp_path)) == "w.json has changed since"


def test_a_file_that_another_library_opens_for_itself_still_counts_if_it_is_named(
    tmp_path: Path,
) -> None:
    # As `import` does, whose reads are not the ablation's; then C or Rust reads it again.
    reader = "exec(compile('def f(path): open(path).close()', 'x.py', 'exec'), keeping)"
    write(
        tmp_path,
        ("import", f"0; keeping = {{'__name__': 'numba.caching'}}; {reader}"),
        ("both", "keeping['f'](HERE / 'w.bin')"),
    )
    make_files(tmp_path)
    before = record(tmp_path)
    assert list(before.files) == ["w.bin"]
    (tmp_path / "w.bin").write_bytes(b"other")
    assert input_differences(before, record(tmp_path)) == "w.bin has changed since"
    # While a study runs, its own training may write it.
    assert not differences_here(before, str(tmp_path / "mine.py"))


def test_a_file_of_the_same_name_in_the_current_folder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", ("both", "(HERE / 'w.json').read_text()"))
    for folder in (tmp_path, tmp_path / "mine"):
        (folder / "w.json").write_text("1")
    assert list(record(tmp_path / "mine").files) == ["w.json"]
    assert not record(tmp_path / "mine").guessed


def test_what_the_data_is_made_of_is_in_its_own_digest(tmp_path: Path) -> None:
    write(
        tmp_path,
        (
            "data",
            "[f.read_bytes() for f in HERE.glob('*.png')]; np.load(HERE / 'a.npy');"
            " from_npz(HERE / 'd.npz')",
        ),
        ("import", "0; from pipeline.data.arrays import from_npz"),
    )
    make_files(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros(1))
    images, labels = np.zeros((3, 6, 9), np.uint8), np.arange(3)
    np.savez(
        tmp_path / "d.npz",
        training_images=images,
        training_labels=labels,
        validation_images=images,
        validation_labels=labels,
    )
    assert record(tmp_path) == record(tmp_path)
    assert not record(tmp_path).files


def test_a_file_that_one_variant_reads_is_that_variants(tmp_path: Path) -> None:
    make_files(tmp_path)
    write(tmp_path, ("other", "torch.load(HERE / 'w.pt')"))
    other, plain = record(tmp_path, "other"), record(tmp_path, "plain")
    assert (list(plain.files), list(other.files)) == ([], ["w.pt"])
    torch.save({}, tmp_path / "w.pt")
    assert input_differences(other, record(tmp_path, "other")) == "w.pt has changed since"
    assert not input_differences(plain, record(tmp_path, "plain"))


def test_a_file_that_is_read_once_and_kept_may_be_every_variants(tmp_path: Path) -> None:
    make_files(tmp_path)
    write(tmp_path, ("both", "kept('w.json')"))
    for variant in ("plain", "other"):
        (tmp_path / "w.json").write_text("{}")
        before = record(tmp_path, variant)
        assert list(before.files) == ["w.json"]
        (tmp_path / "w.json").write_text("[]")
        assert input_differences(before, record(tmp_path, variant)) == "w.json has changed since"


def test_a_folder_may_move_with_its_files_and_files_may_move_alone(tmp_path: Path) -> None:
    one, elsewhere = tmp_path / "one", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(one, ("both", f"torch.load(HERE / 'w.pt'), open('{elsewhere}/sizes.yaml').read()"))
    make_files(one)
    (elsewhere / "sizes.yaml").write_text("a: 1")
    before = record(one)
    assert before.files.keys() == {"w.pt", "sizes.yaml"}
    shutil.copytree(one, tmp_path / "two")
    shutil.rmtree(one)
    assert record(tmp_path / "two").digest == before.digest
    elsewhere.rename(tmp_path / "there")
    write(
        tmp_path / "two",
        ("both", f"torch.load(HERE / 'w.pt'), open('{tmp_path}/there/sizes.yaml').read()"),
    )
    assert not input_differences(before, record(tmp_path / "two"))
    (tmp_path / "there" / "sizes.yaml").write_text("a: 2")
    assert input_differences(before, record(tmp_path / "two")) == "sizes.yaml has changed since"


def test_files_of_one_name_that_change_places_have_changed(tmp_path: Path) -> None:
    write(tmp_path, ("both", "(HERE / 'a/w.txt').read_text(), (HERE / 'b/w.txt').read_text()"))
    for content, other in (("one", "two"), ("two", "one")):
        for folder, text in (("a", content), ("b", other)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "w.txt").write_text(text)
        if content == "one":
            before = record(tmp_path)
    changes = "a/w.txt has changed since, b/w.txt has changed since"
    assert input_differences(before, record(tmp_path)) == changes


def test_a_link_counts_by_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path, ("both", "(HERE / 'w.json').read_text()"))
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "w.json").symlink_to("one")
    before = record(tmp_path)
    (tmp_path / "w.json").unlink()
    (tmp_path / "w.json").symlink_to("two")
    assert input_differences(before, record(tmp_path)) == "w.json has changed since"
    # The folder itself may be reached by a link.
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    assert record(link).digest == record(tmp_path).digest


def test_a_file_that_is_gone_or_new_is_named(tmp_path: Path) -> None:
    write(tmp_path, ("both", "[file.read_text() for file in HERE.glob('*.json')]"))
    without = record(tmp_path)
    (tmp_path / "w.json").write_text("1")
    before = record(tmp_path)
    assert input_differences(without, before) == "w.json was not read then"
    (tmp_path / "w.json").unlink()
    assert input_differences(before, record(tmp_path)) == "w.json is missing now"
    for number in range(5):
        (tmp_path / f"{number}.json").write_text("1")
    assert input_differences(without, record(tmp_path)).endswith(
        "2.json was not read then and 2 more"
    )


@pytest.mark.parametrize(
    "write_it",
    [
        "np.save(HERE / 'cache.npy', np.zeros(3))",
        "torch.save(torch.zeros(3), HERE / 'cache.npy')",  # in C++
        "open(HERE / 'cache.npy', 'w').write('1')",
        "(np.save(HERE / 'part.npy', np.zeros(3)),"
        " os.replace(HERE / 'part.npy', HERE / ('cache' + '.npy')))",
    ],
)
def test_a_cache_that_the_ablation_makes_for_itself_is_no_input(
    write_it: str, tmp_path: Path
) -> None:
    read = "(HERE / 'cache.npy').read_bytes() if (HERE / 'cache.npy').exists() else " + write_it
    write(tmp_path, ("both", f"{read}; open(HERE / 'log.csv', 'a').write('x')"))
    first, second, third = record(tmp_path), record(tmp_path), record(tmp_path)
    assert not input_differences(first, second)
    assert not input_differences(second, third)
    assert not differences_here(first, str(tmp_path / "mine.py"))
    np.save(tmp_path / "cache.npy", np.ones(3))
    assert input_differences(first, record(tmp_path)) == "cache.npy has changed since"


def test_packages_count_by_their_version_and_other_modules_by_what_they_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, library = tmp_path / "site-packages", tmp_path / "library"
    info = installed / "fancy_nets-1.0.8.dist-info"
    for path, content in {
        installed / "fancynets" / "__init__.py": "open(__file__[:-11] + 'table.csv').read()",
        installed / "fancynets" / "table.csv": "1",
        info / "METADATA": "Metadata-Version: 2.1\nName: fancy-nets\nVersion: 1.0.8\n",
        info / "top_level.txt": "fancynets\n",
        library / "blocks.py": "import fancynets\nwidth = 8\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(library)
    monkeypatch.syspath_prepend(installed)
    write(tmp_path / "mine", ("both", "import blocks, not_there if False else blocks"))
    write(tmp_path / "mine", ("other", "import not_there"), ("both", "import blocks"))
    before = record(tmp_path / "mine")
    assert list(before.files) == ["blocks.py"]
    assert record(tmp_path / "mine").files == before.files  # although it is imported already
    assert before.packages["fancy-nets"] == "1.0.8"
    assert before.packages["not_there"] == "(not installed)"
    assert before.packages["numpy"] == np.__version__
    assert "torch" not in before.packages  # a tag of its own
    (library / "blocks.py").write_text("import fancynets\nwidth = 8  # channels\n")
    assert not input_differences(before, record(tmp_path / "mine"))
    (library / "blocks.py").write_text("import fancynets\nwidth = 9\n")
    info.rename(installed / "fancy_nets-1.0.9.dist-info")
    metadata = installed / "fancy_nets-1.0.9.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0.8", "1.0.9"))
    said = "blocks.py has changed since, fancy-nets 1.0.9 instead of 1.0.8"
    assert input_differences(before, record(tmp_path / "mine")) == said
    assert differences_here(before, str(tmp_path / "mine" / "mine.py")) == said


def test_of_the_homes_hidden_folders_only_weights_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "home" / ".cache" / "hub"
    cache.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("token", "model.safetensors", "version.txt"):
        (cache / name).write_text("1")
    write(
        tmp_path / "mine",
        ("both", f"[open(f'{cache}/{{n}}').read() for n in os.listdir('{cache}')]"),
    )
    assert list(record(tmp_path / "mine").files) == ["model.safetensors"]


def test_what_fails_is_left_to_the_trial(tmp_path: Path) -> None:
    write(tmp_path, ("both", "open('nowhere.json')"))
    assert not record(tmp_path).files
