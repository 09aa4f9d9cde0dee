"""Param groups that come and go during training; fitting again; validating, testing and predicting."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, Callback

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


class Unfreezing(BaseFinetuning):
    """Trains the head alone at first; then the backbone too, at a tenth of its lr."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == UNFREEZE_AT:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, initial_denom_lr=10.0)


def head_alone(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in module.head.parameters() if p.requires_grad], 0.03, momentum=0.9)


def backbone_finetuning() -> BackboneFinetuning:
    """The backbone begins at half of the head's lr, and has all of it from the next epoch on."""
    return BackboneFinetuning(UNFREEZE_AT, lambda epoch: 99.0, backbone_initial_ratio_lr=0.5, should_align=True)


def lrs(module: Any) -> list[list[float]]:
    return [[lr for lr, _ in values] for _, values in module.used]


# The ratio that whoever adds a group gives it -------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "ratios"), [(Unfreezing, [0.1, 0.1]), (backbone_finetuning, [0.5, 1.0])])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_an_unfrozen_group_keeps_the_ratio_of_its_lr_that_the_callback_gives(tmp_path, name, make, ratios, ours_first):
    callbacks = [LRSchedulerCallback(CONFIGS[name]), make()]
    module = fit(tmp_path, None, head_alone, *(callbacks if ours_first else callbacks[::-1]))
    alone = SchedulerConfig.of(CONFIGS[name]).build(torch.optim.SGD([torch.zeros(1)], 0.03, momentum=0.9))
    for step, values in enumerate(lrs(module)):
        [lr] = alone.lr_at(step)
        epoch = step // BATCHES - UNFREEZE_AT
        assert values == pytest.approx([lr] if epoch < 0 else [lr, lr * ratios[min(epoch, 1)]], rel=1e-9)
    for step, (_, values) in enumerate(module.used):
        assert alone.momentum_at(step) is None or {m for _, m in values} == set(alone.momentum_at(step))
    assert len(module.used) == STEPS


class ByHand(Net):
    """Adds and removes param groups itself, in the middle of an epoch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer, step = self.optimizers().optimizer, self.global_step
        if step == 3:
            lr = optimizer.param_groups[0]["lr"] / 4
            optimizer.add_param_group({"params": list(self.backbone.parameters()), "lr": lr})
        if step == 7:
            optimizer.param_groups[:] = optimizer.param_groups[:1]
        if step == 10:
            optimizer.add_param_group({"params": list(self.backbone.parameters())})  # at the optimizer's own lr
        if step == 12:
            optimizer.param_groups[:] = optimizer.param_groups[:1]
            optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.06})


@pytest.mark.parametrize("name", ["OneCycle", "WarmupCosineLR"])
def test_groups_that_go_and_groups_that_come_in_their_place_inherit_nothing(tmp_path, caplog, name):
    with caplog.at_level(logging.INFO):
        module = fit(tmp_path, CONFIGS[name], head_alone, module_class=ByHand)
    alone = SchedulerConfig.of(CONFIGS[name]).build(torch.optim.SGD([torch.zeros(1)], 0.03, momentum=0.9))
    found, at = lrs(module), [alone.lr_at(step)[0] for step in range(STEPS)]
    last = 0.06 / at[12]
    ratios = [*[()] * 3, *[(0.25,)] * 4, *[()] * 3, (1.0,), (1.0,), *[(last,)] * 4]
    expected = [[lr, *(lr * ratio for ratio in more)] for lr, more in zip(at, ratios, strict=True)]
    assert [len(values) for values in found] == [len(values) for values in expected]
    assert all(now == pytest.approx(then, rel=1e-9) for now, then in zip(found, expected, strict=True))
    lines = [message for message in caplog.messages if "param groups were added" in message]
    assert len(lines) == 4
    assert "optimizer 0: 1 param groups were added and 0 removed; those added keep the ratio" in lines[0]
    assert lines[0].endswith("to that of the first: 0.25")
    assert lines[1].endswith("0 param groups were added and 1 removed")


def added(caplog, tmp_path, callback, **options) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(tmp_path, None, head_alone, callback, Unfreezing(), **options)
    [line] = [message for message in caplog.messages if "param groups were added" in message]
    return line.partition("to that of the first: ")[2]


def test_what_the_range_test_or_the_probe_has_not_seen_is_said(tmp_path, caplog):
    test = LRRangeTestCallback(num_steps=40, max_lr=1.0)
    told = added(caplog, tmp_path, LRSchedulerCallback(range_test=test))
    assert told == "0.1; the range test did not train them"
    assert added(caplog, tmp_path, LRSchedulerCallback(), max_steps=14) == "0.1"  # so short that the prior is taken
    assert added(caplog, tmp_path, LRSchedulerCallback(), max_steps=48) == "0.1; the probe did not train them"


class UnfreezingOne(Unfreezing):
    """Gives up the first group an epoch after the backbone has come."""

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        super().finetune_function(pl_module, epoch, optimizer)
        if epoch == UNFREEZE_AT + 1:
            del optimizer.param_groups[0]


def unequal(module: Any) -> torch.optim.Optimizer:
    groups = [{"params": [p], "lr": lr} for p, lr in zip(module.head.parameters(), (0.01, 0.02), strict=True)]
    return torch.optim.SGD(groups, 0.01)


@pytest.mark.parametrize("test", [None, LRRangeTestCallback(num_steps=40, max_lr=1.0)], ids=["probe", "range test"])
def test_lrs_that_a_test_has_found_for_each_group_follow_the_groups(tmp_path, test):
    module = fit(tmp_path, None, unequal, LRSchedulerCallback(range_test=test), UnfreezingOne())
    found = lrs(module)[-STEPS:]
    for step, values in enumerate(found):
        epoch = step // BATCHES - UNFREEZE_AT
        ratios = [1, 2] if epoch < 0 else [1, 2, 0.1] if epoch < 1 else [2, 0.1]
        assert [value / values[0] for value in values] == pytest.approx([ratio / ratios[0] for ratio in ratios])
    assert len({values[0] for values in found}) > STEPS / 2


@pytest.mark.parametrize("key", ["cycle_max_lr", "cycle_min_mom"])
def test_lists_that_have_no_value_for_the_new_group_are_an_error(tmp_path, key):
    listed = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], key: [0.8]}}
    with pytest.raises(ValueError, match=f"{key} lists 1 values, but the optimizer has 2 param groups"):
        fit(tmp_path, listed, head_alone, Unfreezing())


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
    assert all(a == pytest.approx(b, rel=1e-9) for a, b in zip(lrs(resumed), lrs(whole)[stop:], strict=True))
    # After the unfreezing, Lightning's own resuming leaves the backbone frozen, with and without a schedule.
    if stop < UNFREEZE_AT * BATCHES:
        assert all(map(torch.equal, resumed.weights(), whole.weights()))


class Restoring(Callback):
    """Puts the optimizer of an earlier step back, with fewer groups, as finetuning-scheduler does between phases."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        if trainer.current_epoch == 0:
            self.saved = optimizer.state_dict()
        if trainer.current_epoch == UNFREEZE_AT + 1:
            del optimizer.param_groups[1:]
            optimizer.load_state_dict(self.saved)


