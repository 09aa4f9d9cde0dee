"""What a range test changes in a Trainer and puts back; of the module and its data: test_no_trace.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.kit.modules import Regression, data
from tests.kit.runs import RestoresLater

WARMUP = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.05}}


class Interrupt(Callback):
    def __init__(self, exception: BaseException | None) -> None:
        self.exception = exception

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 7 and self.exception is not None:
            raise self.exception


def weights(module: Any) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("exception", [None, RuntimeError("user's code"), KeyboardInterrupt()])
def test_callbacks_limits_and_progress_are_as_before(make_trainer, exception):
    callback, interrupt = LRRangeTestCallback(), Interrupt(exception)
    others = ModelCheckpoint(), EarlyStopping("never_logged"), GradientAccumulationScheduler({1: 2}), interrupt
    trainer = make_trainer(callback, *others, enable_checkpointing=True, min_steps=2)
    callbacks_before = list(trainer.callbacks)
    if exception is None:
        trainer.fit(Regression(), data())
    else:
        with pytest.raises(SystemExit if isinstance(exception, KeyboardInterrupt) else RuntimeError):
            trainer.fit(Regression(), data())
    assert trainer.callbacks == callbacks_before
    assert (trainer.global_step, trainer.current_epoch, trainer.accumulate_grad_batches) == (0, 0, 1)
    assert (trainer.max_epochs, trainer.max_steps, trainer.min_steps) == (3, -1, 2)
    assert not trainer.should_stop
    assert trainer.progress_bar_metrics == {}
    assert not list(Path(trainer.default_root_dir).rglob("*.ckpt"))
    assert len(callback.result.steps) >= 7


def test_the_same_trainer_trains_after_the_test_as_one_that_made_none(make_trainer):
    def train(*, test: bool) -> list[torch.Tensor]:
        torch.manual_seed(5)
        module, loader = Regression(), data(shuffle=True)
        schedule, callback = LRSchedulerCallback(WARMUP), LRRangeTestCallback()
        trainer = make_trainer(*([callback] if test else [schedule]))
        if test:
            trainer.fit(module, loader)
            trainer.callbacks.remove(callback)
            trainer.callbacks.append(schedule)
        trainer.fit(module, loader)
        assert trainer.global_step == schedule.schedulers[0].last_epoch == 30
        return weights(module)

    assert same(train(test=True), train(test=False))


@pytest.mark.parametrize("later", [False, True])
def test_the_test_can_start_from_a_checkpoint(make_trainer, tmp_path, later):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    trained = weights(trainer.lightning_module)

    module, callback = Regression(), LRRangeTestCallback(num_steps=20)
    options = {"strategy": RestoresLater(torch.device("cpu"))} if later else {}
    make_trainer(callback, **options).fit(module, data(), ckpt_path=tmp_path / "trained.ckpt")
    assert [lr for lr, _ in module.seen] == callback.result.lrs
    assert same(trained, weights(module))


def test_a_modules_own_scheduler_and_our_callback_give_way_during_the_test(make_trainer):
    def wired(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module, callback = Regression(wired), LRRangeTestCallback(num_steps=20)
    ours = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
    make_trainer(callback, ours).fit(module, data())
    assert [lr for lr, _ in module.seen][: len(callback.result.lrs)] == callback.result.lrs
    assert ours.schedulers == []


class AddGroup(Callback):
    """Thaws the first layer after four steps."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        optimizer = trainer.optimizers[0]
        if len(optimizer.param_groups) == 1 and trainer.global_step == 4:
            pl_module.net[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(pl_module.net[0].parameters())})


@pytest.mark.parametrize("exception", [None, RuntimeError("user's code")])
def test_added_groups_and_thawed_weights_are_put_back(make_trainer, exception):
    module = Regression(lambda p: torch.optim.SGD([q for q in p if q.requires_grad], 0.01, momentum=0.9))
    module.net[0].requires_grad_(False)
    trainer = make_trainer(LRRangeTestCallback(num_steps=20), AddGroup(), Interrupt(exception))
    if exception is None:
        trainer.fit(module, data())
    else:
        with pytest.raises(RuntimeError, match="user's code"):
            trainer.fit(module, data())
    assert not any(parameter.requires_grad for parameter in module.net[0].parameters())
    assert len(trainer.optimizers[0].param_groups) == 1
    assert trainer.max_epochs == 3


@pytest.mark.parametrize("log", [True, False])
def test_what_the_module_logs_during_the_test_does_not_reach_the_training_s_run(make_trainer, tmp_path, log):
    class Records(CSVLogger):
        def log_metrics(self, metrics, step=None):
            recorded.append((step, set(metrics)))

    class Logs(Regression):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.log("train_loss", loss, prog_bar=True)
            return loss

    recorded = []
    module, callback = Logs(), LRRangeTestCallback(log=log)
    trainer = make_trainer(callback, LearningRateMonitor(), logger=Records(tmp_path), log_every_n_steps=1)
    trainer.fit(module, data())
    assert all(name.startswith("lr_range_test/") for _, names in recorded for name in names)
    assert bool(recorded) == log
    recorded.clear()
    trainer.callbacks.remove(callback)
    trainer.fit(module, data())
    assert [step for step, names in recorded if "train_loss" in names] == list(range(30))


@pytest.mark.filterwarnings("ignore:.*float16")
def test_the_scale_of_a_gradient_scaler_is_put_back(make_trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = scaler.state_dict()
    trainer = make_trainer(
        LRRangeTestCallback(num_steps=12, max_lr=0.01), plugins=MixedPrecision("16-mixed", "cpu", scaler)
    )
    trainer.fit(Regression(lambda p: torch.optim.AdamW(p, 0.01)), data())
    assert scaler.state_dict() == before
