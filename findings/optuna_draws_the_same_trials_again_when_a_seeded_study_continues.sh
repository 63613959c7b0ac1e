#!/bin/sh
# GUESS: A study in a database goes on where it was stopped: the same program, run again with
#   `load_if_exists=True` and a sampler with the same seed, draws new trials, because the sampler
#   sees those that are stored.
# REAL: RandomSampler begins its stream anew, and repeats the stored trials number by number, without
#   a word: twelve trials of three sessions are four points. So do TPESampler, for its first ten
#   trials, and NSGAIISampler, for its first generation (50). If the objective has a seed of its own,
#   the repeated trials even look like perfect agreement. QMCSampler goes on. A seed that counts the
#   stored trials (`seed=len(study.trials)`), or a pickled sampler, avoids it.
# VERSIONS: optuna 5.0.0, scipy 1.17.1 (for QMCSampler), Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#   RandomSampler   4 different points of 12
#   TPESampler      6 different points of 12
#   NSGAIISampler   4 different points of 12
#   QMCSampler     12 different points of 12
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0 scipy==1.17.1
cd "$folder"

"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import optuna

warnings.simplefilter("ignore")  # QMCSampler says that it is experimental
optuna.logging.set_verbosity(optuna.logging.ERROR)


def points(sampler, sessions=3, trials=4):
    """How many different points some sessions of one study have tried."""
    for _ in range(sessions):
        study = optuna.create_study(
            storage="sqlite:///studies.db",
            study_name=sampler.__name__,
            load_if_exists=True,
            sampler=sampler(seed=0),
        )
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=trials)
    return len({trial.params["x"] for trial in study.trials})


found = {}
for name in ("RandomSampler", "TPESampler", "NSGAIISampler", "QMCSampler"):
    found[name] = points(getattr(optuna.samplers, name))
    print(f"{name:14} {found[name]:2} different points of 12")
sys.exit(0 if list(found.values()) == [4, 6, 4, 12] else "this has changed")
PYTHON
