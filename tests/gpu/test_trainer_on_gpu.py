"""Both callbacks in a Trainer on a CUDA device: a step waits for nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.kit.modules import data

DEVICE = "cuda"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoWaiting(Callback):
    """From the third batch on, whatever makes the host wait for the device is an error."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.batches += 1
        torch.cuda.set_sync_debug_mode("error" if self.batches > 2 else "default")


class MayWait(Callback):
    """From here on waiting is allowed again: the last of the callbacks, so that the hooks of ours may not wait."""

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
        groups = [{"params": [p]} for p in self.net.parameters()]
        if self.options.get("capturable"):
            groups = [{**group, "lr": torch.tensor(0.01, device=self.device)} for group in groups]
        return torch.optim.AdamW(groups, lr=0.01, **self.options)


ONE_CYCLE = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8}}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("callback", "options"),
    [
        (LRSchedulerCallback(ONE_CYCLE), {}),
        (LRSchedulerCallback(ONE_CYCLE), {"fused": True}),
        (LRSchedulerCallback(ONE_CYCLE), {"capturable": True}),
        (LRRangeTestCallback(max_lr=0.1, num_steps=25), {}),
    ],
    ids=["eager", "fused", "capturable", "range test"],
)
def test_a_step_waits_for_nothing(make_trainer: Any, tmp_path: Any, callback: Any, options: dict[str, Any]) -> None:
    logger = TensorBoardLogger(tmp_path)
    callbacks = [NoWaiting(), copy.deepcopy(callback), MayWait()]
    trainer = make_trainer(*callbacks, accelerator=DEVICE, logger=logger, log_every_n_steps=1, max_epochs=1)
    try:
        trainer.fit(OnDevice(**options), data(30))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callbacks[0].batches >= 25


# 16-mixed -------------------------------------------------------------------------------------------------------------


class Applied(Callback):
    """Notes the lr of every batch, and whether the weights have moved: only then was the step applied."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.applied: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.before = pl_module.net.weight.detach().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.applied.append(not torch.equal(self.before, pl_module.net.weight))


def mixed_precision(init_scale: float) -> Any:
    scaler = torch.amp.GradScaler(DEVICE, init_scale=init_scale)
    return MixedPrecision("16-mixed", DEVICE, scaler), scaler


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}], ids=["fused", "foreach", "default"])
def test_in_16_mixed_the_schedule_counts_the_steps_that_the_gradient_scaler_lets_through(
    make_trainer: Any, options: dict[str, Any]
) -> None:
    look, callback = Applied(), LRSchedulerCallback(ONE_CYCLE)
    # 2 ** 40 overflows in float16, so that the first steps are skipped until the scale has been halved often enough.
    plugin, _ = mixed_precision(2.0**40)
    trainer = make_trainer(callback, look, accelerator=DEVICE, plugins=plugin, max_epochs=2)
    trainer.fit(OnDevice(**options), data(30))
    (schedule,) = callback.schedulers
    applied = [lr for lr, moved in zip(look.lrs, look.applied, strict=True) if moved]
    assert 0 < len(applied) < len(look.lrs)
    assert schedule.last_epoch == len(applied)
    assert applied == pytest.approx([schedule.lr_at(step)[0] for step in range(len(applied))], rel=1e-12)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}], ids=["fused", "foreach"])
def test_in_16_mixed_a_range_test_puts_weights_and_the_gradient_scaler_back(
    make_trainer: Any, options: dict[str, Any]
) -> None:
    callback, (plugin, scaler) = LRRangeTestCallback(max_lr=0.1, num_steps=25), mixed_precision(2.0**30)
    module, before = OnDevice(**options), scaler.state_dict()
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    make_trainer(callback, accelerator=DEVICE, plugins=plugin).fit(module, data(30))
    assert callback.result.steps == list(range(25))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(weights, module.parameters(), strict=True))
    assert scaler.state_dict() == before
