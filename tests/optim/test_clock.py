"""A following schedule advances when its optimizer really stepped, and only then."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.optim import LBFGS, AdamW, Optimizer

from lightning_lrsched.optim.schedulers import OneCycle
from tests.kit.schedules import NAMES, adamw, lrs, sgd, small, train_step

every_schedule = pytest.mark.parametrize("name", NAMES)


@every_schedule
def test_it_advances_with_the_optimizer_however_often_it_is_told(name: str) -> None:
    optimizer = sgd()
    schedule = small(name, optimizer)
    schedule.follow_optimizer()
    schedule.follow_optimizer()
    for step in range(12):
        assert (schedule.last_epoch, lrs(optimizer)) == (step, schedule.lr_at(step))
        train_step(optimizer)
        schedule.step()


def test_unfollowing_gives_the_stepping_back() -> None:
    optimizer = sgd()
    schedule = small("OneCycle", optimizer)
    schedule.unfollow_optimizer()
    schedule.follow_optimizer()
    train_step(optimizer)
    schedule.unfollow_optimizer()
    schedule.unfollow_optimizer()
    assert not optimizer._optimizer_step_post_hooks
    train_step(optimizer)
    assert schedule.last_epoch == 1
    schedule.step()
    assert schedule.last_epoch == 2


@every_schedule
def test_steps_that_nobody_tells_the_schedule_of_are_warned_about_once(name: str) -> None:
    optimizer = sgd()
    schedule = small(name, optimizer)
    optimizer.register_step_post_hook(lambda *_: None)  # beside hooks of others
    train_step(optimizer)
    train_step(optimizer)
    with pytest.warns(UserWarning, match=rf"^{name} counts optimizer steps, but its step\(\) was not called"):
        train_step(optimizer)
    train_step(optimizer)  # in silence: a warning would be an error
    assert schedule.last_epoch == 0


def test_a_schedule_that_was_thrown_away_is_not_watched() -> None:
    optimizer = sgd()
    small("OneCycle", optimizer)
    for _ in range(3):
        train_step(optimizer)  # a warning would be an error
    schedule = small("OneCycle", optimizer)
    schedule.unfollow_optimizer()
    assert optimizer._optimizer_step_post_hooks == {}


def test_a_second_schedule_cannot_follow_the_same_optimizer() -> None:
    optimizer = sgd()
    first, second = small("OneCycle", optimizer), small("WarmupLR", optimizer)
    first.follow_optimizer()
    with pytest.raises(ValueError, match="OneCycle follows it already, and both would set its lr"):
        second.follow_optimizer()
    first.unfollow_optimizer()
    second.follow_optimizer()
    train_step(optimizer)
    assert (first.last_epoch, second.last_epoch) == (0, 1)


def test_accumulated_batches_do_not_count() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = AdamW([weight], lr=0.1)
    schedule = small("OneCycle", optimizer)
    schedule.follow_optimizer()
    for batch_idx in range(12):
        (weight * 2).sum().backward()
        if (batch_idx + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert schedule.last_epoch == 3


def test_each_schedule_follows_its_own_optimizer() -> None:
    generator, discriminator = sgd(), adamw()
    schedules = [small("OneCycle", generator), small("WarmupLR", discriminator)]
    for schedule in schedules:
        schedule.follow_optimizer()
    for step in range(6):
        train_step(discriminator)
        if step % 3 == 0:
            train_step(generator)
    assert [schedule.last_epoch for schedule in schedules] == [2, 6]


def test_a_step_with_a_closure_counts_once() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = LBFGS([weight], lr=0.1, max_iter=5)
    schedule = small("WarmupLR", optimizer)
    schedule.follow_optimizer()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert schedule.last_epoch == 1


@pytest.mark.parametrize("inherits_again", [False, True])
@pytest.mark.parametrize("others", ["before", "after", "none"])
def test_a_step_that_calls_the_step_it_overrides_counts_once(others: str, inherits_again: bool) -> None:
    class Base(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    class Own(Base):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.clamp_(-1.0, 1.0)
            return loss

    cls = type("Again", (Own,), {}) if inherits_again else Own
    if others == "before":  # only then does torch have the inherited step call the hooks, too
        Base([torch.ones(1, requires_grad=True)], lr=0.1)
    optimizer = cls([torch.ones(1, requires_grad=True)], lr=0.1, momentum=0.9)
    schedule = small("OneCycle", optimizer)
    schedule.follow_optimizer()
    if others == "after":
        Base([torch.ones(1, requires_grad=True)], lr=0.1)
    for step in range(4):
        assert (schedule.last_epoch, lrs(optimizer)) == (step, schedule.lr_at(step))
        train_step(optimizer)


def scaled_step(scaler: torch.amp.GradScaler, optimizer: Optimizer, weight: torch.Tensor, overflow: bool) -> None:
    optimizer.zero_grad()
    scaler.scale((weight * (float("inf") if overflow else 1.0)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_that_a_gradient_scaler_skips_do_not_count(fused: bool) -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = AdamW([weight], lr=0.1, fused=fused)
    schedule = OneCycle(optimizer, 0.1, 1.0, cycle_first_step_size=4)
    schedule.follow_optimizer()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    taken = 0
    for overflow in (False, True, True, False, True, False):
        before = weight.item()
        scaled_step(scaler, optimizer, weight, overflow)
        taken += not overflow
        assert (weight.item() != before) is not overflow
        assert (schedule.last_epoch, lrs(optimizer)) == (taken, schedule.lr_at(taken))


def test_an_optimizer_step_that_raises_does_not_count() -> None:
    optimizer = sgd()
    schedule = small("OneCycle", optimizer)
    schedule.follow_optimizer()

    def closure() -> Any:
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        optimizer.step(closure)
    assert schedule.last_epoch == 0


@every_schedule
def test_building_a_schedule_leaves_the_optimizers_step_alone(name: str) -> None:
    optimizer = sgd()
    step = optimizer.step
    small(name, optimizer)
    assert optimizer.step == step
    assert "step" not in vars(optimizer)


def test_a_notebook_cell_that_is_run_twice_steps() -> None:
    # Whose hook ended must not remove itself while torch iterates over the hooks.
    optimizer = sgd()
    schedule = small("WarmupLR", optimizer)
    schedule = small("WarmupLR", optimizer, warmup_max_lr=0.5)
    optimizer.register_step_post_hook(lambda *_: None)
    for _ in range(3):
        train_step(optimizer)
        schedule.step()
    assert schedule.last_epoch == 3


def test_a_state_loaded_without_the_schedules_is_a_warning_beside_other_hooks() -> None:
    trained = adamw()
    train_step(trained)
    optimizer = adamw()
    schedule = small("WarmupLR", optimizer)
    schedule.follow_optimizer()
    optimizer.register_step_post_hook(lambda *_: None)
    optimizer.load_state_dict(trained.state_dict())
    with pytest.warns(UserWarning, match="the state of AdamW was loaded, but none for WarmupLR"):
        train_step(optimizer)
    train_step(optimizer)
    assert schedule.last_epoch == 2


def test_step_may_be_called_from_a_hook_of_the_optimizer() -> None:
    optimizer = sgd()
    schedule = small("OneCycle", optimizer)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    optimizer.register_step_post_hook(lambda *_: None)
    for _ in range(3):
        train_step(optimizer)
    assert schedule.last_epoch == 3


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("follow", [False, True])
def test_optimizer_and_schedule_are_freed_without_the_garbage_collector(follow: bool, tensors: bool) -> None:
    optimizer = adamw(torch.tensor(0.1), foreach=False) if tensors else adamw()
    schedule = small("WarmupLR", optimizer)
    if follow:
        schedule.follow_optimizer()
    gone = [weakref.ref(optimizer), weakref.ref(optimizer.param_groups[0]["params"][0])]
    gc.disable()
    try:
        del optimizer, schedule
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_a_schedule_that_is_dropped_while_it_follows_is_reported_once() -> None:
    optimizer = sgd()
    small("OneCycle", optimizer).follow_optimizer()
    with pytest.warns(UserWarning, match="OneCycle followed this SGD and no longer exists.* keep a reference"):
        train_step(optimizer)
    train_step(optimizer)
    small("WarmupLR", optimizer).follow_optimizer()  # the optimizer is free


def test_step_before_the_optimizer_has_stepped_is_reported() -> None:
    optimizer = sgd()
    schedule = small("OneCycle", optimizer)
    schedule.step()
    with pytest.warns(UserWarning, match=r"the step\(\) of OneCycle was called before the first optimizer.step\(\)"):
        train_step(optimizer)
    schedule.step()
    train_step(optimizer)


def test_a_position_that_was_set_before_the_first_step_is_no_mistake() -> None:
    optimizer = sgd()
    schedule = small("OneCycle", optimizer)
    schedule.load_state_dict({"last_epoch": 3})
    train_step(optimizer)
    schedule.step()
    train_step(optimizer)
    assert schedule.last_epoch == 4


def in_deepspeed(source: str) -> Any:
    """Return a function of a module that has the name of one of DeepSpeed's."""
    module = {"__name__": "deepspeed.runtime.zero.stage3"}
    exec(source, module)  # the name of the module is what counts
    return module["call"]


STEP = "def step(optimizer):\n    optimizer.step()\ncall = step"
FORWARD = "def forward(optimizer):\n    optimizer.step()\ncall = forward"


def test_following_an_optimizer_that_an_engine_steps_is_refused_at_the_first_step() -> None:
    schedule = small("WarmupLR", sgd())
    schedule.follow_optimizer()
    with pytest.raises(ValueError, match=r"pass the schedule to the engine.* deepspeed\.initialize"):
        in_deepspeed(STEP)(schedule.optimizer)
    assert schedule.last_epoch == 0


def test_an_optimizer_that_a_module_steps_in_its_forward_is_not_the_engines() -> None:
    schedule = small("WarmupLR", sgd())
    schedule.follow_optimizer()
    in_deepspeed(FORWARD)(schedule.optimizer)
    assert schedule.last_epoch == 1


def test_an_engine_may_step_the_optimizer_once_for_each_shard_without_a_warning() -> None:
    schedule = small("WarmupLR", sgd())
    for _ in range(3):
        in_deepspeed(STEP)(schedule.optimizer)
    assert schedule.last_epoch == 0
