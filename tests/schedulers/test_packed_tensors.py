"""Many tensor lrs and momenta: written by one copy, in place, without reading anything back."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import SequentialLR

from lightning_lrsched.schedulers.packed_tensors import MIN_PACKED
from tests.kit.schedules import NAMES, Calls, adamw, lrs, momenta, param_groups, parameter, small

every_schedule = pytest.mark.parametrize("name", NAMES)


def capturable(groups: int, dtype: torch.dtype = torch.float32) -> AdamW:
    """Return an AdamW whose groups each have an lr and betas of their own, all tensors."""
    made = param_groups([torch.tensor(0.1 + i, dtype=dtype) for i in range(groups)])
    for group in made:
        group["betas"] = (torch.tensor(0.9, dtype=dtype), torch.tensor(0.999, dtype=dtype))
    return AdamW(made, capturable=True, foreach=False)


def held(optimizer: Optimizer) -> list[torch.Tensor]:
    return [tensor for g in optimizer.param_groups for tensor in (g["lr"], *g["betas"])]


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 7])
def test_objects_stay_and_values_are_those_of_the_schedule(name: str, dtype: torch.dtype, groups: int) -> None:
    optimizer = capturable(groups, dtype)
    own = held(optimizer)
    schedule = small(name, optimizer)
    for step in range(15):
        assert all(a is b for a, b in zip(held(optimizer), own, strict=True))
        for group, lr in zip(optimizer.param_groups, schedule.lr_at(step), strict=True):
            assert torch.equal(group["lr"], torch.tensor(lr, dtype=dtype))
        for group, momentum in zip(optimizer.param_groups, schedule.momentum_at(step) or [0.9] * groups, strict=True):
            assert torch.equal(group["betas"][0], torch.tensor(momentum, dtype=dtype))
            assert torch.equal(group["betas"][1], torch.tensor(0.999, dtype=dtype))
        schedule.step()


def test_groups_with_ranges_of_their_own_get_their_own_values() -> None:
    optimizer = capturable(6, torch.float64)
    schedule = small(
        "OneCycle", optimizer, cycle_max_lr=[1.0 + i for i in range(6)], cycle_min_mom=[0.1 * i for i in range(6)]
    )
    for step in range(12):
        assert lrs(optimizer) == schedule.lr_at(step)
        assert momenta(optimizer) == schedule.momentum_at(step)
        schedule.step()


@pytest.mark.parametrize("groups", [2, 10, 100])
def test_one_copy_writes_all_groups_and_both_hyperparameters(groups: int) -> None:
    schedule = small("OneCycle", capturable(groups))
    with Calls() as calls:
        schedule.step()
    assert calls.seen == {"copy_": 1}


@every_schedule
@pytest.mark.parametrize("groups", [1, 3, 20])
def test_nothing_is_read_back(name: str, groups: int) -> None:
    schedule = small(name, capturable(groups))
    schedule.follow_optimizer()
    with Calls() as calls:
        for _ in range(5):
            schedule._hooks.advance(schedule.optimizer)
            schedule.lr_at(schedule.last_epoch)
            schedule.momentum_at(schedule.last_epoch)
            schedule.get_last_lr()
    assert calls.seen
    assert "_local_scalar_dense" not in calls.seen


@pytest.mark.parametrize("groups", [1, 6])
def test_an_lr_beyond_the_dtypes_range_is_infinite_however_many_tensors_there_are(groups: int) -> None:
    optimizer = capturable(groups)
    schedule = small("LRRangeTest", optimizer, lr_range_test_step_rate=1e41)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()
    assert lrs(optimizer) == [float("inf")] * groups


def test_groups_of_different_dtypes_have_a_copy_each() -> None:
    dtypes = [torch.float32, torch.float64] * MIN_PACKED
    optimizer = adamw(*(torch.tensor(0.1, dtype=dtype) for dtype in dtypes))
    schedule = small("WarmupLR", optimizer)
    with Calls() as calls:
        schedule.step(3)
    assert calls.seen == {"copy_": 2}
    assert [group["lr"].dtype for group in optimizer.param_groups] == dtypes
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(3), rel=1e-6)


def test_1_dim_and_0_dim_tensors_are_packed_together_and_keep_their_shapes() -> None:
    shapes = [(), (1,), (), (1,), (1,)]
    optimizer = adamw(*(torch.full(shape, 0.1) for shape in shapes))
    schedule = small("WarmupLR", optimizer)
    with Calls() as calls:
        schedule.step(3)
    assert calls.seen == {"copy_": 1}
    assert [tuple(group["lr"].shape) for group in optimizer.param_groups] == shapes
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(3), rel=1e-6)


def test_tensors_that_someone_else_has_packed_stay_where_they_are() -> None:
    packed = torch.zeros(10, dtype=torch.float64)
    optimizer = adamw(*packed[2:8])
    schedule = small("WarmupLR", optimizer)
    with Calls() as calls:
        schedule.step(3)
    assert calls.seen == {"copy_": 1}
    assert packed.tolist() == [0.0, 0.0, *schedule.lr_at(3), 0.0, 0.0]


def test_scattered_parts_of_a_buffer_are_filled_one_by_one() -> None:
    packed = torch.zeros(12, dtype=torch.float64)
    optimizer = adamw(*packed[::2])
    schedule = small("WarmupLR", optimizer)
    schedule.step(3)
    assert packed.tolist() == [value for lr in schedule.lr_at(3) for value in (lr, 0.0)]


def test_a_tensor_that_shares_its_memory_is_not_moved() -> None:
    tensors = [torch.tensor(0.1, dtype=torch.float64) for _ in range(6)]
    seen_elsewhere = torch.zeros(2, dtype=torch.float64)
    optimizer = adamw(*tensors, seen_elsewhere[0])
    schedule = small("WarmupLR", optimizer)
    schedule.step(3)
    assert seen_elsewhere[0].item() == schedule.lr_at(3)[0]


def test_momentum_tensors_of_sgd_are_packed_too() -> None:
    groups = [{"params": [parameter()], "momentum": torch.tensor(0.9, dtype=torch.float64)} for _ in range(5)]
    optimizer = SGD(groups, lr=0.1)
    schedule = small("OneCycle", optimizer)
    with Calls() as calls:
        schedule.step(4)
    assert calls.seen == {"copy_": 1}
    assert momenta(optimizer) == schedule.momentum_at(4)


@pytest.mark.parametrize("through_a_file", [False, True])
def test_after_loading_the_new_tensors_are_written_from_their_first_moment_on(through_a_file: bool) -> None:
    optimizer = capturable(6)
    schedule = small("OneCycle", optimizer)
    schedule.step()
    state = copy.deepcopy(optimizer.state_dict())
    if through_a_file:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
    optimizer.load_state_dict(state)
    addresses = [tensor.data_ptr() for tensor in held(optimizer)]  # what a graph captured now would read
    with Calls() as calls:
        schedule.step()
    assert calls.seen == {"copy_": 1}
    assert [tensor.data_ptr() for tensor in held(optimizer)] == addresses
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(2))
    assert momenta(optimizer) == pytest.approx(schedule.momentum_at(2))


def test_loading_separate_tensors_packs_them_at_once() -> None:
    optimizer = capturable(6)
    state = copy.deepcopy(optimizer.state_dict())  # before there is a schedule: each has its own memory
    schedule = small("OneCycle", optimizer)
    optimizer.load_state_dict(state)
    addresses = [tensor.data_ptr() for tensor in held(optimizer)]
    schedule.step()
    assert [tensor.data_ptr() for tensor in held(optimizer)] == addresses
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(1))


def test_a_schedule_that_is_gone_is_not_kept_alive_by_the_optimizer() -> None:
    optimizer = capturable(6)
    small("OneCycle", optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    survivor = small("WarmupLR", optimizer)
    survivor.step(3)
    assert lrs(optimizer) == pytest.approx(survivor.lr_at(3), rel=1e-6)


def test_two_schedules_of_one_optimizer_write_the_same_memory() -> None:
    optimizer = capturable(5)
    parts = [small("WarmupLR", optimizer), small("OneCycle", optimizer)]
    both = SequentialLR(optimizer, parts, milestones=[4])
    expected = [*(parts[0].lr_at(s) for s in range(4)), *(parts[1].lr_at(s) for s in range(8))]
    for step in range(12):
        assert lrs(optimizer) == pytest.approx(expected[step], rel=1e-6)
        optimizer._opt_called = True
        both.step()


def test_a_group_added_later_is_written_and_the_others_do_not_move() -> None:
    optimizer = capturable(5)
    schedule = small("OneCycle", optimizer)
    addresses = [tensor.data_ptr() for tensor in held(optimizer)]
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer.add_param_group({"params": [parameter()], "lr": torch.tensor(0.3), "betas": betas})
    schedule.step()
    assert [tensor.data_ptr() for tensor in held(optimizer)][: len(addresses)] == addresses
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(1))
    assert momenta(optimizer) == pytest.approx(schedule.momentum_at(1))


def test_a_tensor_that_the_user_replaces_among_many_is_found_soon() -> None:
    optimizer = capturable(200)
    schedule = small("WarmupLR", optimizer)
    optimizer.param_groups[150]["lr"] = torch.tensor(7.0)
    for _ in range(200 // 16 + 1):
        schedule.step()
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(schedule.last_epoch), rel=1e-6)


@every_schedule
def test_copies_of_many_tensors_live_on_by_themselves(name: str) -> None:
    optimizer = capturable(6)
    schedule = small(name, optimizer)
    schedule.step()
    before = lrs(optimizer)
    optimizer_copy, schedule_copy = copy.deepcopy((optimizer, schedule))
    for _ in range(3):
        schedule_copy.step()
    assert lrs(optimizer_copy) == pytest.approx(schedule.lr_at(4), rel=1e-6)
    assert lrs(optimizer) == before
