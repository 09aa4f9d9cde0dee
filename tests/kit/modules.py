"""Small modules, their data, and a range test that returns its result."""

from __future__ import annotations

import csv
from collections import UserList
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback, RangeTestResult


class Notes(UserList):
    """What a module notes for a test: a list of its own, out of sight, for others are put back after a range test."""

    data = property(lambda self: self._kept())

    def __init__(self, items: Iterable[Any] = ()) -> None:
        kept = [*items]
        self._kept = lambda: kept


class Regression(LightningModule):
    """A linear regression; ``optimizer`` makes its optimizer, ``seen`` notes lr and momentum of each step."""

    def __init__(self, optimizer: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
        self.make_optimizer = optimizer or (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))
        self.seen: list[tuple[float, float]] = Notes()

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        group = optimizer.param_groups[0]
        self.seen.append((group["lr"], group["betas"][0] if "betas" in group else group.get("momentum")))

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class ValidatedRegression(Regression):
    """The same, with a validation."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


class Scripted(Regression):
    """A module whose loss is whatever ``script(step)`` says; its gradients are all 0, so that no lr harms it."""

    def __init__(self, script: Callable[[int], float], optimizer: Callable[[Any], Any] | None = None) -> None:
        super().__init__(optimizer)
        self.script = script

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return 0.0 * self.loss(batch) + self.script(self.trainer.global_step)


def data(batches: int = 10, batch_size: int = 8, **options: Any) -> DataLoader:
    """Batches of a learnable regression."""
    inputs = torch.randn(batches * batch_size, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size, **options)


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""A Trainer that says and writes nothing."""


def run(
    make_trainer: Callable[..., Trainer], module: Any, loader: Any = None, trainer_options: Any = None, **options: Any
) -> RangeTestResult:
    """Run an LR range test and return its result."""
    callback = LRRangeTestCallback(**options)
    make_trainer(callback, **(trainer_options or {})).fit(module, loader or data())
    return callback.result


def read_csv(logger: CSVLogger) -> dict[str, dict[int, float]]:
    """tag -> {step: value} of what a CSVLogger wrote."""
    curves: dict[str, dict[int, float]] = {}
    with (Path(logger.log_dir) / "metrics.csv").open() as lines:
        for row in csv.DictReader(lines):
            for tag, value in row.items():
                if tag != "step" and value:
                    assert int(row["step"]) not in curves.setdefault(tag, {}), f"{tag} was logged twice"
                    curves[tag][int(row["step"])] = float(value)
    return curves


class TwoOptimizers(LightningModule):
    """Manual optimization: the second optimizer steps on every third batch only."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        for number, (net, optimizer) in enumerate(zip((self.a, self.b), self.optimizers(), strict=True)):
            if number == 0 or batch_idx % 3 == 0:
                optimizer.zero_grad()
                self.manual_backward(net(batch[0]).square().mean())
                optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.a.parameters(), 0.1, momentum=0.9), torch.optim.SGD(self.b.parameters(), 0.1)
