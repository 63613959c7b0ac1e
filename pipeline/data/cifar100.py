"""CIFAR-100 (Krizhevsky 2009), from a cache per user, from a folder, or from the network."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipeline.data import cifar100_files
from pipeline.data.cifar100_files import DIGESTS, Splits, cache_folder, locate
from pipeline.data.dataset import ImageDataset, Split
from pipeline.data.fetching.sources import ARCHIVE, chosen_sources
from pipeline.errors import InputError

log = logging.getLogger(__name__)

# Superclasses and their classes. Labels, fine and coarse, are ranks in alphabetical order.
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


def load(data_dir: str = "auto", source: str | None = None, instead: str = "") -> ImageDataset:
    """Return CIFAR-100 from the user's cache, from `data_dir`, or from the network.

    `data_dir` may hold the unpacked archive, the archive, or the Hub's parquet files. The arrays
    are memory-mapped; processes share them.

    source: the only address to fetch from, as of `chosen_sources`. instead: what to type to have
    data that need no download.

    Raises InputError for a folder or file that is missing, unreadable or altered; MachineError if
    the data is not found and every source fails.
    """
    root = locate(data_dir)
    splits = _usable_cache() or _write_cache(
        cifar100_files.read(root) or _download(root, source, instead)
    )
    return ImageDataset(
        name="cifar100",
        training=splits.training,
        validation=splits.validation,
        class_names=CLASSES,
        superclass_names=tuple(SUPERCLASSES),
        superclass_of=tuple(SUPERCLASS_OF_NAME[name] for name in CLASSES),
        source=SOURCE,
    )


def check(data_dir: str = "auto") -> list[str]:
    """Verify every byte of the files in `data_dir` and of the cache; report what was found.

    Raises InputError for a damaged file.
    """
    root, verified = locate(data_dir), []
    found = cifar100_files.find(root)
    if found:
        cifar100_files.verified(*found)
        verified += [f"{path}: verified" for path in found[1]]
    if _read_cache():
        verified.append(f"{array_folder()}: verified")
    return verified


def _download(root: Path, source: str | None, instead: str) -> Splits:
    """Fetch the files into `root` from the first source that has the right images."""
    from pipeline.data.fetching.download import download  # rarely needed, and slow to import

    sources = chosen_sources(source)
    download(sources, root, instead)
    try:
        splits = cifar100_files.read(root)
    except InputError as error:
        # The order of the images in the parquet files is undocumented. If it differs, it differs
        # for everyone; the archive is the original.
        log.warning(f"{error}; fetching the archive instead")
        download([one for one in sources if one.files is ARCHIVE], root, instead)
        splits = cifar100_files.read(root)
    assert splits
    return splits


def array_folder() -> Path:
    """The folder of the cached arrays.

    Each file holds only a split's images and then its labels, so its sha256 is the split's digest:
    there is no header whose bytes could change unnoticed.
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
    """Like `_read_cache`, but for an unusable file warn on stderr and return None."""
    try:
        return _read_cache()
    except InputError as error:
        log.warning(str(error))
        return None


def _read_cached(name: str) -> Split:
    path, remedy = array_folder() / f"{name}.bin", "loading the data recreates it"
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
    """Cache the arrays and return them memory-mapped, or unchanged if they can't be cached.

    Files get their names only when complete, so several processes may do this at once.
    """
    folder = array_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            for name, split in splits._asdict().items():
                path = Path(temporary) / name
                # Not numpy's tofile, whose error does not say that the disk is full.
                with path.open("wb") as file:
                    file.write(split.images.numpy().data)
                    file.write(split.labels.numpy().data)
                path.replace(folder / f"{name}.bin")
    except OSError as error:
        log.warning(f"not cached in {folder}: {error.strerror}")
        return splits
    return _usable_cache() or splits
