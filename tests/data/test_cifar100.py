"""CIFAR-100 is found, verified before it is trusted, and read correctly, in every format."""

import multiprocessing
import os
import pickle
import resource
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import lookalike
import numpy as np
import pytest
import torch
from conftest import REAL_DATA, Answer, free_port, needs_real_data, run_project, runs_in

from pipeline.data import cifar100, cifar100_files
from pipeline.data.fetching import sources
from pipeline.data.fetching.sources import ARCHIVE, PARQUET, Source
from pipeline.errors import InputError

pytestmark = pytest.mark.usefixtures("news")
ARRAYS = lookalike.draw()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cached arrays, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mlflow-ablation" / "arrays"


@pytest.fixture
def forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the look-alike in every form, each trusted."""
    root = tmp_path / "forms"
    lookalike.write_every_form(root, ARRAYS)
    lookalike.trust(monkeypatch, root, **ARRAYS)
    return root


def keep(root: Path, kept: str) -> None:
    """Remove what is not of the form `kept`."""
    for path in root.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("form", ["cifar-100-python", "cifar-100-python.tar.gz", "cifar100"])
def test_every_form_gives_the_same_arrays(form: str, forms: Path) -> None:
    keep(forms, form)
    assert lookalike.is_loaded(forms, ARRAYS)
    data = cifar100.load(str(forms))
    assert (data.training.images.dtype, data.training.labels.dtype) == (torch.uint8, torch.int64)


def test_parquet_files_may_lie_there_as_a_browser_saves_them(forms: Path) -> None:
    keep(forms, "cifar100")
    for path in (forms / "cifar100").iterdir():
        path.rename(forms / path.name)
    assert lookalike.is_loaded(forms, ARRAYS)


@needs_real_data
def test_the_real_files_give_the_images_that_torchvision_gives() -> None:
    from torchvision.datasets import CIFAR100

    for _ in ("the files", "the cache"):
        data = cifar100.load(str(REAL_DATA))
        for split, train in ((data.training, True), (data.validation, False)):
            reference = CIFAR100(REAL_DATA, train=train)
            assert np.array_equal(split.images.numpy(), reference.data)
            assert split.labels.tolist() == reference.targets
    assert list(data.class_names) == reference.classes
    coarse = pickle.loads((REAL_DATA / "cifar-100-python/test").read_bytes(), encoding="latin1")
    pairs = zip(reference.targets, coarse["coarse_labels"], strict=True)
    assert all(data.superclass_of[fine] == label for fine, label in pairs)
    meta = pickle.loads((REAL_DATA / "cifar-100-python/meta").read_bytes(), encoding="latin1")
    assert list(data.superclass_names) == meta["coarse_label_names"]


@pytest.mark.thorough
@needs_real_data
def test_the_real_images_are_the_same_from_the_archive_and_from_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = cifar100.load(str(REAL_DATA))
    arrays = {
        name: (split.images.numpy(), split.labels.numpy())
        for name, split in (("train", loaded.training), ("test", loaded.validation))
    }
    lookalike.write_archive(tmp_path, REAL_DATA)
    lookalike.write_parquet(tmp_path, arrays)
    for files in (ARCHIVE, PARQUET):
        form = next(form for form in cifar100_files.FORMS if form.files == files)
        contents = [(tmp_path / file.path).read_bytes() for file in files]
        assert cifar100_files._is_original(form.read(contents))


@pytest.mark.parametrize("damage", ["missing", "a folder", "a pipe"])
def test_an_incomplete_folder_is_reported(damage: str, forms: Path) -> None:
    keep(forms, "cifar-100-python")
    path = forms / "cifar-100-python" / "test"
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage == "a pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=rf"{path}.*delete {path.parent} to"):
        cifar100.load(str(forms))


def test_nothing_is_unpickled_before_its_checksum_is_right(
    forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "exploded",)

    for name in ("train", "test"):
        (forms / "cifar-100-python" / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="altered"):
        cifar100.load(str(forms))
    assert not (tmp_path / "exploded").exists()
    lookalike.trust(monkeypatch, forms)
    with pytest.raises(TypeError):
        cifar100.load(str(forms))
    assert (tmp_path / "exploded").exists()  # so the bomb does work


def test_the_cache_serves_without_the_files_and_is_mapped(forms: Path, tmp_path: Path) -> None:
    assert lookalike.is_loaded(forms, ARRAYS)
    (tmp_path / "empty").mkdir()
    shutil.rmtree(forms)
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    maps = Path("/proc/self/maps")
    if maps.exists():
        data = cifar100.load(str(tmp_path / "empty"))
        assert "training.bin" in maps.read_text()
        assert len(data.training) == 200


def test_check_reads_every_byte(
    forms: Path, pipeline: Callable[..., Answer], cache: Path, tmp_path: Path
) -> None:
    keep(forms, "cifar-100-python.tar.gz")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    empty = pipeline("data", "--check", "--data-dir", str(nothing))
    assert (empty.status, empty.out) == (1, "")
    assert "neither in data_dir nor in the cache" in empty.err
    assert pipeline("data", "--data-dir", str(forms)).status == 0
    answer = pipeline("data", "--check", "--data-dir", str(forms))
    assert answer.status == 0
    archive = forms / "cifar-100-python.tar.gz"
    assert answer.out.splitlines() == [f"{path}: verified" for path in (archive, cache)]
    archive.write_bytes(archive.read_bytes()[:-1])
    answer = pipeline("data", "--check", "--data-dir", str(forms))
    assert answer.status == 2
    assert f"{archive} is truncated or altered" in answer.err


def test_without_room_for_the_cache_loading_continues_without_it(
    forms: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    assert lookalike.is_loaded(forms, ARRAYS)
    unread, unwritten = capsys.readouterr().err.splitlines()
    assert unread.startswith(f"cannot read {cache / 'training.bin'}: Not a directory")
    assert unwritten == f"not cached in {cache}: Not a directory"


@pytest.mark.parametrize("room", [1_000, 300_000, 615_999])  # a split's file has 616,000 bytes
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_reported_and_nothing_is_left(
    room: int, forms: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def load_with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        assert lookalike.is_loaded(forms, ARRAYS)

    process = multiprocessing.get_context("fork").Process(target=load_with_little_room)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert capfd.readouterr().err == f"not cached in {cache}: File too large\n"
    assert list(cache.iterdir()) == []


def test_auto_takes_the_variable_then_the_folder_data_then_a_cache_per_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cifar100_files.locate("auto").name == "mlflow-ablation"
    lookalike.write_unpacked(tmp_path / "data", ARRAYS)
    assert cifar100_files.locate("auto") == Path("data")
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(tmp_path / "named"))
    assert cifar100_files.locate("auto") == tmp_path / "named"


def test_a_folder_that_may_not_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", forbidden)
    with pytest.raises(InputError, match=f"cannot read data_dir '{tmp_path}'.*Permission denied"):
        cifar100.load(str(tmp_path))


def test_a_folder_whose_content_may_not_be_seen_is_reported(
    forms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Path.exists

    def exists(path: Path) -> bool:
        if path.parent.name == "cifar-100-python":
            raise PermissionError(13, "Permission denied", str(path))
        return seen(path)

    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(InputError, match=r"cannot read .*100-python/.*: Permission denied"):
        cifar100.load(str(forms))


def test_the_folder_itself_instead_of_the_one_above_is_reported(forms: Path) -> None:
    with pytest.raises(InputError, match=f"name the folder above it: {forms}$"):
        cifar100.load(str(forms / "cifar-100-python"))


@pytest.mark.parametrize("fault", ["refused", "unknown name", "silent"])
def test_without_network_one_line_says_so_within_10_seconds(
    fault: str, pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        address = {
            "refused": f"http://127.0.0.1:{free_port()}/",
            "unknown name": "http://no-such-host.invalid/",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}/",
        }[fault]
        offered = tuple(Source(name, address, ARCHIVE) for name in ("one", "other", "last"))
        monkeypatch.setattr(sources, "SOURCES", offered)
        started = time.monotonic()
        answer = pipeline("train")
        assert time.monotonic() - started < 10
    assert answer.status == 1
    (line,) = answer.error_lines
    assert str(tmp_path / "cache") in line
    assert "last does not answer" in line
    assert "by hand" in line
    assert "dataset=synthetic" in line
    assert runs_in(tmp_path) == []


@needs_real_data
def test_a_project_run_fetches_the_real_data_from_a_source_that_is_named(tmp_path: Path) -> None:
    """From an empty data_dir to a finished run."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with lookalike.serve(REAL_DATA) as server:
        small = [f"-Pdata_dir={empty}", "-Pvariant=bn", "-Pepochs=1", "-Ptrain_images=512"]
        answer = run_project(tmp_path, *small, PIPELINE_DATA_SOURCE=server.address())
    assert answer.status == 0, answer.err
    (found,) = runs_in(tmp_path)
    assert found.info.status == "FINISHED"
    assert "answers 404 Not Found; trying the next source" in answer.err
