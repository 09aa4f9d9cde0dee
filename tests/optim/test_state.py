"""Saving and resuming: the position alone is restored, and its values are written at once."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.schedulers import OneCycle, WarmupCosineLR, WarmupLR
from tests.kit.schedules import NAMES, adamw, lrs, momenta, parameter, small, train_step

every_schedule = pytest.mark.parametrize("name", NAMES)


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (int, float, str, bool)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def stepped(schedule: ScheduledLR, steps: int) -> ScheduledLR:
    for _ in range(steps):
        schedule.step()
    return schedule


@every_schedule
def test_the_state_is_plain_and_survives_a_weights_only_load(name: str) -> None:
    state = stepped(small(name, adamw(torch.tensor(0.1), 0.3)), 3).state_dict()
    assert is_plain(state)
    assert state["last_epoch"] == 3
    assert saved_and_loaded(state) == state


def test_lists_are_plain_in_the_state_too() -> None:
    state = OneCycle(adamw(0.1, 0.1), (0.0, 0.1), [1, 2], cycle_first_step_size=2.0).state_dict()
    assert is_plain(state)
    assert state["hyperparameters"]["cycle_max_lr"] == [1.0, 2.0]


@every_schedule
@pytest.mark.parametrize("steps", [0, 1, 5, 11])
def test_loading_writes_lr_and_momentum_at_once(name: str, steps: int) -> None:
    state = saved_and_loaded(stepped(small(name, adamw(0.1, 0.3)), steps).state_dict())
    optimizer = adamw(0.1, 0.3)
    schedule = stepped(small(name, optimizer), 2)
    schedule.load_state_dict(state)
    assert schedule.last_epoch == steps
    assert schedule.get_last_lr() == lrs(optimizer) == schedule.lr_at(steps)
    assert schedule.momentum_at(steps) in (None, momenta(optimizer))


@every_schedule
def test_a_resumed_run_goes_on_as_the_whole_run_did(name: str) -> None:
    optimizer = adamw(0.1)
    schedule = stepped(small(name, optimizer), 3)
    states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    for load_optimizer_first in (True, False):
        new_optimizer = adamw(0.7)
        new_optimizer.param_groups[0]["lr"] = 0.1
        new = small(name, new_optimizer)
        for part in (0, 1) if load_optimizer_first else (1, 0):
            (new_optimizer, new)[part].load_state_dict(states[part])
        for step in range(3, 15):
            assert lrs(new_optimizer) == schedule.lr_at(step)
            new.step()


@every_schedule
def test_deepspeeds_own_state_is_understood(name: str) -> None:
    optimizer = adamw()
    schedule = small(name, optimizer)
    schedule.load_state_dict({"last_batch_iteration": 4})
    assert (schedule.last_epoch, schedule.last_batch_iteration) == (5, 4)
    assert lrs(optimizer) == schedule.lr_at(5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"OneCycle: no 'last_epoch' in the saved state, got keys \[\]"),
        ({"epoch": 1}, r"OneCycle: no 'last_epoch' in the saved state, got keys \['epoch'\]"),
        ({"last_epoch": -2}, "last_epoch must be a whole number, at least -1"),
        ({"last_epoch": 1.5}, "last_epoch must be a whole number, at least -1"),
        ({"last_batch_iteration": -7}, "last_batch_iteration must be a whole number, at least -1"),
    ],
)
def test_a_state_without_a_position_is_an_error(state: dict[str, Any], message: str) -> None:
    schedule = stepped(small("OneCycle", adamw()), 2)
    with pytest.raises(ValueError, match=f"^{message}"):
        schedule.load_state_dict(state)
    assert (schedule.last_epoch, lrs(schedule.optimizer)) == (2, schedule.lr_at(2))


def test_other_hyperparameters_than_were_saved_are_named_once_and_those_in_force_win() -> None:
    state = stepped(small("OneCycle", adamw()), 2).state_dict()
    optimizer = adamw()
    schedule = small("OneCycle", optimizer, cycle_max_lr=5.0, decay_lr_rate=0.5)
    with pytest.warns(UserWarning, match=r"OneCycle resumes at step 2 with hyperparameters that differ") as caught:
        schedule.load_state_dict(state)
    assert [warning.filename for warning in caught] == [__file__]
    assert "cycle_max_lr: 1.0 -> 5.0; decay_lr_rate: 1.0 -> 0.5" in str(caught[0].message)
    assert "cycle_min_lr" not in str(caught[0].message)
    assert schedule.hyperparameters["cycle_max_lr"] == 5.0
    assert lrs(optimizer) == schedule.lr_at(2) == [pytest.approx(0.1 + 4.9 / 2)]


@every_schedule
@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_after_the_optimizers_state_is_loaded_the_new_groups_are_written(
    name: str, following: bool, tensor: bool
) -> None:
    optimizer = adamw(torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    schedule = small(name, optimizer)
    if following:
        schedule.follow_optimizer()
    old_groups = optimizer.param_groups
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is not old_groups
    for step in range(1, 4):
        train_step(optimizer)
        schedule.step()
        assert lrs(optimizer) == schedule.lr_at(step)
        assert schedule.momentum_at(step) in (None, momenta(optimizer))


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupCosineLR"])
def test_the_own_lr_is_the_optimizers_now_not_the_checkpoints(name: str) -> None:
    def build(lr: float) -> ScheduledLR:
        return small(name, adamw(lr), **({"warmup_min_lr": 0.0, "warmup_max_lr": None} if name == "WarmupLR" else {}))

    old = stepped(build(0.1), 3)
    new = build(0.4)
    new.optimizer.load_state_dict(copy.deepcopy(old.optimizer.state_dict()))
    with pytest.warns(UserWarning, match=r"the optimizer's lr: \[0.1\] -> \[0.4\]"):
        new.load_state_dict(old.state_dict())
    assert lrs(new.optimizer) == pytest.approx([4 * lr for lr in old.lr_at(3)], rel=1e-14)


def test_a_following_schedule_follows_on_after_loading() -> None:
    optimizer = adamw()
    schedule = small("OneCycle", optimizer)
    schedule.follow_optimizer()
    train_step(optimizer)
    state = schedule.state_dict()
    train_step(optimizer)
    schedule.load_state_dict(state)
    train_step(optimizer)
    assert (schedule.last_epoch, lrs(optimizer)) == (2, schedule.lr_at(2))


def test_a_group_that_was_added_before_saving_is_scheduled_after_loading() -> None:
    def build() -> tuple[Any, ScheduledLR]:
        optimizer = adamw(0.1)
        schedule = small("WarmupCosineLR", optimizer)
        optimizer.add_param_group({"params": [parameter()], "lr": 0.3})
        return optimizer, schedule

    optimizer, schedule = build()
    stepped(schedule, 3)
    new_optimizer, new = build()
    new_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    new.load_state_dict(schedule.state_dict())
    assert lrs(new_optimizer) == lrs(optimizer) == schedule.lr_at(3)


class Peak(WarmupLR):
    """A subclass with a constructor of its own."""

    def __init__(self, optimizer: Any, peak: float) -> None:
        super().__init__(optimizer, warmup_max_lr=peak, warmup_num_steps=4)


def test_a_subclass_with_its_own_constructor_is_saved_and_restored() -> None:
    schedule = Peak(adamw(), 0.5)
    for _ in range(3):
        train_step(schedule.optimizer)
        schedule.step()
    state = schedule.state_dict()
    assert state["hyperparameters"]["warmup_max_lr"] == 0.5
    other = Peak(adamw(), 0.5)
    other.load_state_dict(state)
    assert lrs(other.optimizer) == lrs(schedule.optimizer)


def test_the_lr_that_a_schedule_has_changed_is_not_taken_for_the_optimizers_own() -> None:
    trained = adamw(0.5)
    WarmupCosineLR(trained, 10, warmup_num_steps=2, last_batch_iteration=4)
    train_step(trained)
    state = trained.state_dict()
    for group in state["param_groups"]:
        del group["initial_lr"]  # as DeepSpeed's schedulers leave it
    optimizer = adamw(0.5)
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"Set group\['initial_lr'\] to the lr that the optimizer was made with"):
        WarmupCosineLR(optimizer, 10, warmup_num_steps=2, last_batch_iteration=5)
    optimizer.param_groups[0]["initial_lr"] = 0.5
    assert WarmupCosineLR(optimizer, 10, warmup_num_steps=2, last_batch_iteration=5).base_lrs == [0.5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_changed_configuration_applies_at_once_to_a_tensor_lr_of_low_precision(dtype: torch.dtype) -> None:
    def optimizer() -> torch.optim.AdamW:
        return adamw(torch.tensor(0.1, dtype=dtype), capturable=False, foreach=False)

    state = WarmupLR(optimizer(), warmup_max_lr=0.1, warmup_num_steps=0).state_dict()
    assert state["in_charge"]
    resumed = WarmupLR(optimizer(), warmup_max_lr=0.4, warmup_num_steps=0)
    with pytest.warns(UserWarning, match="hyperparameters that differ"):
        resumed.load_state_dict({**state, "last_epoch": 7})
    assert lrs(resumed.optimizer) == pytest.approx([0.4], rel=1e-2)


@pytest.mark.slow  # needs DeepSpeed
def test_deepspeed_loads_the_state(deepspeed: Any) -> None:
    schedule = small("WarmupLR", adamw())
    for _ in range(3):
        train_step(schedule.optimizer)
        schedule.step()
    theirs = deepspeed.WarmupLR(adamw(), 0.1, 1.0, 6)
    theirs.load_state_dict(schedule.state_dict())
    theirs.step()
    schedule.step()
    assert theirs.get_last_lr() == pytest.approx(schedule.get_last_lr(), rel=1e-12)
