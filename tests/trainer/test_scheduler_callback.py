"""LRSchedulerCallback in a real Trainer: the values of each step, the clock, resuming, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.optimization.automatic import Closure

from lightning_lrsched import LRSchedulerCallback, OneCycle, SchedulerConfig
from tests.kit.modules import Regression, TwoOptimizers, ValidatedRegression, data

ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8, "decay_step_size": 4,
               "decay_lr_rate": 1.0},
}  # fmt: skip


def expected(config: dict, steps: int) -> list[tuple[float, float]]:
    """(lr, momentum) of the first steps, from the pure functions."""
    schedule = SchedulerConfig.of(config).build(torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9))
    return [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(steps)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_optimizer_step_runs_at_the_values_of_the_schedule(make_trainer, accumulate):
    module = Regression()
    callback = LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback, accumulate_grad_batches=accumulate).fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 30 // accumulate)
    assert callback.schedulers[0].last_epoch == 30 // accumulate


def test_a_file_and_a_config_object_are_taken_as_well_as_a_dict(make_trainer, tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 8, "scheduler": ONE_CYCLE}))
    for scheduler in (path, str(path), SchedulerConfig.load(path)):
        module = Regression()
        make_trainer(LRSchedulerCallback(scheduler), max_epochs=1).fit(module, data())
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


def test_a_step_without_a_loss_does_not_count(make_trainer):
    class Skipping(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 3 == 0 else self.loss(batch)

    module = Skipping()
    callback = LRSchedulerCallback(ONE_CYCLE)
    Closure.warning_cache.clear()  # Lightning warns once in a process; another test may have been first
    with pytest.warns(UserWarning, match="training_step` returned `None"):
        make_trainer(callback, max_epochs=1).fit(module, data())
    # Lightning calls the optimizer even then; the schedule follows the optimizer.
    assert callback.schedulers[0].last_epoch == len(module.seen)


def test_under_manual_optimization_each_schedule_counts_its_own_optimizer(make_trainer):
    warmup = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}
    callback = LRSchedulerCallback([ONE_CYCLE, warmup])
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert [schedule.last_epoch for schedule in callback.schedulers] == [30, 12]
    assert [group["lr"] for o in trainer.optimizers for group in o.param_groups] == [
        *callback.schedulers[0].lr_at(30),
        *callback.schedulers[1].lr_at(12),
    ]


def test_one_of_several_optimizers_is_scheduled_and_the_other_left_alone(make_trainer):
    callback = LRSchedulerCallback(ONE_CYCLE, optimizer_index=0)
    trainer = make_trainer(callback)
    trainer.fit(TwoOptimizers(), data())
    assert len(callback.schedulers) == 1
    assert trainer.optimizers[1].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (LRSchedulerCallback(ONE_CYCLE), "2 optimizers; choose one with optimizer_index=0..1"),
        (LRSchedulerCallback(ONE_CYCLE, optimizer_index=2), "optimizer_index must be 0..1, got 2"),
        (LRSchedulerCallback([ONE_CYCLE]), "lists 1 schedules, but the module has 2 optimizers"),
    ],
)
def test_an_unclear_choice_of_optimizer_is_refused(make_trainer, callback, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(callback).fit(TwoOptimizers(), data())


# Resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 8, 13, 20])
def test_an_interrupted_run_continues_as_if_it_had_not_been(make_trainer, tmp_path, stop):
    def fit(module, max_steps, ckpt_path=None):
        trainer = make_trainer(LRSchedulerCallback(ONE_CYCLE), max_steps=max_steps, max_epochs=-1)
        trainer.fit(module, data(batches=30), ckpt_path=ckpt_path)
        return trainer

    whole, resumed = Regression(), Regression()
    fit(Regression(), stop).save_checkpoint(tmp_path / "stopped.ckpt")
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        fit(resumed, 30, tmp_path / "stopped.ckpt")
    fit(whole, 30)
    assert resumed.seen == whole.seen[stop:] == expected(ONE_CYCLE, 30)[stop:]


def test_the_checkpoint_holds_plain_values_only(make_trainer, tmp_path):
    trainer = make_trainer(LRSchedulerCallback(ONE_CYCLE))
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["lr_schedulers"]
    assert [state["last_epoch"] for state in saved] == [30]


def test_fitting_twice_starts_a_new_schedule_for_the_new_optimizer(make_trainer):
    callback = LRSchedulerCallback(ONE_CYCLE)
    for _ in range(2):
        module = Regression()
        make_trainer(callback, max_epochs=1).fit(module, data())
        assert module.seen == expected(ONE_CYCLE, 10)
        assert len(callback.schedulers) == 1


class KeptOptimizer(Regression):
    """Returns the same optimizer each time."""

    def __init__(self):
        super().__init__()
        self.kept = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    def configure_optimizers(self):
        return self.kept


@pytest.mark.parametrize("new_callback", [False, True])
def test_a_module_that_keeps_its_optimizer_is_fitted_twice(make_trainer, new_callback):
    module, callback = KeptOptimizer(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback, max_epochs=1).fit(module, data())
    [schedule] = callback.schedulers
    assert schedule.last_epoch == 10
    assert schedule.get_last_lr() == schedule.lr_at(10)
    callback = LRSchedulerCallback(ONE_CYCLE) if new_callback else callback
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 10) * 2
    assert schedule.last_epoch == 10
    assert callback.schedulers[0].last_epoch == 10


@pytest.mark.parametrize("new_callback", [False, True])
def test_a_fit_that_failed_gives_the_optimizer_back(make_trainer, new_callback):
    class FailsOnce(KeptOptimizer):
        def on_train_batch_start(self, batch, batch_idx):
            if len(self.seen) == 4:
                self.seen.append(None)
                raise RuntimeError("out of luck")

    module, callback = FailsOnce(), LRSchedulerCallback(ONE_CYCLE)
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(callback, max_epochs=1).fit(module, data())
    assert callback.schedulers[0].last_epoch == 4
    callback = LRSchedulerCallback(ONE_CYCLE) if new_callback else callback
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.seen == [*expected(ONE_CYCLE, 4), None, *expected(ONE_CYCLE, 10)]


# Refusals ---------------------------------------------------------------------------------------------------------


def test_a_scheduler_of_the_module_for_the_same_optimizer_is_refused(make_trainer):
    def with_scheduler(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]

    with pytest.raises(ValueError, match=r"already returns a scheduler \(StepLR\) for optimizer 0"):
        make_trainer(LRSchedulerCallback(ONE_CYCLE)).fit(Regression(with_scheduler), data())


def test_two_of_our_callbacks_for_one_optimizer_are_refused(make_trainer):
    message = r"another LRSchedulerCallback of this Trainer already schedules optimizer 0 \(OneCycle\)"
    with pytest.raises(ValueError, match=message):
        make_trainer(LRSchedulerCallback(ONE_CYCLE), LRSchedulerCallback(ONE_CYCLE)).fit(Regression(), data())


def test_stochastic_weight_averaging_is_refused(make_trainer):
    callbacks = LRSchedulerCallback(ONE_CYCLE), StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(ValueError, match="StochasticWeightAveraging sets the lr of the same optimizer"):
        make_trainer(*callbacks).fit(Regression(), data())


def test_a_module_without_optimizer_is_refused(make_trainer):
    with (
        pytest.warns(UserWarning, match="will run with no optimizer"),
        pytest.raises(ValueError, match="returned no optimizer"),
    ):
        make_trainer(LRSchedulerCallback(ONE_CYCLE)).fit(Regression(lambda _: None), data())


def test_a_wrong_configuration_is_told_at_construction():
    with pytest.raises(ValueError, match=r"cycle_max_lrr.*did you mean 'cycle_max_lr'"):
        LRSchedulerCallback({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lrr": 0.2}})


def test_wrong_values_leave_the_optimizer_as_it_was(make_trainer):
    bad = {"type": "OneCycle", "params": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 0.3}}
    trainer = make_trainer(LRSchedulerCallback(bad))
    with pytest.raises(
        ValueError, match=r"scheduler\.params\.cycle_min_lr lists 2 values, but the optimizer has 1 param"
    ):
        trainer.fit(Regression(), data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01


# Beside the callback ----------------------------------------------------------------------------------------------


def test_a_schedule_wired_by_hand_is_stepped_by_lightning(make_trainer):
    def wired(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        scheduler = OneCycle(optimizer, **ONE_CYCLE["params"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Regression(wired)
    make_trainer().fit(module, data())
    assert module.seen == expected(ONE_CYCLE, 30)


def test_validate_test_and_predict_are_untouched(make_trainer):
    module, callback = ValidatedRegression(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback).validate(module, data(), verbose=False)
    assert callback.schedulers == []


# Torch's own schedulers -----------------------------------------------------------------------------------------------


def test_torch_schedulers_run_per_optimizer_step_and_are_logged(make_trainer, tmp_path):
    module, logger = Regression(), CSVLogger(tmp_path)
    callback = LRSchedulerCallback({"type": "ExponentialLR", "params": {"gamma": 0.5}})
    trainer = make_trainer(callback, logger=logger, log_every_n_steps=1, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(module, data())
    assert [lr for lr, _ in module.seen] == pytest.approx([0.01 * 0.5**step for step in range(5)])
    logger.save()
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr-SGD")
    assert [float(line.split(",")[column]) for line in lines[1:]] == pytest.approx([0.01 * 0.5**s for s in range(5)])


def test_torch_schedulers_under_manual_optimization_are_refused(make_trainer):
    callback = LRSchedulerCallback([{"type": "ExponentialLR", "params": {"gamma": 0.5}}, None])
    with pytest.raises(ValueError, match="under manual optimization Lightning never steps ExponentialLR"):
        make_trainer(callback).fit(TwoOptimizers(), data())
