"""Fit a noisy sine by a small network with Lightning, and log its error to MLflow."""

import argparse

import lightning.pytorch as pl
import mlflow
import torch
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH, NOISE = 30, 32, 0.1


class Wave(pl.LightningModule):
    """One hidden layer: reads float `[N, 1]`, returns `[N, 1]`."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        bend = getattr(nn, activation)()
        self.layers = nn.Sequential(nn.Linear(1, width), bend, nn.Linear(width, 1))

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        """The mean squared error of a batch."""
        x, y = batch
        return nn.functional.mse_loss(self.layers(x), y)

    def test_step(self, batch: list[Tensor], number: int) -> None:
        """Log the error of a batch."""
        self.log("test_mse", self.training_step(batch, number))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a larger step than usual for so few epochs."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def waves(count: int) -> TensorDataset:
    """Draw points of two periods, with noise."""
    x = 2 * torch.rand(count, 1) - 1
    return TensorDataset(x, torch.sin(2 * torch.pi * x) + NOISE * torch.randn(count, 1))


def main() -> None:
    """Train, and test once; the seed decides points, weights and batches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--activation", required=True)
    parser.add_argument("--seed", type=int, required=True)
    asked = parser.parse_args()
    pl.seed_everything(asked.seed, verbose=False)
    train, test = waves(256), waves(1024)
    with mlflow.start_run() as run:
        # Without the id, Lightning's logger would begin a run of its own.
        logger = MLFlowLogger(run_id=run.info.run_id)
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            logger=logger,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        model = Wave(asked.width, asked.activation)
        trainer.fit(model, DataLoader(train, BATCH, shuffle=True))
        trainer.test(model, DataLoader(test, len(test)), verbose=False)


if __name__ == "__main__":
    main()
