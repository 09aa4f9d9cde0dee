"""torch's own schedulers, by their names: the same values as torch's, and all that our schedules can do."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.optim.torch_schedulers import torch_schedules
from lightning_lrsched.schedules.length import Horizon
from tests.kit.schedules import train_step

PARAMS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 7]},
    "ConstantLR": {"total_iters": 3},
    "LinearLR": {"total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 6, "power": 2.0},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 1e-5},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.1, "max_lr": [1.0, 2.0], "step_size_up": 3},
    "OneCycleLR": {"max_lr": 1.0, "total_steps": 40},
}


def sgd(*lrs: float) -> SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs or (0.1,)]
    return SGD(groups, lr=0.1, momentum=0.9)


def adamw(*lrs: float) -> AdamW:
    return AdamW([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs], lr=0.1)


def values(optimizer: Optimizer) -> list[tuple[float, float]]:
    return [(g["lr"], g["betas"][0] if "betas" in g else g["momentum"]) for g in optimizer.param_groups]


def test_every_scheduler_of_torch_is_tried_here() -> None:
    assert set(torch_schedules()) == set(PARAMS)


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("name", PARAMS)
def test_lr_and_momentum_are_torchs(name: str, make: Any) -> None:
    theirs, ours = make(0.1, 0.3), make(0.1, 0.3)
    reference = getattr(lr_scheduler, name)(theirs, **PARAMS[name])
    scheduled = SchedulerConfig(name, PARAMS[name]).build(ours, follow=True)
    for step in range(30):
        assert values(ours) == values(theirs), step
        assert scheduled.lr_at(step) == [lr for lr, _ in values(ours)]
        train_step(ours)
        train_step(theirs)
        reference.step()


@pytest.mark.parametrize("name", PARAMS)
def test_it_resumes_from_its_position_alone(name: str) -> None:
    config, optimizer = SchedulerConfig(name, PARAMS[name]), sgd(0.1, 0.3)
    whole = config.build(optimizer)
    resumed = config.build(sgd(0.1, 0.3))
    resumed.load_state_dict({"last_epoch": 5})
    assert resumed.get_last_lr() == whole.lr_at(5)
    copied, _ = pickle.loads(pickle.dumps((whole, optimizer)))
    assert copied.lr_at(9) == whole.lr_at(9)


@pytest.mark.parametrize(
    ("name", "params", "resolved"),
    [
        ("CosineAnnealingLR", {"T_max": "auto"}, {"T_max": 200}),
        ("CosineAnnealingLR", {"T_max": "2ep"}, {"T_max": 40}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": "auto"}, {"max_lr": 1.0, "total_steps": 200}),
        ("LinearLR", {"total_iters": 0.1}, {"total_iters": 20}),
        ("StepLR", {"step_size": 0.3}, {"step_size": 60}),
        ("MultiStepLR", {"milestones": [0.5, "8ep"]}, {"milestones": [100, 160]}),
    ],
)
def test_lengths_may_depend_on_the_run(name: str, params: dict[str, Any], resolved: dict[str, Any]) -> None:
    config = SchedulerConfig(name, params)
    assert config.needs_run
    assert config.resolve(sgd(), Horizon(200, 20)).to_dict()["params"] == resolved
    with pytest.raises(ValueError, match=r"^scheduler\.params\.\w+(\[0\])?=.* needs to know how long"):
        config.build(sgd())


def test_numbers_may_be_text() -> None:
    config = SchedulerConfig("CosineAnnealingLR", T_max=5e2, eta_min="1e-5")
    assert config.to_dict()["params"] == {"T_max": 500, "eta_min": 1e-5}


@pytest.mark.parametrize(
    ("name", "params", "complaint"),
    [
        ("StepLR", {}, r"scheduler\.params\.step_size is missing"),
        ("StepLR", {"step": 3}, r"scheduler\.params\.step: .*did you mean 'step_size'"),
        ("CyclicLR", {"base_lr": 0, "max_lr": 1, "step_size_down": 2.5}, r"step_size_down must be a whole number"),
        ("StepLR", {"step_size": "many"}, r"scheduler\.params\.step_size must be a whole number, .*got 'many'"),
        ("StepLR", {"step_size": 3, "gamma": "auto"}, r'scheduler\.params\.gamma: "auto" has no meaning here'),
        ("CosineAnnealingLR", {"T_max": 0}, r"scheduler\.params\.T_max must be a whole number, at least 1, got 0"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "mode": "square"}, r"^scheduler\.params: CyclicLR refuses .*mode"),
        ("OneCycleLR", {"max_lr": 1.0}, r"^scheduler\.params: OneCycleLR refuses"),
    ],
)
def test_values_that_are_wrong_are_refused_before_there_is_an_optimizer(
    name: str, params: dict[str, Any], complaint: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        SchedulerConfig(name, params)


def test_past_its_end_torchs_one_cycle_keeps_its_last_lr() -> None:
    scheduled = SchedulerConfig("OneCycleLR", max_lr=1.0, total_steps=5).build(sgd())
    assert [scheduled.lr_at(step) for step in (5, 12)] == [scheduled.lr_at(4)] * 2


def test_an_optimizer_without_momentum_gets_one_warning_and_the_lr() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.warns(UserWarning, match="cycle_momentum has no effect: SGD has no momentum"):
        scheduled = SchedulerConfig("OneCycleLR", PARAMS["OneCycleLR"]).build(optimizer)
    assert scheduled.momentum_at(3) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SchedulerConfig("OneCycleLR", {**PARAMS["OneCycleLR"], "cycle_momentum": False}).build(optimizer)
