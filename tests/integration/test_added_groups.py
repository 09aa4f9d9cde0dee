"""Param groups that are unfrozen during training; fitting again; validating, testing and predicting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.runs import (
    BATCHES,
    CONFIGS,
    ONE_CYCLE,
    Net,
    SaveAtBatches,
    StatefulLoader,
    ValidatedNet,
    adamw,
    fit,
    quiet_trainer,
    sgd,
    through_module,
)

STEPS = 16
UNFREEZE_AT = 2
"""[epochs]"""
TELLS = pytest.mark.filterwarnings("ignore:BackboneFinetuning. once unfrozen:UserWarning")


class Unfreezing(BaseFinetuning):
    """Trains the head alone at first."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == UNFREEZE_AT:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, initial_denom_lr=10.0)


def head_alone(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in module.head.parameters() if p.requires_grad], 0.03, momentum=0.9)


def backbone_finetuning() -> BackboneFinetuning:
    return BackboneFinetuning(UNFREEZE_AT, lambda epoch: 1.5, backbone_initial_ratio_lr=0.5, verbose=True)


@TELLS
@pytest.mark.parametrize("make", [Unfreezing, backbone_finetuning])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "WarmupCosineLR"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_an_unfrozen_group_has_the_schedules_values_from_its_first_step_on(tmp_path, name, make, ours_first):
    callbacks = [LRSchedulerCallback(CONFIGS[name]), make()]
    module = fit(tmp_path, None, head_alone, *(callbacks if ours_first else callbacks[::-1]))
    schedule = callbacks[0].schedulers[0]
    for step, (_, values) in enumerate(module.used):
        assert len(values) == (2 if step >= UNFREEZE_AT * BATCHES else 1)
        assert [lr for lr, _ in values] == schedule.lr_at(step)[: len(values)]
        assert schedule.momentum_at(step) is None or {m for _, m in values} == {schedule.momentum_at(step)[0]}
    assert len(module.used) == STEPS


def test_a_schedule_that_scales_the_groups_own_lr_scales_the_one_that_the_group_came_with(tmp_path):
    callback = LRSchedulerCallback(CONFIGS["WarmupCosineLR"])
    module = fit(tmp_path, None, head_alone, callback, Unfreezing())
    # Unfreezing gave the new group a tenth of the lr that the first one had at that moment.
    scale = module.used[UNFREEZE_AT * BATCHES][1][0][0] / 10
    [schedule] = callback.schedulers
    ratios = [lr / 0.03 for lr, *_ in (schedule.lr_at(step) for step in range(STEPS))]
    for step in range(UNFREEZE_AT * BATCHES, STEPS):
        assert module.used[step][1][1][0] == pytest.approx(scale * ratios[step])


def test_that_the_backbones_own_lr_settings_have_no_effect_is_told_at_the_start(tmp_path):
    with pytest.warns(UserWarning, match="once unfrozen, the backbone's lr is the schedule's"):
        fit(tmp_path, ONE_CYCLE, head_alone, backbone_finetuning(), max_steps=1)


@pytest.mark.parametrize("key", ["cycle_max_lr", "cycle_min_mom"])
def test_lists_that_have_no_value_for_the_new_group_are_an_error(tmp_path, key):
    listed = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], key: [0.8]}}
    with pytest.raises(ValueError, match=f"{key} lists 1 values, but the optimizer has 2 param groups"):
        fit(tmp_path, listed, head_alone, Unfreezing())


@TELLS
@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("stop", [8, 11, 14])
@pytest.mark.parametrize("make", [Unfreezing, backbone_finetuning])
@pytest.mark.parametrize("name", ["OneCycle", "WarmupCosineLR"])
def test_resuming_before_and_after_the_unfreezing_is_exact(tmp_path, name, make, stop, ours_first):
    def train(*more: Any, ckpt_path: Any = None) -> Net:
        callbacks = [LRSchedulerCallback(CONFIGS[name]), make()]
        return fit(
            tmp_path, None, head_alone, *(callbacks if ours_first else callbacks[::-1]), *more, ckpt_path=ckpt_path
        )

    whole = train(SaveAtBatches(tmp_path))
    resumed = train(ckpt_path=tmp_path / f"{stop}.ckpt")
    assert resumed.used == whole.used[stop:]
    # After the unfreezing, Lightning's own resuming leaves the backbone frozen, with and without a schedule.
    if stop < UNFREEZE_AT * BATCHES:
        assert all(map(torch.equal, resumed.weights(), whole.weights()))


