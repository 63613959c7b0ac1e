"""CIFAR-100 (Krizhevsky 2009): find the files, fetch them if need be, verify, read, cache.

Whatever the files, the result is the same arrays, bit for bit, in the order of the original ones:
that is what DIGESTS say, which every load is held to.
"""

import hashlib
import io
import os
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from platformdirs import user_cache_path

from pipeline.data.dataset import ImageDataset, Split
from pipeline.data.download import download
from pipeline.data.sources import ARCHIVE, PARQUET, UNPACKED, File, chosen_sources
from pipeline.errors import InputError

# `Split.digest` of training and validation: images and fine labels in the original order.
DIGESTS = {
    "training": "f062ca493c4d44a3d0921f223fbc3b1e88b46fd03322e97c635a0ac2a5f8baab",
    "validation": "bd251483addf0530bc3e831455074dfa75f7657056fc2639e6b6aced382c06a9",
}
# Superclasses and their classes. The labels, fine and coarse, are the ranks in alphabetical order.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASS_OF_NAME = {n: i for i, names in enumerate(SUPERCLASSES.values()) for n in names.split()}
CLASSES = tuple(sorted(SUPERCLASS_OF_NAME))
IMAGE_BYTES, LABEL_BYTES = 32 * 32 * 3, 8
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class Splits(NamedTuple):
    """Training and validation, as `Split` describes them."""

    training: Split
    validation: Split


class Form(NamedTuple):
    """A form in which the data set lies in a folder: its files, and how their bytes are read."""

    files: tuple[File, ...]
    read: Callable[[list[bytes]], Splits]


def load(data_dir: str = "auto") -> ImageDataset:
    """Return CIFAR-100 from the cache of this user, or from `data_dir`, or from the network.

    `data_dir` may hold the unpacked archive, the archive, or the Hub's parquet files. The arrays
    are memory-mapped: processes share them.

    Raises InputError for a folder or file that is missing, unreadable or altered; MachineError if
    the data is nowhere and no source delivers it.
    """
    root = locate(data_dir)
    splits = _usable_cache() or _write_cache(_read_local(root) or _download(root))
    return ImageDataset(
        name="cifar100",
        training=splits.training,
        validation=splits.validation,
        class_names=CLASSES,
        superclass_names=tuple(SUPERCLASSES),
        superclass_of=tuple(SUPERCLASS_OF_NAME[name] for name in CLASSES),
        source=SOURCE,
    )


def locate(data_dir: str) -> Path:
    """Return the folder that holds, or is to hold, the files.

    `auto` is `$PIPELINE_DATA_DIR` if set, else `./data` if the data is there, else a cache per
    user, which runs from other folders and from a git URI find again.
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
    """The folder of this user's caches, by the conventions of the platform."""
    return user_cache_path("cifar100-cnn")


def find(root: Path) -> tuple[Form, list[Path]] | None:
    """Return the form in which the data lies in `root`, and its files; None if it does not.

    Raises InputError if that can't be seen.
    """
    for form in FORMS:
        # An incomplete folder was put there by hand, an incomplete pair is a download to continue.
        complete = any if form.files is UNPACKED else all
        for flat in (False, True):  # a browser saves files without their folder
            paths = [root / (Path(file.path).name if flat else file.path) for file in form.files]
            try:
                if complete(path.exists() for path in paths):
                    return form, paths
            except OSError as error:  # no permission
                raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    return None


def check(data_dir: str = "auto") -> list[str]:
    """Verify every byte of the files in `data_dir` and of the cache; say what of them is there.

    Raises InputError for a damaged file.
    """
    root, told = locate(data_dir), []
    found = find(root)
    if found:
        _verified(*found)
        told += [f"{path}: verified" for path in found[1]]
    if _read_cache():
        told.append(f"{array_folder()}: verified")
    return told


def _read_local(root: Path) -> Splits | None:
    """Verify and read the files in `root`; None if there are none."""
    found = find(root)
    if not found:
        return None
    splits = _verified(*found)
    if not _is_original(splits):
        raise InputError(
            f"{found[1][0]}: the images are not those of CIFAR-100, or in another order"
        )
    return splits


def _download(root: Path) -> Splits:
    """Fetch the files into `root`, from the first source whose images are the right ones."""
    sources = chosen_sources()
    download(sources, root)
    try:
        splits = _read_local(root)
    except InputError as error:
        # Nobody states in which order the parquet files hold the images. If it is another one, then
        # for everybody; the archive is the original.
        print(f"{error}; fetching the archive instead", file=sys.stderr)
        download([source for source in sources if source.files is ARCHIVE], root)
        splits = _read_local(root)
    assert splits
    return splits


