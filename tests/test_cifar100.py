"""CIFAR-100 is found, verified before it is trusted, and read right."""

import hashlib
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, Answer, free_port, needs_real_data, runs_in

from pipeline.data import cifar100
from pipeline.errors import InputError, MachineError


def write_lookalike(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write small files in the layout of the real ones; return the images as they look."""
    folder = root / cifar100.FOLDER
    folder.mkdir(parents=True)
    fine = [f"class{label}" for label in range(100)]
    contents: dict[str, dict[str, Any]] = {
        "meta": {
            "fine_label_names": fine,
            "coarse_label_names": [f"super{label}" for label in range(20)],
        }
    }
    images = {}
    generator = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 100)):
        images[name] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = generator.permutation(np.arange(count) % 100)
        contents[name] = {
            "data": images[name].transpose(0, 3, 1, 2).reshape(count, 3072),
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels % 20).tolist(),
        }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    trust(folder, monkeypatch)
    return images


def trust(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files as they are now the known ones."""
    for name in cifar100.MD5:
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(cifar100.MD5, name, md5)


def test_images_labels_and_names_are_read_from_torchvisions_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_lookalike(tmp_path, monkeypatch)
    data = cifar100.load(str(tmp_path))
    assert np.array_equal(data.training.images.numpy(), images["train"])
    assert np.array_equal(data.validation.images.numpy(), images["test"])
    assert data.training.labels.dtype == torch.int64
    assert data.class_names[7] == "class7"
    assert data.superclass_of[27] == 7
    assert data.superclass_names[7] == "super7"


@needs_real_data
def test_the_real_files_give_the_images_that_torchvision_gives() -> None:
    from torchvision.datasets import CIFAR100

    data = cifar100.load(str(REAL_DATA))
    for split, train in ((data.training, True), (data.validation, False)):
        reference = CIFAR100(REAL_DATA, train=train)
        assert np.array_equal(split.images.numpy(), reference.data)
        assert split.labels.tolist() == reference.targets
    assert list(data.class_names) == reference.classes
    names = {data.superclass_names[data.superclass_of[data.class_names.index("maple_tree")]]}
    assert names == {"trees"}


@pytest.mark.parametrize("name", ["train", "test", "meta"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "a folder"])
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    write_lookalike(tmp_path, monkeypatch)
    path = tmp_path / cifar100.FOLDER / name
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    with pytest.raises(InputError, match=rf"{path}.*delete {path.parent} to"):
        cifar100.load(str(tmp_path))


def test_nothing_is_unpickled_before_its_checksum_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "exploded",)

    write_lookalike(tmp_path, monkeypatch)
    for name in cifar100.MD5:
        (tmp_path / cifar100.FOLDER / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="altered"):
        cifar100.load(str(tmp_path))
    assert not (tmp_path / "exploded").exists()
    trust(tmp_path / cifar100.FOLDER, monkeypatch)
    with pytest.raises(TypeError):
        cifar100.load(str(tmp_path))
    assert (tmp_path / "exploded").exists()  # so the bomb does work


def test_auto_takes_the_variable_then_the_folder_data_then_a_cache_per_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cifar100.locate("auto").name == "cifar100-cnn"
    (tmp_path / "data" / cifar100.FOLDER).mkdir(parents=True)
    assert cifar100.locate("auto") == Path("data")
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("PIPELINE_DATA_DIR", str(tmp_path / "named"))
    assert cifar100.locate("auto") == tmp_path / "named"


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", forbidden)
    with pytest.raises(InputError, match=f"cannot read data_dir '{tmp_path}'.*Permission denied"):
        cifar100.load(str(tmp_path))


def test_the_folder_itself_instead_of_the_one_above_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lookalike(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"name the folder above it: {tmp_path}$"):
        cifar100.load(str(tmp_path / cifar100.FOLDER))


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
        monkeypatch.setattr(cifar100, "URL", address)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        started = time.monotonic()
        answer = pipeline("train")
        assert time.monotonic() - started < 10
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert str(tmp_path / "cache") in line
    assert "by hand" in line
    assert "dataset=synthetic" in line
    assert runs_in(tmp_path) == []


def test_a_download_that_fails_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(cifar100, "_server_answers", lambda: True)
    monkeypatch.setattr("torchvision.datasets.CIFAR100.download", fail)
    with pytest.raises(MachineError, match="failed: File not found or corrupted"):
        cifar100.load(str(tmp_path))
