"""What all five schedules do alike: position, values, later param groups, copies."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import Any

import pytest
import torch
from torch.optim import AdamW, Optimizer

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.scheduled_lr import _flat as flatten
from lightning_lrsched.optim.schedulers import SCHEDULERS, VALID_LR_SCHEDULES, OneCycle, WarmupCosineLR, WarmupLR
from tests.kit.schedules import NAMES, SMALL, adamw, lrs, momenta, parameter, sgd, small, train_step

every_schedule = pytest.mark.parametrize("name", NAMES)


def test_the_names_are_deepspeeds() -> None:
    assert VALID_LR_SCHEDULES[:5] == ["LRRangeTest", "OneCycle", "WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]
    assert [cls.__name__ for cls in SCHEDULERS.values()] == VALID_LR_SCHEDULES


@every_schedule
def test_stepping_gives_lr_at_and_momentum_at_at_every_step(name: str) -> None:
    optimizer = adamw(0.1, 0.3)
    schedule = small(name, optimizer)
    for step in range(20):
        assert schedule.last_epoch == step
        assert schedule.last_batch_iteration == step - 1
        assert schedule.get_last_lr() == lrs(optimizer) == schedule.lr_at(step) == schedule.get_lr()
        assert schedule.momentum_at(step) in (None, momenta(optimizer))
        schedule.step()


@every_schedule
def test_lr_at_and_momentum_at_have_no_side_effects(name: str) -> None:
    optimizer = adamw()
    schedule = small(name, optimizer)
    schedule.step()
    before = (schedule.state_dict(), copy.deepcopy(optimizer.param_groups))
    first = [(schedule.lr_at(step), schedule.momentum_at(step)) for step in range(30)]
    again = [(schedule.lr_at(step), schedule.momentum_at(step)) for step in reversed(range(30))]
    assert first == again[::-1]
    assert (schedule.state_dict(), optimizer.param_groups) == before


@every_schedule
@pytest.mark.parametrize("step", [-1, 0.5, True, "1", None])
def test_lr_at_takes_whole_numbers_from_0_on(name: str, step: Any) -> None:
    schedule = small(name, sgd())
    with pytest.raises((TypeError, ValueError), match=r"^step must be a whole number, at least 0"):
        schedule.lr_at(step)


@every_schedule
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_get_last_lr_does_not_alias_the_optimizers_values(name: str, kind: Any) -> None:
    optimizer = adamw(kind(0.1))
    schedule = small(name, optimizer)
    schedule.step()
    before = lrs(optimizer)
    last_lr = schedule.get_last_lr()
    last_lr[0] *= 0.0
    last_lr.clear()
    assert lrs(optimizer) == before


@every_schedule
def test_step_with_a_number_goes_there(name: str) -> None:
    optimizer = sgd()
    schedule = small(name, optimizer)
    schedule.step(5)
    assert (schedule.last_epoch, lrs(optimizer)) == (5, schedule.lr_at(5))


@every_schedule
def test_lists_and_tuples_of_equal_numbers_are_the_same_as_one_number(name: str) -> None:
    listable = [key for key in SMALL[name] if key.endswith(("_min_lr", "_max_lr", "_mom"))]
    schedules = [
        small(name, adamw(0.1, 0.1), **{key: make(SMALL[name][key]) for key in listable})
        for make in (lambda v: v, lambda v: [v, v], lambda v: (v, v))
    ]
    for step in range(20):
        assert schedules[0].lr_at(step) == schedules[1].lr_at(step) == schedules[2].lr_at(step)


@every_schedule
def test_counts_may_be_whole_floats_as_json_writers_spell_them(name: str) -> None:
    counts = {k: float(v) for k, v in SMALL[name].items() if k.endswith(("_size", "_steps"))}
    assert small(name, sgd(), **counts).hyperparameters == small(name, sgd()).hyperparameters


@every_schedule
def test_the_parameters_are_the_constructors_and_the_hyperparameters_their_values(name: str) -> None:
    schedule = small(name, sgd())
    assert list(schedule.hyperparameters) == list(SCHEDULERS[name].kind.fields)
    assert flatten(SMALL[name]).items() <= flatten(schedule.hyperparameters).items()
    assert SCHEDULERS[name](sgd(), **schedule.hyperparameters).hyperparameters == schedule.hyperparameters


class Wrapper:
    """What Lightning and DeepSpeed hand out: not an Optimizer, but with one inside."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        self.optimizer.step()


@every_schedule
def test_a_wrapped_optimizer_is_unwrapped(name: str) -> None:
    inner = sgd()
    schedule = small(name, Wrapper(inner))
    assert schedule.optimizer is inner
    schedule.follow_optimizer()
    train_step(Wrapper(inner))
    assert schedule.last_epoch == 1


