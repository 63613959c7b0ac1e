"""The data sets as uint8 tensors in memory, and the augmentation of whole batches.

`load` returns a data set. `cifar100` finds, fetches and caches the real one, and `cifar100_files`
verifies and reads its files; `sources` and `download` are where they come from. `synthetic` draws
the built-in one. `augmentation` does in batches what `transforms` does per image.

May import only the shared modules (`config`, `errors`).
"""

from dataclasses import replace

from pipeline.config import DATASETS, check_choice
from pipeline.data import synthetic
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError


def load(
    name: str, data_dir: str = "auto", train_images: int = 0, validation: str = "test"
) -> ImageDataset:
    """Return the data set `name`; `train_images` keeps that many training images (0: all).

    With `validation="holdout"` a tenth of those is held out by `ImageDataset.hold_out`.

    Raises InputError if the files are missing or altered, or hold fewer images than asked for;
    MachineError if there is no network to download them.
    """
    check_choice("dataset", name, DATASETS)
    if name == "synthetic":
        data = synthetic.generate()
    else:
        # It needs libraries to read and fetch files; the rest, even training, needs only torch.
        from pipeline.data import cifar100

        data = cifar100.load(data_dir)
    if train_images > len(data.training):
        raise InputError(
            f"train_images is {train_images}; {name} has {len(data.training)} of them (0 takes all)"
        )
    if train_images:
        data = replace(data, training=data.training.first(train_images))
    return data.hold_out() if validation == "holdout" else data
