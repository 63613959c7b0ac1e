"""CIFAR-100 (Krizhevsky 2009): find the files, fetch them if need be, verify, read."""

import hashlib
import os
import pickle
import threading
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import torch
from platformdirs import user_cache_path

from pipeline.data.dataset import ImageDataset, Split
from pipeline.errors import InputError, MachineError

FOLDER = "cifar-100-python"
ARCHIVE = "cifar-100-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
# md5 of each file, as in torchvision.datasets.CIFAR100.
MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
# Seconds for the server's first answer. Starting up takes 5 more, and a user without network shall
# know within 10.
CONNECT_SECONDS = 3


def load(data_dir: str = "auto") -> ImageDataset:
    """Read CIFAR-100 from torchvision's layout, `data_dir/cifar-100-python/{train,test,meta}`.

    Downloads the archive there if the folder does not exist. Nothing is unpickled before its md5
    is right: a pickle can run any code.

    Raises InputError for a folder or file that is missing, unreadable or altered, MachineError if
    there is no network to download from.
    """
    try:
        root = locate(data_dir)
        folder = root / FOLDER
        present = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission; no such user, in ~user
        raise InputError(f"cannot read data_dir {data_dir!r}: {error}") from None
    if not present:
        _download(root)
    meta = _read(folder / "meta")
    training, coarse = _split(_read(folder / "train"))
    validation, _ = _split(_read(folder / "test"))
    # Every fine class lies in one coarse class; the first image of each says in which.
    _, first = np.unique(training.labels.numpy(), return_index=True)
    return ImageDataset(
        name="cifar100",
        training=training,
        validation=validation,
        class_names=tuple(meta["fine_label_names"]),
        superclass_names=tuple(meta["coarse_label_names"]),
        superclass_of=tuple(int(label) for label in coarse[first]),
        source=URL,
    )


def locate(data_dir: str) -> Path:
    """Return the folder that holds, or is to hold, `cifar-100-python`.

    `auto` is `$PIPELINE_DATA_DIR` if set, else `./data` if the data is there, else a cache per
    user, which runs from other folders and from a git URI find again.
    """
    if data_dir == "auto":
        named = os.environ.get("PIPELINE_DATA_DIR")
        if not named:
            local = Path("data")
            return local if (local / FOLDER).exists() else user_cache_path("cifar100-cnn")
        data_dir = named
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise InputError(
            f"data_dir {str(root.absolute())!r} is not a folder; name the one that holds {FOLDER}/,"
            " or an empty one to download into"
        )
    if all((root / name).is_file() for name in MD5):
        raise InputError(f"data_dir is {FOLDER} itself; name the folder above it: {root.parent}")
    return root


def _read(path: Path) -> dict[str, Any]:
    """Unpickle a file whose md5 is the known one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {_remedy(path)}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
        raise InputError(
            f"{path} is truncated or altered (its md5 is not {MD5[path.name]}); {_remedy(path)}"
        )
    unpickled: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return unpickled


def _remedy(path: Path) -> str:
    return f"delete {path.parent} to have it downloaded again"


def _split(content: dict[str, Any]) -> tuple[Split, np.ndarray]:
    """Return images and fine labels of an unpickled file, and its coarse labels."""
    # The rows are the red, green and blue planes one after another.
    planes = content["data"].reshape(-1, 3, 32, 32)
    images = torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return Split(images, torch.tensor(content["fine_labels"])), np.array(content["coarse_labels"])


def _download(root: Path) -> None:
    """Fetch and unpack the archive with torchvision, which checks its md5."""
    if not (root / ARCHIVE).exists() and not _server_answers():
        raise MachineError(
            f"CIFAR-100 is not in {root.absolute()} and its server can't be reached; put"
            f" {FOLDER}/ or {ARCHIVE} there by hand, name another folder by data_dir, or use"
            " dataset=synthetic, which needs no download"
        )
    from torchvision.datasets import CIFAR100

    try:
        CIFAR100(root, download=True)
    except (OSError, RuntimeError) as error:
        raise MachineError(f"downloading CIFAR-100 from {URL} failed: {error}") from None


def _server_answers() -> bool:
    """Ask for the archive's header, through proxies as set, in CONNECT_SECONDS at most."""
    answers = []

    def ask() -> None:
        try:
            with urlopen(Request(URL, method="HEAD"), timeout=CONNECT_SECONDS):
                answers.append(True)
        except (URLError, OSError):
            pass

    # urlopen's time limit does not cover looking up the server's name, so the thread has its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return bool(answers)