# Several runs in one process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["callback", "configure_optimizers"])
def test_a_second_fit_of_the_same_trainer_begins_a_new_schedule(tmp_path, route):
    """Lightning makes new optimizers for it; its own counters go on."""
    callbacks = [LRSchedulerCallback(ONE_CYCLE)] if route == "callback" else []
    module = Net(adamw if callbacks else through_module(adamw, ONE_CYCLE))
    trainer = quiet_trainer(tmp_path, *callbacks, max_steps=-1, max_epochs=1)
    trainer.fit(module, StatefulLoader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, StatefulLoader())
    assert len(module.used) == 2 * BATCHES
    assert module.used[:BATCHES] == module.used[BATCHES:]
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [BATCHES]


def test_a_fit_after_the_range_test_is_the_same_as_without_it(tmp_path):
    def train(*, test_first: bool) -> Net:
        module, callbacks = Net(), [LRSchedulerCallback(ONE_CYCLE)]
        if test_first:
            test = LRRangeTestCallback(max_lr=1.0, num_steps=30)
            trainer = quiet_trainer(tmp_path, *callbacks, test, max_steps=-1, max_epochs=2)
            trainer.fit(module, StatefulLoader())
            assert len(module.used) > 10
            trainer.callbacks.remove(test)
            module.used.clear()
        else:
            trainer = quiet_trainer(tmp_path, *callbacks, max_steps=-1, max_epochs=2)
        trainer.fit(module, StatefulLoader())
        return module

    after, without = train(test_first=True), train(test_first=False)
    assert after.used == without.used
    assert all(map(torch.equal, after.weights(), without.weights()))


def test_during_the_range_test_a_schedule_of_the_module_moves_nothing(tmp_path):
    module = fit(
        tmp_path, None, through_module(sgd, ONE_CYCLE), LRRangeTestCallback(max_lr=1.0, num_steps=30), max_steps=-1,
        max_epochs=2,
    )  # fmt: skip
    # The module's OneCycle wrote its first momentum when it was made; then it stood still.
    assert {momentum for _, values in module.used for _, momentum in values} == {0.9}


@pytest.mark.parametrize("make", [
    lambda: LRSchedulerCallback(ONE_CYCLE), lambda: LRRangeTestCallback(max_lr=1.0, num_steps=30)],
    ids=["schedule", "range test"])  # fmt: skip
@pytest.mark.parametrize("what", ["validate", "test", "predict"])
def test_validate_test_and_predict_are_as_without_the_callback(tmp_path, what, make):
    def run(*callbacks: Any) -> Any:
        module = ValidatedNet()
        options = {} if what == "predict" else {"verbose": False}
        result = getattr(quiet_trainer(tmp_path, *callbacks), what)(module, StatefulLoader(), **options)
        return result, module.weights(), torch.get_rng_state(), module.training

    torch.manual_seed(5)
    result, weights, random_state, training = run()
    torch.manual_seed(5)
    callback = make()
    result_with, weights_with, random_state_with, training_with = run(callback)
    torch.testing.assert_close(result_with, result, rtol=0, atol=0)
    assert all(map(torch.equal, weights_with, weights))
    assert torch.equal(random_state_with, random_state)
    assert training_with == training
    assert getattr(callback, "schedulers", []) == []


@pytest.mark.parametrize("what", ["validate", "test", "predict"])
def test_between_two_fits_they_do_not_touch_the_schedule(tmp_path, what):
    callback = LRSchedulerCallback(ONE_CYCLE)
    module = ValidatedNet(adamw)
    loader = StatefulLoader()
    trainer = quiet_trainer(tmp_path, callback, max_steps=3, limit_val_batches=0)
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    [schedule] = callback.schedulers
    before = (schedule.last_epoch, schedule.get_last_lr())
    trainer.limit_val_batches = 1.0
    getattr(trainer, what)(module, StatefulLoader(), ckpt_path=tmp_path / "x.ckpt")
    assert (schedule.last_epoch, schedule.get_last_lr()) == before
    own = SchedulerConfig.of(ONE_CYCLE).build(adamw(module))
    assert schedule.lr_at(3) == own.lr_at(3)
