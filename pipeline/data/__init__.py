"""Data sets as uint8 tensors in memory, and the augmentation of whole batches.

`cifar100` finds, fetches and caches the real one, and `cifar100_files` verifies and reads its
files; `sources` and `download` are where they come from. `synthetic` draws the built-in one, and
`arrays` makes a data set of anything else, `pictures` included. `strata` says which images of each
class make a smaller split. `augmentation` does in batches what `transforms` does
per image.

May import only the shared modules (`config`, `errors`, `machine`).
"""

from collections.abc import Callable, Mapping

from pipeline.errors import MachineError


def instead_of_download(datasets: Mapping[str, Callable[..., object]]) -> str:
    """What to type to have the built-in data, if these are one of the data sets; else nothing."""
    from pipeline.data import synthetic

    drawn = (name for name, load in datasets.items() if load is synthetic.generate)
    return next((f"dataset={name}" for name in drawn), "")


def prepare(data_dir: str, source: str | None = None) -> str:
    """Fetch, verify and cache what can be downloaded, from a `source`; say what there is."""
    from pipeline.data import cifar100

    loaded = cifar100.load(data_dir, source, instead="dataset=synthetic")
    return (
        f"CIFAR-100: {len(loaded.training):,} training and {len(loaded.validation):,} validation"
        f" images, sha256 {loaded.digest}, cached in {cifar100.array_folder()}"
    )


def verify(data_dir: str) -> str:
    """Verify every byte of what was downloaded. Raises MachineError if there is nothing."""
    from pipeline.data import cifar100

    verified = cifar100.check(data_dir)
    if not verified:
        raise MachineError(
            "CIFAR-100 is neither in data_dir nor in the cache; fetch it by: python -m pipeline"
            " data"
        )
    return "\n".join(verified)


def describe_sources(source: str | None = None) -> str:
    """List the sources of what can be downloaded, and how long each takes."""
    from pipeline.data.fetching import download, sources

    return "\n".join(download.describe(sources.chosen_sources(source)))