def test_a_state_with_fewer_groups_may_be_loaded(tmp_path):
    module = fit(tmp_path, ONE_CYCLE, head_alone, Unfreezing(), Restoring(), max_steps=18)
    assert [len(values) for values in lrs(module)] == [1] * 10 + [2] * 5 + [1] * 3
    alone = SchedulerConfig.of(ONE_CYCLE).build(torch.optim.SGD([torch.zeros(1)], 0.03, momentum=0.9))
    assert [values[0] for values in lrs(module)] == [alone.lr_at(step)[0] for step in range(18)]


# Several runs in one process ------------------------------------------------------------------------------------------


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


def test_during_the_range_test_a_schedule_of_the_module_moves_nothing(tmp_path):
    test = LRRangeTestCallback(max_lr=1.0, num_steps=30)
    module = fit(tmp_path, None, through_module(sgd, ONE_CYCLE), test, max_steps=-1, max_epochs=2)
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
        torch.manual_seed(5)
        result = getattr(quiet_trainer(tmp_path, *callbacks), what)(module, StatefulLoader(), **options)
        return result, module.weights(), torch.get_rng_state(), module.training

    callback = make()
    torch.testing.assert_close(run(callback), run(), rtol=0, atol=0)
    assert getattr(callback, "schedulers", []) == []


@pytest.mark.parametrize("what", ["validate", "test", "predict"])
def test_between_two_fits_they_do_not_touch_the_schedule(tmp_path, what):
    callback, loader = LRSchedulerCallback(ONE_CYCLE), StatefulLoader()
    module, trainer = ValidatedNet(adamw), quiet_trainer(tmp_path, callback, max_steps=3, limit_val_batches=0)
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    [schedule] = callback.schedulers
    before = (schedule.last_epoch, schedule.get_last_lr())
    trainer.limit_val_batches = 1.0
    getattr(trainer, what)(module, StatefulLoader(), ckpt_path=tmp_path / "x.ckpt")
    assert (schedule.last_epoch, schedule.get_last_lr()) == before
