"""A user's training script whose module holds no scheduler code; its argument says how the schedule is given."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import (
    LRSchedulerCallback,
    SchedulerConfig,
    add_tuning_arguments,
    configure_optimizers,
    get_config_from_args,
)


class Regression(LightningModule):
    """A small regression with a plain optimizer; what each optimizer step ran at goes to ``$SEEN``."""

    def __init__(self, lr: float = 0.01, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def train_dataloader(self) -> DataLoader:
        inputs = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 8)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        group = optimizer.param_groups[0]
        self.seen.append((group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]))

    def on_train_end(self) -> None:
        Path(os.environ["SEEN"]).write_text(json.dumps(self.seen))


class Plain(Regression):
    """With an optimizer of its own."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


class FromFile(Regression):
    """With an optimizer and a schedule from a DeepSpeed configuration."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self, os.environ["DS_CONFIG"])


def trainer(*callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=2, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def without_a_command_line(folder: Path) -> None:
    """Train once for each file in ``folder``, each time with the schedule given in another way."""
    for path in sorted(folder.glob("*.*")):
        os.environ["SEEN"] = str(folder / f"{path.name}.seen")
        if path.name.startswith("dict"):
            trainer(LRSchedulerCallback(SchedulerConfig.from_dict(json.loads(path.read_text())))).fit(Plain())
        elif path.name.startswith("file"):
            trainer(LRSchedulerCallback(path)).fit(Plain())
        elif path.name.startswith("flags"):
            parser = add_tuning_arguments(argparse.ArgumentParser())
            config, _ = get_config_from_args(parser.parse_args(path.read_text().split()))
            trainer(LRSchedulerCallback(config)).fit(Plain())
        else:
            os.environ["DS_CONFIG"] = str(path)
            trainer().fit(FromFile())


def main() -> None:
    path = sys.argv.pop(1)
    if path == "plain":
        LightningCLI(Plain, save_config_callback=None)
    elif path == "ours":
        from lightning_lrsched.cli import LRSchedulerCLI

        LRSchedulerCLI(Plain)
    else:
        without_a_command_line(Path(path))


if __name__ == "__main__":
    main()
