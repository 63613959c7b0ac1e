#!/bin/sh
# GUESS: Streams for a seed and an epoch, `default_rng([seed, epoch])`, differ from one another and
#   from `default_rng(seed)`, so the first may augment images and the second draw the weights.
# REAL: In epoch 0 they are the same stream: up to four numbers, zeros at the end change nothing (a
#   fifth does). The augmentation of epoch 0 then repeats the numbers of whatever else was seeded
#   with the seed alone, and [seed, 0] and [seed, 0, 0] are one. Put the epoch first, or use
#   `spawn`, whose first child is [seed, 0, 0, 0, 0]. The standard library's generator has such twins too:
#   `random.Random(-5)` is `random.Random(5)`.
# VERSIONS: numpy 2.4.6, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   5                [670, 805, 22, 807]
#   [5, 0]           [670, 805, 22, 807]
#   [5, 0, 0, 0]     [670, 805, 22, 807]
#   [5, 0, 0, 0, 0]  [220, 403, 968, 753]
#   [0, 5]           [696, 382, 831, 547]
#   [5, 1]           [132, 774, 778, 470]
#   spawned from 5   [220, 403, 968, 753]
#   random.Random(5) and random.Random(-5): 0.6229016948897019 0.6229016948897019
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import random
import sys

import numpy as np

seeds = {
    "5": 5,
    "[5, 0]": [5, 0],
    "[5, 0, 0, 0]": [5, 0, 0, 0],
    "[5, 0, 0, 0, 0]": [5, 0, 0, 0, 0],
    "[0, 5]": [0, 5],
    "[5, 1]": [5, 1],
    "spawned from 5": np.random.SeedSequence(5).spawn(1)[0],
}
drawn = {}
for name, seed in seeds.items():
    drawn[name] = np.random.default_rng(seed).integers(0, 1000, 4).tolist()
    print(f"{name:16} {drawn[name]}")
twins = random.Random(5).random(), random.Random(-5).random()
print("random.Random(5) and random.Random(-5):", *twins)

first, zero, zeros, *others = drawn.values()
same = first == zero == zeros and twins[0] == twins[1]
sys.exit(0 if same and first not in others else "this has changed")
PYTHON
