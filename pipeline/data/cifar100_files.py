"""The files of CIFAR-100 in a folder: find them, verify every byte, read them.

Every form of the files gives the same arrays, bit for bit, in the original order. Everything read
here is checked against DIGESTS.
"""

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from platformdirs import user_cache_path

from pipeline.config import APPLICATION
from pipeline.data.dataset import Split
from pipeline.data.fetching.sources import ARCHIVE, PARQUET, UNPACKED, File
from pipeline.errors import InputError

# `Split.digest` of training and validation: images and fine labels in the original order.
DIGESTS = {
    "training": "f062ca493c4d44a3d0921f223fbc3b1e88b46fd03322e97c635a0ac2a5f8baab",
    "validation": "bd251483addf0530bc3e831455074dfa75f7657056fc2639e6b6aced382c06a9",
}


class Splits(NamedTuple):
    """Training and validation, as `Split` describes them."""

    training: Split
    validation: Split


class Form(NamedTuple):
    """A form in which the data set is stored: its files, and how to read their bytes."""

    files: tuple[File, ...]
    read: Callable[[list[bytes]], Splits]


def locate(data_dir: str) -> Path:
    """Return the folder that holds, or is to hold, the files.

    `auto` is `$PIPELINE_DATA_DIR` if set, else `./data` if the data is there, else a per-user
    cache, which runs from other folders or a git URI also find.
    """
    if data_dir == "auto":
        named = os.environ.get("PIPELINE_DATA_DIR")
        if not named:
            local = Path("data")
            return local if find(local) else cache_folder()
        data_dir = named
    if not data_dir:
        raise InputError("data_dir is empty; name a folder (. is the current one), or auto")
    try:
        root = Path(data_dir).expanduser()
        present = root.is_dir()
        itself = all((root / Path(file.path).name).is_file() for file in UNPACKED)
    except (OSError, RuntimeError) as error:  # no permission; no such user, in ~user
        raise InputError(f"cannot read data_dir {data_dir!r}: {error}") from None
    if not present:
        raise InputError(
            f"data_dir {str(root.absolute())!r} is not a folder; name the one that holds CIFAR-100,"
            " or an empty one to download into"
        )
    if itself:
        folder = Path(UNPACKED[0].path).parent
        raise InputError(f"data_dir is {folder} itself; name the folder above it: {root.parent}")
    return root


def cache_folder() -> Path:
    """Return the user's cache folder, by the platform's conventions."""
    return user_cache_path(APPLICATION)


def find(root: Path) -> tuple[Form, list[Path]] | None:
    """Return the form of the data in `root`, and its files; None if there is no data.

    Raises InputError if a path can't be read.
    """
    for form in FORMS:
        # An incomplete folder was put there by hand; an incomplete pair is a download to continue.
        complete = any if form.files is UNPACKED else all
        for flat in (False, True):  # a browser saves files without their folder
            paths = [root / (Path(file.path).name if flat else file.path) for file in form.files]
            try:
                if complete(path.exists() for path in paths):
                    return form, paths
            except OSError as error:  # no permission
                raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    return None


def read(root: Path) -> Splits | None:
    """Verify and read the files in `root`; None if there are none."""
    found = find(root)
    if not found:
        return None
    splits = verified(*found)
    if not _is_original(splits):
        raise InputError(
            f"{found[1][0]}: the images are not those of CIFAR-100, or in another order"
        )
    return splits


def verified(form: Form, paths: list[Path]) -> Splits:
    """Read the files of a form once all are verified, since a pickle could run any code.

    The bytes verified are the bytes parsed: on disk, a file could change in between.
    """
    return form.read([_trusted(*pair) for pair in zip(form.files, paths, strict=True)])


def _trusted(file: File, path: Path) -> bytes:
    try:
        # Check the size first: the path could be anything, even a pipe that never ends.
        content = path.read_bytes() if path.stat().st_size == file.size else b""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {_remedy(path)}") from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise InputError(
            f"{path} is truncated or altered (its sha256 is not {file.sha256}); {_remedy(path)}"
        )
    return content


def _remedy(path: Path) -> str:
    folder = path.parent if path.parent.name == Path(UNPACKED[0].path).parent.name else path
    return f"delete {folder} to have it fetched again"


def _is_original(splits: Splits) -> bool:
    return {name: split.digest for name, split in splits._asdict().items()} == DIGESTS


def _read_archive(contents: list[bytes]) -> Splits:
    """Read the members in memory: nothing is unpacked, so no member can escape the folder."""
    with tarfile.open(fileobj=io.BytesIO(contents[0])) as archive:
        members = [archive.extractfile(file.path) for file in UNPACKED]
        return Splits(*(_from_pickle(member.read()) for member in members if member))


def _from_pickle(content: bytes) -> Split:
    unpickled = pickle.loads(content, encoding="latin1")
    # Each row holds the red, green and blue planes, in that order.
    planes = unpickled["data"].reshape(-1, 3, 32, 32)
    images = torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return Split(images, torch.tensor(unpickled["fine_labels"]))


def _from_parquet(content: bytes) -> Split:
    """Decode the Hub's layout: `img` is a struct of `bytes`, a PNG, and `path`."""
    import pandas as pd  # rarely needed: the cache holds plain arrays

    table = pd.read_parquet(io.BytesIO(content), columns=["img", "fine_label"])
    images = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["img"]]
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(table["fine_label"].tolist()))


FORMS = (
    Form(UNPACKED, lambda contents: Splits(*map(_from_pickle, contents))),
    Form(ARCHIVE, _read_archive),
    Form(PARQUET, lambda contents: Splits(*map(_from_parquet, contents))),
)
