#!/bin/sh
# GUESS: `BackupAndRestore` continues an interrupted `fit` where it was: the same epochs, the same
#   learning rates, early stopping at the same epoch.
# REAL: It restores the weights, the optimizer and the epoch, but no other callback. EarlyStopping has
#   forgotten the best value and how long it has waited, and so has ReduceLROnPlateau. Without an
#   interruption the run below ends after epoch 6, at a best loss of 1; interrupted in epoch 5, it
#   runs up to epoch 9, lowers its learning rate in another epoch, and takes 2 for the best loss.
# VERSIONS: keras 3.15.1 on torch 2.14.1, numpy 2.4.6, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#   at once    best 1, epochs 1 2 3 4 5 6, learning rate lowered after epoch 5
#   continued  best 2, epochs 5 6 7 8 9, learning rate lowered after epoch 8
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras==3.15.1 torch==2.14.1 numpy==2.4.6
cd "$folder"

KERAS_BACKEND=torch "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

LOSSES = (3, 1, *[2] * 10)  # of the validation images, by epoch


class Validation(keras.callbacks.Callback):
    """Says what the losses are."""

    def on_epoch_end(self, epoch, logs):
        logs["val_loss"] = LOSSES[epoch]


class Interruption(keras.callbacks.Callback):
    """Ends the training as Ctrl+C does."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 4:
            raise KeyboardInterrupt


def fit(backup, *others):
    """Train; return the best loss, the epochs, and that after which the rate is lowered."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=4)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=3)
    restore = keras.callbacks.BackupAndRestore(backup)
    callbacks = [Validation(), stopping, plateau, restore, *others]
    x, y = np.ones((64, 4)), np.zeros((64, 1))
    history = model.fit(x, y, epochs=12, verbose=0, callbacks=callbacks)
    rates = history.history["learning_rate"]
    lowered = next(n for n, rate in enumerate(rates) if rate < rates[0])
    epochs = [epoch + 1 for epoch in history.epoch]
    return stopping.best, epochs, epochs[lowered - 1]


at_once = fit("first")
try:
    fit("second", Interruption())
except KeyboardInterrupt:
    continued = fit("second")
for name, (best, epochs, lowered) in (("at once", at_once), ("continued", continued)):
    told = f"best {best}, epochs {' '.join(map(str, epochs))}"
    print(f"{name:10} {told}, learning rate lowered after epoch {lowered}")
expected = (1, [1, 2, 3, 4, 5, 6], 5), (2, [5, 6, 7, 8, 9], 8)
sys.exit(0 if (at_once, continued) == expected else "this has changed")
PYTHON
