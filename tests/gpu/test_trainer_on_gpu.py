"""Both callbacks in a Trainer on a CUDA device: a step waits for nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.kit.modules import data

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoWaiting(Callback):
    """From the third batch on, whatever makes the host wait for the device is an error."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.batches += 1
        torch.cuda.set_sync_debug_mode("error" if self.batches > 2 else "default")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


class OnDevice(LightningModule):
    """Its data is on the device already, so that a step by itself waits for nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net, self.options = torch.nn.Linear(8, 8), options

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(torch.ones(4, 8, device=self.device)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([{"params": [p]} for p in self.net.parameters()], lr=0.01, **self.options)


ONE_CYCLE = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8}}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("callback", "options"),
    [
        (LRSchedulerCallback(ONE_CYCLE), {}),
        (LRSchedulerCallback(ONE_CYCLE), {"fused": True}),
        (LRSchedulerCallback(ONE_CYCLE, capturable=True), {}),
        (LRRangeTestCallback(max_lr=0.1, num_steps=25), {}),
    ],
    ids=["eager", "fused", "capturable", "range test"],
)
def test_a_step_waits_for_nothing(make_trainer: Any, tmp_path: Any, callback: Any, options: dict[str, Any]) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(
        NoWaiting(), copy.deepcopy(callback), accelerator="cuda", logger=logger, log_every_n_steps=1, max_epochs=1
    )
    trainer.fit(OnDevice(**options), data(30))
