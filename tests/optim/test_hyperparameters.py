"""How values reach the optimizer: lr, momentum and first beta, as floats and as tensors, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from lightning_lrsched.optim.schedulers import OneCycle, WarmupLR
from tests.kit.schedules import NAMES, ThreeBetas, adamw, lrs, momenta, param_groups, parameter, sgd, small, train_step


def one_cycle(optimizer: Optimizer, **changes: Any) -> OneCycle:
    """Return a schedule that is at its top, lr 1.0 and momentum 0.5, after two steps."""
    params = {"cycle_min_lr": 0.0, "cycle_max_lr": 1.0, "cycle_first_step_size": 2, "cycle_min_mom": 0.5}
    return OneCycle(optimizer, **{**params, **changes})


def muon() -> Optimizer:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    return torch.optim.Muon([torch.zeros(2, 2, requires_grad=True)], lr=0.1)


WITH_MOMENTUM = {
    "SGD": sgd,
    "RMSprop": lambda: RMSprop([parameter()], lr=0.1, momentum=0.9),
    "AdamW": adamw,
    "NAdam": lambda: NAdam([parameter()], lr=0.1),
    "RAdam": lambda: RAdam([parameter()], lr=0.1),
    "Adamax": lambda: Adamax([parameter()], lr=0.1),
    "Muon": muon,
    "three betas": lambda: ThreeBetas([parameter()]),
}


@pytest.mark.parametrize("make", WITH_MOMENTUM.values(), ids=WITH_MOMENTUM)
def test_lr_and_momentum_reach_every_kind_of_optimizer(make: Any) -> None:
    optimizer = make()
    schedule = one_cycle(optimizer)
    assert (lrs(optimizer), momenta(optimizer)) == ([0.0], [0.9])
    train_step(optimizer)
    schedule.step()
    schedule.step()
    assert (lrs(optimizer), momenta(optimizer)) == ([1.0], [0.5])


@pytest.mark.parametrize("make", WITH_MOMENTUM.values(), ids=WITH_MOMENTUM)
def test_nothing_else_in_the_param_groups_changes(make: Any) -> None:
    optimizer = make()
    kept = [{k: v for k, v in g.items() if k not in ("lr", "momentum", "betas")} for g in optimizer.param_groups]
    other_betas = [tuple(g.get("betas", ()))[1:] for g in optimizer.param_groups]
    schedule = one_cycle(optimizer)
    schedule.step()
    for group, before, betas in zip(optimizer.param_groups, kept, other_betas, strict=True):
        assert {k: v for k, v in group.items() if k in before} == before
        assert set(group) - set(before) <= {"lr", "momentum", "betas", "initial_lr"}
        assert tuple(group.get("betas", ()))[1:] == betas


def test_each_group_keeps_its_own_other_betas() -> None:
    groups = param_groups([0.1, 0.1, 0.1])
    for group, beta2 in zip(groups, (0.9, 0.99, 0.99), strict=True):
        group["betas"] = (0.9, beta2)
    optimizer = AdamW(groups)
    one_cycle(optimizer).step()
    assert [group["betas"][1] for group in optimizer.param_groups] == [0.9, 0.99, 0.99]


@pytest.mark.parametrize("groups", [1, 2])
def test_betas_that_the_user_sets_midway_keep_their_second_value(groups: int) -> None:
    optimizer = adamw(*[0.1] * groups)
    schedule = one_cycle(optimizer)
    schedule.step()
    optimizer.param_groups[0]["betas"] = (0.3, 0.95)
    schedule.step()
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.95), (0.5, 0.999)][:groups]
    schedule.step()
    assert optimizer.param_groups[0]["betas"] == (pytest.approx(0.7), 0.95)


WITHOUT_MOMENTUM = {
    "SGD": lambda: SGD([parameter()], lr=0.1),
    "RMSprop": lambda: RMSprop([parameter()], lr=0.1),
    "Adagrad": lambda: Adagrad([parameter()], lr=0.1),
    "Rprop": lambda: Rprop([parameter()], lr=0.1),
}


@pytest.mark.parametrize("name", WITHOUT_MOMENTUM)
def test_an_optimizer_without_momentum_gets_one_warning_and_its_lr_is_scheduled(name: str) -> None:
    optimizer = WITHOUT_MOMENTUM[name]()
    kept = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("lr", "params")}
    with pytest.warns(UserWarning, match=rf"cycle_momentum has no effect: {name} has no momentum") as caught:
        schedule = one_cycle(optimizer)
    schedule.step()
    schedule.step()
    assert [warning.filename for warning in caught] == [__file__]
    assert lrs(optimizer) == [1.0]
    assert schedule.momentum_at(2) is None
    assert {k: optimizer.param_groups[0][k] for k in kept} == kept


def test_with_cycle_momentum_false_nobody_is_warned_about_missing_momentum() -> None:
    schedule = one_cycle(SGD([parameter()], lr=0.1), cycle_momentum=False)
    assert schedule.lr_at(2) == [1.0]


def test_momentum_that_cycles_through_zero_comes_back() -> None:
    optimizer = sgd()
    schedule = one_cycle(optimizer, cycle_min_mom=0.0)
    schedule.step()
    schedule.step()
    assert momenta(optimizer) == [0.0]
    optimizer.load_state_dict(optimizer.state_dict())
    schedule.step()
    schedule.step()
    assert momenta(optimizer) == [0.9]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "1-dim"])
def test_a_tensor_lr_is_filled_in_place(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    lr = torch.full(shape, 0.1, dtype=dtype)
    optimizer = adamw(lr)
    schedule = small(name, optimizer)
    for step in range(12):
        assert optimizer.param_groups[0]["lr"] is lr
        assert (lr.dtype, tuple(lr.shape)) == (dtype, shape)
        assert torch.equal(lr, torch.full(shape, schedule.lr_at(step)[0], dtype=dtype))
        schedule.step()


def test_tensor_betas_are_filled_in_place_and_the_second_is_not_touched() -> None:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = AdamW([parameter()], lr=torch.tensor(0.1), betas=betas, capturable=True, foreach=False)
    schedule = one_cycle(optimizer)
    schedule.step()
    schedule.step()
    held = optimizer.param_groups[0]["betas"]
    assert held[0] is betas[0]
    assert held[1] is betas[1]
    assert (held[0].item(), held[1].item()) == (0.5, torch.tensor(0.999).item())


def test_a_tensor_momentum_is_filled_in_place() -> None:
    momentum = torch.tensor(0.9)
    optimizer = sgd(momentum=momentum)
    schedule = one_cycle(optimizer)
    schedule.step()
    schedule.step()
    assert optimizer.param_groups[0]["momentum"] is momentum
    assert momentum.item() == 0.5


def test_groups_with_float_and_tensor_lrs_get_the_same_values() -> None:
    optimizer = adamw(0.1, torch.tensor(0.1, dtype=torch.float64), 0.3)
    schedule = one_cycle(optimizer)
    schedule.step()
    assert lrs(optimizer) == [0.5, 0.5, 0.5]
    assert [type(group["lr"]) for group in optimizer.param_groups] == [float, torch.Tensor, float]


def test_packed_views_of_one_tensor_stay_views() -> None:
    packed = torch.zeros(2, dtype=torch.float64)
    optimizer = adamw(packed[0], packed[1])
    one_cycle(optimizer, cycle_max_lr=[1.0, 3.0]).step()
    assert packed.tolist() == [0.5, 1.5]


def test_the_default_tensor_that_groups_share_serves_one_range_and_is_refused_for_two() -> None:
    groups = [{"params": [parameter()]}, {"params": [parameter()]}]
    optimizer = AdamW(groups, lr=torch.tensor(0.1))
    with pytest.raises(ValueError, match=r"^lr: param groups with different values share one tensor"):
        one_cycle(optimizer, cycle_max_lr=[1.0, 3.0])
    assert lrs(optimizer) == [pytest.approx(0.1)] * 2
    one_cycle(optimizer).step()
    assert lrs(optimizer) == [0.5, 0.5]


def test_shared_tensor_betas_are_refused_for_two_ranges() -> None:
    groups = [{"params": [parameter()]}, {"params": [parameter()]}]
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = AdamW(groups, lr=0.1, betas=betas, capturable=True, foreach=False)
    with pytest.raises(ValueError, match=r"^momentum: param groups with different values share one tensor"):
        one_cycle(optimizer, cycle_min_mom=[0.5, 0.6])


@pytest.mark.parametrize("own", [float, torch.tensor])
@pytest.mark.parametrize("new", [float, torch.tensor])
def test_an_lr_that_the_user_assigns_midway_holds_until_the_next_step(own: Any, new: Any) -> None:
    optimizer, assigned = adamw(own(0.1)), new(0.3)
    schedule = WarmupLR(optimizer, warmup_max_lr=1.0, warmup_num_steps=2)
    optimizer.param_groups[0]["lr"] = assigned
    assert schedule.get_last_lr() == [assigned]
    schedule.step()
    schedule.step()
    assert lrs(optimizer) == [1.0]


def test_tensor_betas_that_the_user_replaces_midway_are_scheduled_too() -> None:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = AdamW([parameter()], lr=0.1, betas=betas, capturable=True, foreach=False)
    schedule = one_cycle(optimizer)
    optimizer.param_groups[0]["betas"] = (0.7, 0.98)
    schedule.step()
    schedule.step()
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.98)


def test_the_values_are_those_of_the_optimizers_arithmetic() -> None:
    parameters = [torch.ones(1, requires_grad=True)]
    optimizer = SGD(parameters, lr=9.0, momentum=0.9)
    schedule = WarmupLR(optimizer, 0.5, 1.0, warmup_num_steps=2)
    train_step(optimizer)
    schedule.step()
    assert parameters[0].item() == 0.5
