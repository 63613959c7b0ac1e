"""Compare ways to scale large pictures down to a model's size, by its accuracy on them.

python -m benchmarks.resizing --model models:/cifar100-cnn@bn [--data-dir FOLDER]

Large pictures of CIFAR-100's classes with known labels are not at hand, so its validation images
are enlarged eightfold, in two ways: smoothly, and as squares of one colour, with sharp edges. What
a filter loses on the way back is the difference to the accuracy on the images themselves.
"""

import argparse
from functools import partial

import numpy as np
from PIL import Image

from benchmarks.figures import origin
from pipeline.config import Config
from pipeline.models.loading import load_model
from pipeline.runs.resolve import resolve

FILTERS = ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
ENLARGED = {"smooth": Image.Resampling.BICUBIC, "squares": Image.Resampling.NEAREST}
TIMES = 8
SHIFT = 3  # pixels, as a photograph's pixels don't lie on the small grid


def main() -> None:
    """Print the accuracy with each filter."""
    parser = argparse.ArgumentParser(description="Compare ways to scale pictures down.")
    parser.add_argument("--model", required=True, help="a model of CIFAR-100")
    parser.add_argument("--data-dir", default="auto", help="where CIFAR-100 lies")
    options = parser.parse_args()
    split = resolve(Config(dataset="cifar100", data_dir=options.data_dir)).data.validation
    model = load_model(options.model).model
    images, labels = split.images.numpy(), split.labels.numpy()

    def accuracy(seen: np.ndarray) -> float:
        batches = np.split(seen, range(500, len(seen), 500))
        return float(
            np.mean(
                np.concatenate([np.asarray(model.predict(b)).argmax(1) for b in batches]) == labels
            )
        )

    where = origin()
    print(f"{options.model}, commit {where['commit']}, {len(images):,} images")
    print(f"as they are: {accuracy(images):.2%}")
    for way, enlarge in ENLARGED.items():
        for name in FILTERS:
            scale = partial(_there_and_back, enlarge=enlarge, reduce=Image.Resampling[name])
            print(f"{way:8} {name:9} {accuracy(np.stack([scale(image) for image in images])):.2%}")


def _there_and_back(
    image: np.ndarray, enlarge: Image.Resampling, reduce: Image.Resampling
) -> np.ndarray:
    side = len(image)
    large = Image.fromarray(image).resize((TIMES * side,) * 2, enlarge)
    box = (0, 0, TIMES * side - SHIFT, TIMES * side - SHIFT)
    return np.asarray(large.resize((side, side), reduce, box))


if __name__ == "__main__":
    main()