@every_schedule
@pytest.mark.parametrize("thing", [None, 1, "AdamW", object(), AdamW, [parameter()]])
def test_what_is_no_optimizer_is_a_type_error(name: str, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^optimizer must be a torch.optim.Optimizer, got \w+"):
        small(name, thing)


# Param groups that come later ----------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("following", [False, True])
def test_a_param_group_added_later_is_scheduled(name: str, following: bool) -> None:
    optimizer = adamw(0.1)
    schedule = small(name, optimizer)
    if following:
        schedule.follow_optimizer()
    optimizer.add_param_group({"params": [parameter()], "lr": 0.3})
    train_step(optimizer)
    schedule.step()
    assert lrs(optimizer) == schedule.lr_at(1) == small(name, adamw(0.1, 0.3)).lr_at(1)


def test_the_momentum_of_a_param_group_added_later_is_scheduled() -> None:
    optimizer = adamw(0.1)
    schedule = OneCycle(optimizer, 0.0, 1.0, cycle_first_step_size=2, cycle_min_mom=0.5)
    optimizer.add_param_group({"params": [parameter()], "betas": (0.7, 0.9)})
    schedule.step()
    schedule.step()
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.999), (0.5, 0.9)]


@pytest.mark.parametrize(
    ("name", "key"),
    [("LRRangeTest", "lr_range_test_min_lr"), ("OneCycle", "cycle_max_lr"), ("WarmupLR", "warmup_max_lr")],
)
def test_a_param_group_added_later_is_refused_where_a_list_has_no_value_for_it(name: str, key: str) -> None:
    optimizer = adamw(0.1)
    schedule = small(name, optimizer, **{key: [1.0]})
    optimizer.add_param_group({"params": [parameter()]})
    with pytest.raises(ValueError, match=rf"^{key} lists 1 values, but the optimizer has 2 param groups"):
        schedule.step()


def test_the_own_lr_of_a_later_group_is_the_one_it_came_with() -> None:
    optimizer = AdamW([{"params": [parameter()], "lr": 0.1}], lr=0.7)
    schedules = [WarmupCosineLR(optimizer, 100, warmup_num_steps=4), WarmupLR(optimizer, 0.0, None, 4)]
    optimizer.add_param_group({"params": [parameter()]})
    assert [schedule.lr_at(4) for schedule in schedules] == [[0.1, 0.7], [0.1, 0.7]]


# Copies --------------------------------------------------------------------------------------------------------------


def copies(pair: tuple[Optimizer, ScheduledLR]) -> list[tuple[Optimizer, ScheduledLR]]:
    return [copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))]


@every_schedule
@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_a_copy_of_optimizer_and_schedule_lives_on_by_itself(name: str, following: bool, tensor: bool) -> None:
    optimizer = adamw(torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    schedule = small(name, optimizer)
    if following:
        schedule.follow_optimizer()
    train_step(optimizer)
    schedule.step()
    before = lrs(optimizer)
    for optimizer_copy, schedule_copy in copies((optimizer, schedule)):
        assert schedule_copy.optimizer is optimizer_copy
        for step in range(1, 6):
            assert (schedule_copy.last_epoch, lrs(optimizer_copy)) == (step, schedule.lr_at(step))
            train_step(optimizer_copy)
            schedule_copy.step()
        assert (schedule.last_epoch, lrs(optimizer)) == (1, before)


def test_a_copied_following_schedule_can_unfollow() -> None:
    schedule = small("OneCycle", adamw())
    schedule.follow_optimizer()
    for optimizer, copied in copies((schedule.optimizer, schedule)):
        copied.unfollow_optimizer()
        train_step(optimizer)
        assert copied.last_epoch == 0


# A long run -----------------------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("steps", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_steps_equal_the_closed_form_and_take_no_more_memory_than_few(name: str, steps: int) -> None:
    optimizer = adamw()
    schedule, reference = small(name, optimizer), small(name, adamw())
    (group,) = optimizer.param_groups

    def drive(times: int) -> int:
        for _ in range(times):
            schedule.step()
            if group["lr"] != (expected := reference.lr_at(schedule.last_epoch)[0]):
                pytest.fail(f"step {schedule.last_epoch}: {group['lr']} is not {expected}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        after_few = drive(1000)
        after_many = drive(steps)
    finally:
        tracemalloc.stop()
    assert after_many - after_few < 2048
    assert reference.momentum_at(schedule.last_epoch) in (None, [group["betas"][0]])
