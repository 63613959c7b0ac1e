"""Load an ablation's file, and the data that it names."""

import importlib
import inspect
import logging
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.ablation.checks import check_ablation
from pipeline.ablation.definition import Ablation
from pipeline.ablation.importing import import_file
from pipeline.ablation.recording import recording
from pipeline.ablation.source import (
    DEFAULT_FILE,
    PACKAGE,
    hidden_neighbours,
    is_module,
    source_digest,
)
from pipeline.ablation.watching import DATA, IMPORT
from pipeline.config import AUTO, Config, check_choice
from pipeline.data import instead_of_download
from pipeline.data.checks import check_dataset
from pipeline.data.dataset import ImageDataset
from pipeline.errors import InputError, MachineError
from pipeline.randomness import Stream, seed_generators

log = logging.getLogger(__name__)
MOVED = "; name its place now with --ablation"  # the way out, for that of an earlier run
MAX_CHARACTERS = 400  # of an error that the user's code raises


def absolute(reference: str, folder: Path) -> str:
    """Return a reference to an ablation that is valid in every folder; paths begin at `folder`."""
    is_file = bool(Path(reference).suffix) and (folder / reference).is_file()  # `mine.txt`
    if reference == AUTO or (is_module(reference) and not is_file):
        return reference
    # Not Path.expanduser, which raises for a user that does not exist.
    return str(folder / os.path.expanduser(reference))  # noqa: PTH111


def load_ablation(reference: str, way_out: str = "") -> Ablation:
    """Load the ablation in a file, or in a module that can be imported; `auto`: the tutorial's.

    Raises InputError, with the line in question and the `way_out`, if that fails or if it defines
    none.
    """
    file = DEFAULT_FILE if reference == AUTO else Path(reference)
    what = f"ablation {reference if is_module(reference) else str(file)!r}"
    seed_generators(0, Stream.DATA)  # the same numbers in each process that loads it
    try:
        with recording(reference, IMPORT):
            module = (
                importlib.import_module(reference) if is_module(reference) else import_file(file)
            )
        ablation = getattr(module, "ablation", None)
        if not isinstance(ablation, Ablation):
            raise InputError("it defines no `ablation = Ablation(...)`")
        own = reference.rpartition(".")[2] if is_module(reference) else file.stem
        name = ablation.name or re.sub("[^A-Za-z0-9_-]+", "-", own)
        digest = source_digest(reference)  # now: the file may change later
        ablation = replace(ablation, name=name, source=reference, source_digest=digest)
        check_ablation(ablation)
    except InputError as error:
        raise InputError(f"{what}: {error}{way_out}") from None
    except (Exception, SystemExit) as error:  # whatever the file raises
        notes = [explain(error)]
        if isinstance(error, ImportError | AttributeError):
            notes += [note for name, note in _hidden(reference) if repr(name) in str(error)]
        raise InputError(f"{what} can't be loaded: {'; '.join(notes)}{way_out}") from None
    return ablation


def named(config: Config, ablation: Ablation) -> Config:
    """Replace `auto` by the ablation's first variant and data set.

    Raises InputError for a variant or data set that it does not have, and if it is about a program.
    """
    if ablation.is_program:
        raise InputError(f"{ablation.name} is about a program, which ablate runs")
    variant = next(iter(ablation.variants)) if config.variant == AUTO else config.variant
    dataset = next(iter(ablation.datasets)) if config.dataset == AUTO else config.dataset
    check_choice("variant", variant, ablation.variants)
    check_choice("dataset", dataset, ablation.datasets)
    for _, note in _hidden(ablation.source):
        log.warning("warning: %s", note)
    return replace(config, variant=variant, dataset=dataset)


def load_data(config: Config, ablation: Ablation) -> ImageDataset:
    """Load the data set, and split it, as `config` says.

    `train_images` keeps that many training images (0: all), of each class its share. With
    `validation="holdout"` a tenth of those is held out by `ImageDataset.hold_out`.

    Raises InputError if it can't be loaded, is not what it should be, has fewer images or more
    classes than the images asked for, or can't be held out from; MachineError if there is no
    network to download it.
    """
    load = ablation.datasets[config.dataset]
    known = {"data_dir": config.data_dir, "instead": instead_of_download(ablation.datasets)}
    taken = {n: known[n] for n in known.keys() & inspect.signature(load).parameters.keys()}
    seed_generators(0, Stream.DATA)  # such as of a random split
    try:
        with recording(ablation.source, DATA):
            data = load(**taken)
    except (InputError, MachineError):
        raise
    except Exception as error:  # whatever the function raises
        raise InputError(f"{config.dataset} can't be loaded: {explain(error)}") from None
    try:
        if not isinstance(data, ImageDataset):
            raise InputError(f"its function returns {type(data).__name__}, not an ImageDataset")
        check_dataset(data)
    except InputError as error:
        raise InputError(f"{config.dataset}: {error}") from None
    data = replace(data, name=config.dataset)
    if config.train_images > len(data.training):
        raise InputError(
            f"train_images is {config.train_images}; {data.name} has {len(data.training)} of them"
            " (0 takes all)"
        )
    if 0 < config.train_images < data.num_classes:
        raise InputError(
            f"train_images is {config.train_images}; {data.name} has {data.num_classes} classes,"
            " and training takes at least one image of each (0 takes all)"
        )
    if config.train_images:
        training = data.training.first_of_each_class(config.train_images)
        left_out = len(data.training) - config.train_images
        data = replace(data, training=training, left_out=left_out)
    return data.hold_out(config.holdout_seed) if config.validation == "holdout" else data


def _hidden(reference: str) -> Iterator[tuple[str, str]]:
    """The names that do not import the file beside the ablation, each with a line about it."""
    for name, neighbour in hidden_neighbours(reference):
        yield (
            name,
            f"{name!r} in the ablation is another module, not {neighbour}; rename the file to"
            " import it",
        )


def explain(error: BaseException) -> str:
    """Say in one line what the user's code raised, and in which line of it."""
    if isinstance(error, SyntaxError) and not (error.filename or "<").startswith("<"):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    others = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    others += [f"{PACKAGE}{os.sep}", "<"]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(others))]
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_CHARACTERS]
    if "source code string cannot contain null bytes" in reason:
        reason += ", as in UTF-16: save the file as UTF-8"
    return f"{reason} ({own[-1].filename}, line {own[-1].lineno})" if own else reason
