"""Two that would set one learning rate: refused before the first step, or told where it does no harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import StepLR

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, OneCycle, configure_optimizers
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.modules import Regression, data
from tests.kit.runs import (
    BATCHES,
    CONFIGS,
    ONE_CYCLE,
    WARMUP,
    ManualNet,
    Net,
    StatefulLoader,
    fit,
    quiet_trainer,
    sgd,
    through_module,
    two_optimizers,
)

SWA = pytest.param(lambda: StochasticWeightAveraging(swa_lrs=0.1), "StochasticWeightAveraging", id="SWA")
FINDER = pytest.param(lambda: LearningRateFinder(num_training_steps=3), "LearningRateFinder", id="lr finder")


class MyFinder(LearningRateFinder):
    """One that searches again in the middle of training, as Lightning's documentation shows."""


def refused(folder: Any, match: str, *args: Any, **options: Any) -> None:
    """Check that a fit is refused and that no optimizer step was made."""
    module = options.pop("module_class", Net)(options.pop("configure", None))
    trainer = quiet_trainer(folder, *args, **options)
    with pytest.raises(ValueError, match=match):
        trainer.fit(module, StatefulLoader())
    assert module.used == []
    assert trainer.global_step == 0


def wired(module: Any) -> Any:
    return configure_optimizers(sgd(module), WARMUP, trainer=module.trainer)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    ("rival", "name"), [SWA, FINDER, pytest.param(MyFinder, "LearningRateFinder", id="its subclass")]
)
def test_callbacks_that_set_the_lr_are_refused_before_they_begin(tmp_path, rival, name, ours_first):
    callbacks = [LRSchedulerCallback(ONE_CYCLE), rival()]
    refused(tmp_path, f"LRSchedulerCallback: {name} sets the lr", *(callbacks if ours_first else callbacks[::-1]))
    refused(tmp_path, f"configure_optimizers: {name} sets the lr", rival(), configure=wired)


def test_lightnings_tuner_is_refused_with_the_alternative(tmp_path):
    trainer = quiet_trainer(tmp_path, LRSchedulerCallback(ONE_CYCLE))
    with pytest.raises(ValueError, match="LRRangeTestCallback finds an lr, in a fit of its own"):
        Tuner(trainer).lr_find(Net(), StatefulLoader(), num_training=3, update_attr=False)


@pytest.mark.parametrize(("rival", "name"), [SWA, FINDER])
@pytest.mark.parametrize("test_first", [True, False])
def test_the_range_test_sets_them_aside(tmp_path, rival, name, test_first):
    test = LRRangeTestCallback(max_lr=1.0, num_steps=30)
    callbacks = [rival(), test]
    module = fit(tmp_path, None, sgd, *(callbacks[::-1] if test_first else callbacks), max_steps=-1, max_epochs=1)
    used = [max(lr for lr, _ in values) for _, values in module.used]
    assert test.result.lrs
    assert used[: len(test.result.lrs)] == pytest.approx(test.result.lrs)
    assert {momentum for _, values in module.used for _, momentum in values} == {0.9}
    assert module.trainer.lr_scheduler_configs == []


# A second scheduler -------------------------------------------------------------------------------------------------


def with_second(second: Any, interval: str = "step") -> Any:
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": second(optimizer), "interval": interval}}

    return configure


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("second", [lambda o: StepLR(o, 3), lambda o: OneCycle(o, **ONE_CYCLE["params"])])
def test_a_schedulers_of_the_module_on_the_same_optimizer_is_refused(tmp_path, second, interval):
    refused(
        tmp_path,
        r"configure_optimizers already returns a scheduler \((StepLR|OneCycle)\) for optimizer 0; write"
        r" LRSchedulerCallback\(\.\.\., take_over=True\) to use this schedule",
        LRSchedulerCallback(ONE_CYCLE),
        configure=with_second(second, interval),
    )


