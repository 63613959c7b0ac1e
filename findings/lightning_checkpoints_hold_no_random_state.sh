#!/bin/sh
# GUESS: A run that continues from a checkpoint (`fit(ckpt_path=...)`) after two of four epochs ends
#   with the weights of a run in one go, as the checkpoint holds all of the training's state.
# REAL: It holds the network, the optimizer, the schedule and the counters, but no state of a random
#   generator. Seeded alike, the continued run shuffles and drops out as in its first epochs: here it
#   sees the images of epochs 1 and 2 in epochs 3 and 4, in the same order. Unseeded, it draws
#   anything. Set a seed that depends on the epoch, or save the generators' states.
# VERSIONS: lightning 2.6.6, torch 2.14.1, numpy 2.4.6, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#   at once    epoch 1: 2 0 5 3 1 4 7 6
#   at once    epoch 2: 5 1 4 7 3 6 2 0
#   at once    epoch 3: 3 5 4 6 2 0 1 7
#   at once    epoch 4: 3 7 0 4 1 5 2 6
#   continued  epoch 1: 2 0 5 3 1 4 7 6
#   continued  epoch 2: 5 1 4 7 3 6 2 0
#              epoch 3: 2 0 5 3 1 4 7 6
#              epoch 4: 5 1 4 7 3 6 2 0
#   the same dropout, too: True
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lightning==2.6.6 torch==2.14.1 numpy==2.4.6
cd "$folder"

"$folder/venv/bin/python" - <<'PYTHON' 2>"$folder/log" || { cat "$folder/log"; exit 1; }
import logging
import sys
import warnings

import lightning
import torch

warnings.simplefilter("ignore")
logging.getLogger("lightning").setLevel("ERROR")


class Order(lightning.LightningModule):
    """Keeps the order in which it sees its examples, and what dropout drops."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))
        self.seen, self.dropped = {}, {}

    def training_step(self, batch, _):
        kept = torch.nn.functional.dropout(torch.ones(8))
        self.seen.setdefault(self.current_epoch + 1, []).extend(batch[0].tolist())
        self.dropped.setdefault(self.current_epoch + 1, []).extend((kept == 0).int().tolist())
        return (self.weight * kept).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(epochs, checkpoint=None):
    lightning.seed_everything(0, verbose=False)
    examples = torch.utils.data.TensorDataset(torch.arange(8))
    loader = torch.utils.data.DataLoader(examples, batch_size=4, shuffle=True)
    module = Order()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=checkpoint)
    trainer.save_checkpoint("last.ckpt")
    return module


at_once = train(4)
first = train(2)
continued = train(4, "last.ckpt")
for name, one in (("at once", at_once), ("continued", first), ("", continued)):
    for epoch, order in one.seen.items():
        print(f"{name:10} epoch {epoch}: {' '.join(map(str, order))}")
same_order = all(continued.seen[n + 2] == at_once.seen[n] for n in (1, 2))
same_dropout = all(continued.dropped[n + 2] == at_once.dropped[n] for n in (1, 2))
differs = continued.seen[3] != at_once.seen[3]
print("the same dropout, too:", same_dropout)
sys.exit(0 if same_order and differs else "this has changed")
PYTHON
