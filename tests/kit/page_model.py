"""The module and the data that the pages of the documentation call ``Model``, ``model``, ``Data`` and ``data``.

Also copied into a folder as ``model.py``, where a page has scripts that import it.
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    """Records, for each optimizer step of each fit, the lr that it was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.1
        self.layer = nn.Linear(2, 1)
        self.lrs: list[dict[int, float]] = []

    def on_fit_start(self) -> None:
        self.lrs.append({})

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.lrs:  # Lightning's finder trains before on_fit_start
            self.lrs[-1][self.trainer.global_step] = optimizer.param_groups[0]["lr"]

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


def make_data() -> DataLoader:
    """Return forty batches, in the same order each time."""
    return DataLoader(TensorDataset(torch.randn(80, 2, generator=torch.Generator().manual_seed(0))), 2)


class Data(LightningDataModule):
    """The same for a command line."""

    def train_dataloader(self) -> DataLoader:
        return make_data()
