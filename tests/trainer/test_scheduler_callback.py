"""LRSchedulerCallback in a real Trainer: the values of each step, which optimizer, fitting again, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_lrsched import LRSchedulerCallback, OneCycle, SchedulerConfig
from tests.kit.modules import Regression, TwoOptimizers, data, read_csv

ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8, "decay_step_size": 4,
               "decay_lr_rate": 1.0},
}  # fmt: skip
WARMUP = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}
HALVED = {"type": "ExponentialLR", "params": {"gamma": 0.5}}


def expected(config: dict, steps: int) -> list[tuple[float, float]]:
    """(lr, momentum) of the first steps, from the pure functions."""
    schedule = SchedulerConfig.of(config).build(torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9))
    return [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(steps)]


# The values of each step ----------------------------------------------------------------------------------------------


def test_a_file_that_is_read_once_and_a_config_object_are_taken_as_well_as_a_dict(make_trainer, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 8, "optimizer": {"type": "Adam"}, "scheduler": ONE_CYCLE}))
    callbacks = [LRSchedulerCallback(scheduler) for scheduler in (path, str(path), SchedulerConfig.load(path))]
    path.unlink()
    for callback in callbacks:
        module = Regression()
        make_trainer(callback, max_epochs=1).fit(module, data())
        assert module.seen == expected(ONE_CYCLE, 10)


@pytest.mark.parametrize("first_beta", [True, False])
def test_adam_gets_its_first_beta_cycled_and_keeps_the_second(make_trainer, first_beta):
    module = Regression(lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.97)))
    config = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "cycle_momentum": first_beta}}
    trainer = make_trainer(LRSchedulerCallback(config))
    trainer.fit(module, data())
    momenta = [momentum for _, momentum in module.seen]
    assert momenta == ([m for _, m in expected(ONE_CYCLE, 30)] if first_beta else [0.9] * 30)
    assert trainer.optimizers[0].param_groups[0]["betas"][1] == 0.97


def test_torchs_schedulers_run_per_optimizer_step_and_are_logged(make_trainer, tmp_path):
    module, logger = Regression(), CSVLogger(tmp_path)
    trainer = make_trainer(
        LRSchedulerCallback(HALVED), logger=logger, log_every_n_steps=1, max_epochs=1, accumulate_grad_batches=2
    )
    trainer.fit(module, data())
    wanted = [0.01 * 0.5**step for step in range(5)]
    assert [lr for lr, _ in module.seen] == pytest.approx(wanted)
    assert list(read_csv(logger)["lr-SGD"].values()) == pytest.approx(wanted)


def test_a_schedule_wired_by_hand_is_stepped_by_lightning(make_trainer):
    def wired(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        scheduler = OneCycle(optimizer, **ONE_CYCLE["params"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Regression(wired)
    make_trainer().fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 30)


def test_under_manual_optimization_each_schedule_counts_its_own_optimizer(make_trainer):
    callback = LRSchedulerCallback([ONE_CYCLE, WARMUP])
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert [schedule.last_epoch for schedule in callback.schedulers] == [30, 12]
    lrs = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    assert lrs == [*callback.schedulers[0].lr_at(30), *callback.schedulers[1].lr_at(12)]


def test_one_of_several_optimizers_is_scheduled_and_the_other_left_alone(make_trainer):
    callback = LRSchedulerCallback(ONE_CYCLE, optimizer_index=0)
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert len(callback.schedulers) == 1
    assert trainer.optimizers[1].param_groups[0]["lr"] == 0.1


def test_a_schedule_goes_on_with_an_optimizer_that_replaces_its_own(make_trainer):
    class Replaced(Regression):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.trainer.strategy.optimizers = [torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.1)]

    module, callback = Replaced(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback).fit(module, data())
    assert callback.schedulers[0].last_epoch == 30
    assert module.seen == expected(ONE_CYCLE, 30)


# Fitting again --------------------------------------------------------------------------------------------------------


class KeptOptimizer(Regression):
    """Returns the same optimizer each time."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.kept, self.fails_at = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9), fails_at

    def configure_optimizers(self) -> Any:
        return self.kept

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if len(self.seen) == self.fails_at:
            self.fails_at = None
            raise RuntimeError("out of luck")


@pytest.mark.parametrize("new_callback", [False, True])
@pytest.mark.parametrize("fails_at", [None, 4])
def test_a_module_that_keeps_its_optimizer_is_fitted_again_also_after_a_fit_that_failed(
    make_trainer, new_callback, fails_at
):
    module, callback = KeptOptimizer(fails_at), LRSchedulerCallback(ONE_CYCLE)
    steps = 10 if fails_at is None else fails_at
    try:
        make_trainer(callback, max_epochs=1).fit(module, data())
    except RuntimeError:
        assert fails_at is not None
    [first] = callback.schedulers
    assert first.last_epoch == steps
    assert first.get_last_lr() == first.lr_at(steps)
    callback = LRSchedulerCallback(ONE_CYCLE) if new_callback else callback
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.seen == [*expected(ONE_CYCLE, steps), *expected(ONE_CYCLE, 10)]
    assert (first.last_epoch, [schedule.last_epoch for schedule in callback.schedulers]) == (steps, [10])


# Refusals -------------------------------------------------------------------------------------------------------------

BAD = {"type": "OneCycle", "params": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 0.3}}


@pytest.mark.parametrize(
    ("make_module", "callbacks", "message"),
    [
        (TwoOptimizers, [LRSchedulerCallback(ONE_CYCLE)], "2 optimizers; choose one with optimizer_index=0..1"),
        (TwoOptimizers, [LRSchedulerCallback(ONE_CYCLE, optimizer_index=2)], "optimizer_index must be 0..1, got 2"),
        (TwoOptimizers, [LRSchedulerCallback([ONE_CYCLE])], "lists 1 schedules, but the module has 2 optimizers"),
        (Regression, [LRSchedulerCallback(ONE_CYCLE), LRSchedulerCallback(ONE_CYCLE)],
         r"another LRSchedulerCallback of this Trainer already schedules optimizer 0 \(OneCycle\)"),
        (Regression, [LRSchedulerCallback(BAD)], r"scheduler\.params\.cycle_min_lr lists 2 values, but .* 1 param"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_an_lr_is_written(make_trainer, make_module, callbacks, message):
    trainer, own_lr = make_trainer(*callbacks), 0.1 if make_module is TwoOptimizers else 0.01
    with pytest.raises(ValueError, match=message):
        trainer.fit(make_module(), data())
    if len(callbacks) == 1:
        assert {group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups} == {own_lr}


def test_a_module_without_optimizer_is_refused(make_trainer):
    with (
        pytest.warns(UserWarning, match="will run with no optimizer"),
        pytest.raises(ValueError, match="returned no optimizer"),
    ):
        make_trainer(LRSchedulerCallback(ONE_CYCLE)).fit(Regression(lambda _: None), data())


def test_a_wrong_configuration_is_told_at_construction():
    with pytest.raises(ValueError, match=r"cycle_max_lrr.*did you mean 'cycle_max_lr'"):
        LRSchedulerCallback({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lrr": 0.2}})
