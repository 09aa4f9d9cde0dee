"""Plain LightningCLI: our schedulers in its ``lr_scheduler:`` section, with nothing of ours in the module."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.modules import data

PARAMS = {
    "LRRangeTest": ["--lr_scheduler.lr_range_test_min_lr=0.5"],
    "OneCycle": ["--lr_scheduler.cycle_min_lr=0.01", "--lr_scheduler.cycle_max_lr=[0.1]"],
    "WarmupLR": ["--lr_scheduler.warmup_max_lr=null"],
    "WarmupDecayLR": [
        "--lr_scheduler.total_num_steps=30",
        "--lr_scheduler.warmup_num_steps=5",
        "--lr_scheduler.warmup_max_lr=0.1",
    ],
    "WarmupCosineLR": ["--lr_scheduler.total_num_steps=2000"],
    "PhasedLR": [
        '--lr_scheduler.phases=[{"steps": 3, "lr": {"ratio": 1.0}}, {"steps": 9, "lr": 0.0, "shape": "cosine"}]'
    ],
    "WarmupStableDecayLR": [
        "--lr_scheduler.total_num_steps=2000",
        "--lr_scheduler.warmup_max_lr=null",
        "--lr_scheduler.decay_type=cosine",
    ],
}


class Plain(LightningModule):
    """A module that defines neither an optimizer nor a scheduler: LightningCLI wires both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch):
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def train_dataloader(self):
        return data()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_schedule_is_built_from_the_command_line(name, tmp_path, monkeypatch):
    arguments = [
        "main.py", "fit", "--seed_everything=1",
        "--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9",
        f"--lr_scheduler=lightning_lrsched.{name}", *PARAMS[name],
        "--trainer.max_epochs=2", "--trainer.logger=false", "--trainer.accelerator=cpu",
        "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", f"--trainer.default_root_dir={tmp_path}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.warns(UserWarning, match=rf"{name} counts optimizer steps, but .* interval 'step', not 'epoch'"):
        cli = LightningCLI(Plain, save_config_callback=None)
    [config] = cli.trainer.lr_scheduler_configs
    assert type(config.scheduler) is SCHEDULERS[name]
    # Plain LightningCLI steps every scheduler once an epoch, and gives no key to change that.
    assert (config.interval, config.scheduler.last_epoch) == ("epoch", 2)
    assert config.scheduler.get_last_lr() == config.scheduler.lr_at(2)