class AddsAScheduler(Callback):
    """Attaches a scheduler when training starts."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        scheduler = StepLR(trainer.optimizers[0], 3)
        trainer.strategy.lr_scheduler_configs.append(LRSchedulerConfig(scheduler, interval="step"))


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_scheduler_that_another_callback_attaches_is_refused(tmp_path, ours_first):
    callbacks = [LRSchedulerCallback(ONE_CYCLE), AddsAScheduler()]
    match = r"a second scheduler \(StepLR\) has been attached to optimizer 0|already returns a scheduler \(StepLR\)"
    refused(tmp_path, match, *(callbacks if ours_first else callbacks[::-1]))


def test_two_schedules_of_ours_that_a_module_returns_for_one_optimizer_are_refused(tmp_path):
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        return [optimizer], [configure_optimizers(optimizer, c)["lr_scheduler"] for c in (ONE_CYCLE, WARMUP)]

    refused(tmp_path, "WarmupLR cannot follow this SGD: OneCycle follows it already", configure=configure)


def test_schedulers_of_different_optimizers_go_together(tmp_path):
    def configure(module: Any) -> Any:
        first, second = two_optimizers(module)
        return [first, second], [StepLR(second, 3)]

    callback = LRSchedulerCallback(ONE_CYCLE, optimizer_index=0)
    module = fit(tmp_path, None, configure, callback, module_class=ManualNet)
    assert [lr for index, values in module.used if index == 0 for lr, _ in values] == [
        callback.schedulers[0].lr_at(step)[0] for step in range(sum(index == 0 for index, _ in module.used))
    ]


# Stepped once an epoch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_that_lightning_steps_once_an_epoch_tells_it_in_the_first_steps(tmp_path, name):
    module = Net(with_second(lambda o: SCHEDULERS[name](o, **CONFIGS[name]["params"]), "epoch"))
    with pytest.warns(UserWarning, match=rf"{name} counts optimizer steps, but .* interval 'step', not 'epoch'"):
        quiet_trainer(tmp_path, max_steps=4).fit(module, StatefulLoader())


def of_the(number: int) -> Any:
    def configure(module: Any) -> Any:
        optimizers = two_optimizers(module)
        return list(optimizers), [OneCycle(optimizers[number], **ONE_CYCLE["params"])]

    return configure


def test_under_manual_optimization_a_schedule_that_nobody_steps_tells_it_beside_the_callback_before_the_first_step(
    tmp_path,
):
    with pytest.warns(UserWarning, match=r"OneCycle counts optimizer steps, but its step\(\) was not called"):
        fit(tmp_path, None, of_the(0), module_class=ManualNet)
    first = {"callback_options": {"optimizer_index": 0}, "module_class": ManualNet, "max_steps": 1}
    with pytest.warns(UserWarning, match="but the module has it stepped once an epoch"):
        fit(tmp_path, ONE_CYCLE, of_the(1), **first)


def test_interval_epoch_does_no_harm_to_a_schedule_that_follows_its_optimizer(tmp_path):
    def configure(module: Any) -> Any:
        configured = through_module(sgd, ONE_CYCLE)(module)
        configured["lr_scheduler"]["interval"] = "epoch"
        return configured

    by_epoch, by_step = fit(tmp_path, None, configure), fit(tmp_path, None, through_module(sgd, ONE_CYCLE))
    assert by_epoch.used == by_step.used
    assert len(by_epoch.used) > 2 * BATCHES


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_wired_by_hand_with_interval_step_runs_in_silence(tmp_path, accumulate):
    module = fit(
        tmp_path, None, with_second(lambda o: OneCycle(o, **ONE_CYCLE["params"])), accumulate_grad_batches=accumulate
    )
    schedule = module.trainer.lr_scheduler_configs[0].scheduler
    assert [[lr for lr, _ in values] for _, values in module.used] == [schedule.lr_at(step) for step in range(16)]


# A module that sets its lr itself -------------------------------------------------------------------------------------


class WarmsUp(Regression):
    """As Lightning's documentation writes a warmup."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1.0, (self.trainer.global_step + 1) / 50)


class SetsItBeforeTheBatch(Regression):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.trainer.optimizers[0].param_groups[0]["lr"] = 0.02


class SetsItInTheStep(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trainer.optimizers[0].param_groups[0]["lr"] = 0.02
        return super().training_step(batch, batch_idx)


class KeepsAScheduler(Regression):
    def on_train_start(self) -> None:
        self.kept = torch.optim.lr_scheduler.StepLR(self.trainer.optimizers[0], 3, 0.5)

    def on_train_batch_end(self, *_: Any) -> None:
        self.kept.step()


@pytest.mark.parametrize("module_class", [WarmsUp, SetsItBeforeTheBatch, SetsItInTheStep, KeepsAScheduler])
@pytest.mark.parametrize("scheduler", [None, {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}])
def test_a_module_that_sets_its_lr_itself_is_refused(make_trainer, module_class, scheduler):
    trainer = make_trainer(LRSchedulerCallback(scheduler), max_epochs=8)
    with pytest.raises(ValueError, match=r"something else has set the lr of param group 1 to .*, where .* had set"):
        trainer.fit(module_class(), data())


class SetsItBeforeTheEpoch(Regression):
    def on_train_epoch_start(self) -> None:
        self.trainer.optimizers[0].param_groups[0]["lr"] = 0.02


def test_an_lr_that_a_module_sets_before_each_epoch_is_said_once_to_be_overwritten(make_trainer, caplog):
    callback, module = (
        LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}),
        SetsItBeforeTheEpoch(),
    )
    with caplog.at_level("WARNING"):
        make_trainer(callback, max_epochs=3).fit(module, data())
    said = [line for line in caplog.messages if "something else has set the lr" in line]
    assert len(said) == 1
    assert "param group 1 to 0.02 before the epoch, and WarmupLR sets it to" in said[0]
    assert 0.02 not in [lr for lr, *_ in module.seen]
