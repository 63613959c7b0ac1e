"""Classify pictures: files in, the most probable classes of each out."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.pictures.pixels import read_picture
from pipeline.errors import InputError, MachineError, percent, printable
from pipeline.machine import usable_processors
from pipeline.models.loading import LoadedModel
from pipeline.models.pictures import Picture
from pipeline.store.artifacts import write_atomically

BATCH_SIZE = 500


class Guess(NamedTuple):
    """A class, and its probability."""

    name: str
    probability: float


class Prediction(NamedTuple):
    """What a model says of a file.

    guesses: the most probable classes, the first one first; empty if the file could not be read,
    for the reason `error`. label: the class that its folder names, if any.
    """

    file: str
    guesses: tuple[Guess, ...]
    error: str = ""
    label: str = ""


def classify(loaded: LoadedModel, pixels: NDArray[np.uint8], top: int) -> list[tuple[Guess, ...]]:
    """Return the `top` most probable classes of each image `[N, H, W, C]`, or all if fewer.

    Raises InputError if the model predicts values that are not numbers.
    """
    probabilities: NDArray[np.float32] = np.asarray(loaded.model.predict(pixels))
    if not np.isfinite(probabilities).all():
        raise InputError(
            f"{loaded.uri} predicts values that are not numbers; did its training diverge?"
        )
    names = loaded.names
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        tuple(Guess(names[label], float(row[label])) for label in labels)
        for row, labels in zip(probabilities, best, strict=True)
    ]


def predict(loaded: LoadedModel, pictures: Sequence[Picture], top: int) -> Iterator[Prediction]:
    """Read and classify pictures, in batches; a bar on the terminal shows how far it is."""
    with (
        ThreadPoolExecutor(usable_processors()) as readers,
        tqdm(total=len(pictures), unit="picture", disable=None, leave=False, delay=0.5) as bar,
    ):
        for start in range(0, len(pictures), BATCH_SIZE):
            batch = pictures[start : start + BATCH_SIZE]
            read = list(readers.map(lambda picture: _read(picture, loaded), batch))
            pixels = [one for one in read if not isinstance(one, str)]
            guesses = iter(classify(loaded, np.stack(pixels), top) if pixels else ())
            for picture, one in zip(batch, read, strict=True):
                label = next((f for f in reversed(picture.folders) if f in loaded.class_names), "")
                if isinstance(one, str):
                    yield Prediction(picture.name, (), one, label)
                else:
                    yield Prediction(picture.name, next(guesses), "", label)
            bar.update(len(batch))


def _read(picture: Picture, loaded: LoadedModel) -> NDArray[np.uint8] | str:
    """A picture's pixels, or why it can't be read."""
    try:
        return read_picture(picture.source, loaded.image_shape)
    except InputError as error:
        return str(error)


def accuracy(predictions: Sequence[Prediction]) -> tuple[float, int]:
    """The fraction of right predictions, and of how many: those of pictures that have a label."""
    labelled = [one for one in predictions if one.label and one.guesses]
    right = sum(one.guesses[0].name == one.label for one in labelled)
    return right / max(len(labelled), 1), len(labelled)


def as_table(predictions: Sequence[Prediction]) -> str:
    """The predictions as text, in columns."""
    shown = [one for one in predictions if one.guesses]
    files, names = ["file", *(printable(one.file) for one in shown)], ["class"]
    names += [one.guesses[0].name for one in shown]
    others = [
        ", ".join(f"{g.name} {percent(g.probability)}" for g in one.guesses[1:]) for one in shown
    ]
    shares = ["probability", *(percent(one.guesses[0].probability) for one in shown)]
    width, class_width = max(map(len, files)), max(map(len, names))
    rows = zip(files, names, shares, ["next", *others], strict=True)
    lines = (f"{f:{width}}  {n:{class_width}}  {p:>11}  {o}".rstrip() for f, n, p, o in rows)
    return "\n".join(lines)


def as_frame(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """A row for each file: its label and error, if any; of each guess class and probability."""
    most = max((len(one.guesses) for one in predictions), default=0)
    ends = ["", *(f"_{number}" for number in range(2, most + 1))][:most]
    guessed = [f"{what}{end}" for end in ends for what in ("class", "probability")]
    rows = []
    for one in predictions:
        cells: list[object] = [cell for guess in one.guesses for cell in guess]
        cells += [None] * (2 * most - len(cells))
        rows.append([one.file, *cells, one.label, one.error])
    return pd.DataFrame(rows, columns=["file", *guessed, "label", "error"])


def as_json_lines(predictions: Sequence[Prediction]) -> str:
    """The predictions as one JSON object a line: file, guesses, and label and error if any."""
    lines = []
    for one in predictions:
        guesses = [{"class": name, "probability": share} for name, share in one.guesses]
        known = {"file": one.file, "predictions": guesses, "label": one.label, "error": one.error}
        lines.append(json.dumps({k: v for k, v in known.items() if v}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


FORMATS: dict[str, Callable[[Sequence[Prediction]], str]] = {
    ".csv": lambda predictions: as_frame(predictions).to_csv(index=False, lineterminator="\n"),
    ".jsonl": as_json_lines,
}


def check_output(output: str, folder: Path) -> None:
    """Raise InputError unless predictions can be written to the file `output`."""
    path = folder / output
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise InputError(
            f"output is {output!r}; it must be a file that ends in {' or '.join(FORMATS)}"
        )
    if not path.parent.is_dir():
        raise InputError(f"output is {output!r}; there is no folder {str(path.parent)!r}")


def write(predictions: Sequence[Prediction], path: Path) -> None:
    """Write the predictions to a file, whole or not at all. Raises MachineError if it can't be."""
    try:
        write_atomically(
            path, FORMATS[path.suffix.lower()](predictions).encode(errors="surrogateescape")
        )
    except OSError as error:
        raise MachineError(f"{path} can't be written ({error.strerror})") from None
