"""make_capturable: which optimizers can, what changes, and what does not."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import ASGD, SGD, Adadelta, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from lightning_lrsched.schedulers import OneCycle, WarmupLR
from tests.kit.schedules import Calls, ThreeBetas, lrs, momenta, parameter, small, train_step

WITH_BETAS = [Adam, AdamW, NAdam, RAdam, Adamax]
LR_ONLY = [RMSprop, Adadelta, ASGD, Rprop]


def two_groups(cls: Any, **options: Any) -> Optimizer:
    return cls([{"params": [parameter()], "lr": 0.1}, {"params": [parameter()], "lr": 0.3}], **options)


@pytest.mark.parametrize("cls", WITH_BETAS)
def test_lr_and_first_beta_become_tensors_of_the_same_value(cls: Any) -> None:
    optimizer = two_groups(cls)
    schedule = small("OneCycle", optimizer)
    schedule.make_capturable()
    for group in optimizer.param_groups:
        assert isinstance(group["lr"], Tensor)
        assert (group["lr"].dtype, group["betas"][0].dtype) == (torch.float32, torch.float32)
        assert group["betas"][1] == 0.999
    for step in range(8):
        assert lrs(optimizer) == pytest.approx(schedule.lr_at(step))
        assert momenta(optimizer) == pytest.approx(schedule.momentum_at(step))
        schedule.step()


@pytest.mark.parametrize("cls", [*WITH_BETAS, *LR_ONLY])
def test_the_lr_alone_works_with_every_optimizer_that_has_the_mode(cls: Any) -> None:
    optimizer = two_groups(cls)
    kept = [{k: v for k, v in g.items() if k not in ("lr", "initial_lr")} for g in optimizer.param_groups]
    schedule = small("WarmupLR", optimizer)
    schedule.make_capturable()
    assert [{k: v for k, v in g.items() if k not in ("lr", "initial_lr")} for g in optimizer.param_groups] == kept
    schedule.step(3)
    assert lrs(optimizer) == pytest.approx(schedule.lr_at(3))
    train_step(optimizer)


@pytest.mark.parametrize("cls", WITH_BETAS)
def test_training_takes_the_same_steps_with_tensors_as_with_floats(cls: Any) -> None:
    weights = []
    for capturable in (False, True):
        weight = torch.ones(3, requires_grad=True)
        optimizer = cls([weight], lr=0.1)
        schedule = OneCycle(optimizer, 0.01, 0.1, cycle_first_step_size=5, cycle_min_mom=0.5)
        if capturable:
            schedule.make_capturable()
        schedule.follow_optimizer()
        for step in range(10):
            weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", WITH_BETAS)
def test_a_capturable_step_reads_nothing_back(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch refuses capturable steps on a CPU; the operations are the same.
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.optim") and hasattr(module, "_get_capturable_supported_devices"):
            monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *args, **kwargs: ["cpu", "cuda"])
    optimizer = two_groups(cls, capturable=True)
    schedule = small("OneCycle", optimizer)
    schedule.make_capturable()
    schedule.follow_optimizer()
    train_step(optimizer)
    with Calls() as calls:
        train_step(optimizer)
    assert calls.seen["_local_scalar_dense"] == 0
    assert schedule.last_epoch == 2


REFUSED = {
    "SGD": (lambda: two_groups(SGD, momentum=0.9), r"SGD has no such mode.*that have it are .*AdamW"),
    "an optimizer of the user": (lambda: ThreeBetas([parameter()]), "ThreeBetas has no such mode"),
    "RMSprop": (lambda: two_groups(RMSprop, momentum=0.9), "RMSprop reads a tensor momentum back"),
    "fused": (lambda: two_groups(AdamW, fused=True), r"AdamW\(fused=True\) takes its betas as numbers"),
    "foreach": (lambda: two_groups(AdamW, foreach=True), r"AdamW\(foreach=True\) reads tensor betas back"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_is_refused_and_nothing_changes(name: str) -> None:
    make, message = REFUSED[name]
    optimizer = make()
    schedule = small("OneCycle", optimizer)
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=f"^capturable: {message}"):
        schedule.make_capturable()
    assert [dict(group) for group in optimizer.param_groups] == before
    schedule.step()
    assert lrs(optimizer) == schedule.lr_at(1)


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}])
def test_without_momentum_fused_and_foreach_are_welcome(options: dict[str, bool]) -> None:
    optimizer = two_groups(AdamW, **options)
    schedule = OneCycle(optimizer, 0.1, 1.0, cycle_momentum=False)
    schedule.make_capturable()
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_tensors_that_are_there_already_stay() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64)
    optimizer = AdamW([parameter()], lr=lr)
    small("OneCycle", optimizer).make_capturable()
    assert optimizer.param_groups[0]["lr"] is lr


def test_an_eager_runs_state_that_is_loaded_later_becomes_capturable_at_once() -> None:
    old = two_groups(AdamW)
    old_schedule = small("OneCycle", old)
    for _ in range(3):
        train_step(old)
        old_schedule.step()
    optimizer = two_groups(AdamW)
    schedule = small("OneCycle", optimizer)
    schedule.make_capturable()
    optimizer.load_state_dict(copy.deepcopy(old.state_dict()))
    assert all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    schedule.load_state_dict(old_schedule.state_dict())
    assert lrs(optimizer) == pytest.approx(old_schedule.lr_at(3))
    assert momenta(optimizer) == pytest.approx(old_schedule.momentum_at(3))


def test_a_group_whose_parameters_lie_on_several_devices_is_refused() -> None:
    optimizer = AdamW([parameter(), torch.zeros(1, device="meta", requires_grad=True)], lr=0.1)
    schedule = WarmupLR(optimizer, warmup_max_lr=0.1)
    with pytest.raises(ValueError, match="one param group are on several devices"):
        schedule.make_capturable()


def test_following_a_step_that_is_being_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = small("OneCycle", two_groups(AdamW))
    schedule.make_capturable()
    schedule.follow_optimizer()
    schedule._writer.on_cuda = True  # as if it were
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="a replay runs no hooks, so the schedule would stand still"):
        train_step(schedule.optimizer)
    schedule.unfollow_optimizer()
    train_step(schedule.optimizer)
    schedule.step()
    assert schedule.last_epoch == 1


def test_a_copy_of_a_capturable_schedule_goes_on() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1, foreach=False)
    schedule = OneCycle(optimizer, 0.1, 1.0, cycle_first_step_size=4)
    schedule.make_capturable()
    copied_optimizer, copied = copy.deepcopy((optimizer, schedule))
    copied.step()
    [group] = copied_optimizer.param_groups
    assert isinstance(group["lr"], torch.Tensor)
    assert group["lr"].item() == pytest.approx(copied.lr_at(1)[0])
    assert float(group["betas"][0]) == pytest.approx(copied.momentum_at(1)[0])
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.1)
