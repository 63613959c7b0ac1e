"""Time the augmentation of a batch against torchvision's, image by image.

python -m benchmarks.augmentation [--rounds 7]
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from PIL import Image

from pipeline import training_transform
from pipeline.data import synthetic
from pipeline.data.augmentation import augment, draw_parameters

BATCH_SIZE = 256


def main() -> None:
    """Time both in turn on the same images; print median images per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    images = synthetic.generate().training.first(20 * BATCH_SIZE).images
    pictures = [Image.fromarray(image.numpy()) for image in images[: 2 * BATCH_SIZE]]
    generator = torch.Generator().manual_seed(0)

    def one_by_one() -> int:
        for picture in pictures:
            training_transform(picture)
        return len(pictures)

    def in_batches() -> int:
        for batch in torch.split(images, BATCH_SIZE):
            augment(batch, draw_parameters(len(batch), generator))
        return len(images)

    speeds = [(_speed(one_by_one), _speed(in_batches)) for _ in range(rounds + 1)][1:]
    slow, fast = (median(values) for values in zip(*speeds, strict=True))
    ratio = median(b / a for a, b in speeds)
    threads = torch.get_num_threads()
    print(f"one by one {slow:,.0f} images/s, batches of {BATCH_SIZE} {fast:,.0f} images/s")
    print(f"ratio {ratio:.1f} (median of {rounds} rounds, {threads} threads)")


def _speed(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
