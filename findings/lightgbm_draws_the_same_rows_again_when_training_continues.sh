#!/bin/sh
# GUESS: Training that goes on from a model (`init_model`) draws other rows and columns for its new
#   trees: one tree at a time gives as good a forest as six at once.
# REAL: LightGBM begins its random numbers anew in each call, so the new trees get the bags of the
#   first ones. One tree at a time, all six see the same eight of sixteen rows, and the others count
#   nowhere; two times three repeat three bags. There is no warning. XGBoost's stream moves on by the
#   number of trees that there are: new bags, though others than in one go. Give each call a seed of
#   its own (`bagging_seed`, `feature_fraction_seed`; `seed` sets both).
# VERSIONS: lightgbm 4.7.0, xgboost 3.2.0, numpy 2.4.6, scipy 1.17.1, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#   lightgbm, 6 at once  .#..####..###.#. .###...#.####..# .##..###..#.###. ####.#.##...##.# #.####.##..#.### .#.#.###..#..###
#   lightgbm, 1 by 1     .#..####..###.#. .#..####..###.#. .#..####..###.#. .#..####..###.#. .#..####..###.#. .#..####..###.#.
#   lightgbm, 3 and 3    .#..####..###.#. .###...#.####..# .##..###..#.###. .#..####..###.#. .###...#.####..# .##..###..#.###.
#   xgboost, 1 by 1      ##.####...#.###. #####...#..##.#. ##..#####...##.# #####...#..#.##. ##.##...#.###..# ##..####....##..
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lightgbm==4.7.0 xgboost==3.2.0 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

import lightgbm
import numpy as np
import xgboost

# Row i has the target 2 ** i, and trees hardly change the predictions: so the sum of a tree's
# leaves, each times its number of rows, tells by its binary digits which rows the tree has seen.
ROWS, RATE = 16, 1e-6
X, Y = np.arange(ROWS, dtype=float)[:, None], 2.0 ** np.arange(ROWS)
HALF_OF_THE_ROWS = {
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "seed": 0,
    "learning_rate": RATE,
    "num_leaves": 2,
    "boost_from_average": False,
    "min_data_in_leaf": 1,
    "min_sum_hessian_in_leaf": 0,
    "min_data_in_bin": 1,
    "verbose": -1,
}
THE_SAME = {
    "subsample": 0.5,
    "seed": 0,
    "eta": RATE,
    "max_depth": 1,
    "base_score": 0,
    "reg_lambda": 0,
    "min_child_weight": 0,
}


def leaves(node):
    """Value and number of rows of each leaf."""
    if "leaf" in node or "leaf_value" in node:
        yield (node["leaf"], node["cover"]) if "leaf" in node else (
            node["leaf_value"],
            node["leaf_count"],
        )
    inner = [node[side] for side in ("left_child", "right_child") if side in node]
    for child in node.get("children", inner):
        yield from leaves(child)


def bags(trees):
    """The rows that each tree has seen."""
    sums = [round(sum(value * rows for value, rows in leaves(tree)) / RATE) for tree in trees]
    return ["".join(".#"[total >> row & 1] for row in range(ROWS)) for total in sums]


def by_lightgbm(*sessions):
    model = None
    for trees in sessions:
        data = lightgbm.Dataset(X, Y)
        model = lightgbm.train(HALF_OF_THE_ROWS, data, trees, init_model=model)
    return bags(tree["tree_structure"] for tree in model.dump_model()["tree_info"])


def by_xgboost(*sessions):
    model = None
    for trees in sessions:
        model = xgboost.train(THE_SAME, xgboost.DMatrix(X, Y), trees, xgb_model=model)
    return bags(map(json.loads, model.get_dump(with_stats=True, dump_format="json")))


found = {
    "lightgbm, 6 at once": by_lightgbm(6),
    "lightgbm, 1 by 1": by_lightgbm(1, 1, 1, 1, 1, 1),
    "lightgbm, 3 and 3": by_lightgbm(3, 3),
    "xgboost, 1 by 1": by_xgboost(1, 1, 1, 1, 1, 1),
}
for name, drawn in found.items():
    print(f"{name:20} {' '.join(drawn)}")
different = [len(set(drawn)) for drawn in found.values()]
sys.exit(0 if different == [6, 1, 3, 6] else "this has changed")
PYTHON