def _verified(form: Form, paths: list[Path]) -> Splits:
    """Read the files of a form, all of which must be the known ones; a pickle could run any code.

    What is verified and what is read are the same bytes in memory: a file may change in between.
    """
    return form.read([_trusted(*pair) for pair in zip(form.files, paths, strict=True)])


def _trusted(file: File, path: Path) -> bytes:
    try:
        # The size first: anything could lie there, a pipe included, which can't be read to its end.
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


def _read_unpacked(contents: list[bytes]) -> Splits:
    return Splits(*(_from_pickle(content) for content in contents))


def _read_archive(contents: list[bytes]) -> Splits:
    """Read the members in memory: nothing is unpacked, so no member can escape the folder."""
    with tarfile.open(fileobj=io.BytesIO(contents[0])) as archive:
        members = [archive.extractfile(file.path) for file in UNPACKED]
        return Splits(*(_from_pickle(member.read()) for member in members if member))


def _from_pickle(content: bytes) -> Split:
    unpickled = pickle.loads(content, encoding="latin1")
    # The rows are the red, green and blue planes one after another.
    planes = unpickled["data"].reshape(-1, 3, 32, 32)
    images = torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return Split(images, torch.tensor(unpickled["fine_labels"]))


def _read_parquet(contents: list[bytes]) -> Splits:
    return Splits(*(_from_parquet(content) for content in contents))


def _from_parquet(content: bytes) -> Split:
    """Decode the Hub's layout: `img` is a struct of `bytes`, a PNG, and `path`."""
    columns = ["img", "fine_label"]
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), columns=columns)
    encoded = table["img"].combine_chunks().field("bytes")
    images = np.empty((len(encoded), 32, 32, 3), np.uint8)
    for index, png in enumerate(encoded):
        images[index] = np.asarray(Image.open(io.BytesIO(png.as_py())))
    return Split(torch.from_numpy(images), torch.tensor(table["fine_label"].to_pylist()))


FORMS = (
    Form(UNPACKED, _read_unpacked),
    Form(ARCHIVE, _read_archive),
    Form(PARQUET, _read_parquet),
)


def array_folder() -> Path:
    """The folder of the cached arrays.

    A file holds a split's bytes and nothing else, images and then labels, so that its sha256 is the
    split's digest: there is no byte, as there would be in a header, that could change unnoticed.
    """
    return cache_folder() / "arrays"


def _read_cache() -> Splits | None:
    """Map the cached arrays into memory; None if they are not there.

    Every byte is read each time: a sha256 over all of them takes a tenth of a second.

    Raises InputError for a file that is damaged or unreadable.
    """
    try:
        return Splits(*(_read_cached(name) for name in Splits._fields))
    except FileNotFoundError:
        return None


def _usable_cache() -> Splits | None:
    """As `_read_cache`; None as well if a file is not to be used, which is told on stderr."""
    try:
        return _read_cache()
    except InputError as error:
        print(error, file=sys.stderr)
        return None


def _read_cached(name: str) -> Split:
    path, remedy = _cache_file(name), "loading the data makes it anew"
    try:
        # "c": a write would change this process's copy only; torch has no read-only tensors.
        content = np.memmap(path, np.uint8, "c")
        count = len(content) // (IMAGE_BYTES + LABEL_BYTES)
        images = content[: count * IMAGE_BYTES].reshape(count, 32, 32, 3)
        labels = content[count * IMAGE_BYTES :].view(np.int64)
        split = Split(torch.from_numpy(images), torch.from_numpy(labels))
        right = split.digest == DIGESTS[name]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    except ValueError:  # empty, or not a whole number of labels
        right = False
    if not right:
        raise InputError(
            f"{path} is truncated or altered (its sha256 is not {DIGESTS[name]}); {remedy}"
        )
    return split


def _write_cache(splits: Splits) -> Splits:
    """Cache the arrays, and return them mapped into memory; without a place for them, as they are.

    Files appear under their names when they are complete, so that processes may do it at once.
    """
    folder = array_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for outdated in folder.glob("*.npy"):  # 184 MB of earlier versions, which nothing reads
            outdated.unlink(missing_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            for name, split in splits._asdict().items():
                path = Path(temporary) / name
                # Not by numpy's tofile, whose error does not say that the disk is full.
                with path.open("wb") as file:
                    file.write(split.images.numpy().data)
                    file.write(split.labels.numpy().data)
                path.replace(_cache_file(name))
    except OSError as error:
        print(f"not cached in {folder}: {error.strerror}", file=sys.stderr)
        return splits
    return _usable_cache() or splits


def _cache_file(name: str) -> Path:
    return array_folder() / f"{name}.bin"
