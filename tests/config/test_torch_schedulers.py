"""Torch's own schedulers, by their names."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD

from lightning_lrsched import SchedulerConfig


def sgd(groups: int = 1, lr: float = 0.1) -> SGD:
    return SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)], lr=lr, momentum=0.9)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("StepLR", {"step_size": 2, "gamma": "5e-1"}),
        ("CosineAnnealingLR", {"T_max": 5e2, "eta_min": "1e-5"}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": "1e1"}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0}),
        ("MultiStepLR", {"milestones": [2, 4]}),
        ("CosineAnnealingWarmRestarts", {"T_0": 3}),
    ],
)
def test_classes_of_torch_are_built_by_name(name, params):
    scheduler = SchedulerConfig(name, params).build(sgd())
    assert isinstance(scheduler, getattr(torch.optim.lr_scheduler, name))


@pytest.mark.parametrize(
    ("name", "params", "complaint"),
    [
        ("StepLR", {}, r"scheduler\.params\.step_size is missing"),
        ("StepLR", {"step": 3}, r"scheduler\.params\.step: .*did you mean 'step_size'"),
        ("StepLR", {"step_size": 0.3}, r"scheduler\.params\.step_size must be a whole number, .*got 0\.3"),
        ("CyclicLR", {"base_lr": 0, "max_lr": 1, "step_size_down": 2.5}, r"step_size_down must be a whole number"),
        ("StepLR", {"step_size": "many"}, r"scheduler\.params\.step_size must be a whole number, .*got 'many'"),
        ("CosineAnnealingLR", {"T_max": 0}, r"scheduler\.params: CosineAnnealingLR refuses T_max=0"),
        ("OneCycleLR", {"max_lr": 1.0}, "OneCycleLR refuses"),
    ],
)
def test_values_that_torch_refuses_leave_the_optimizer_as_it_was(name, params, complaint):
    optimizer = sgd()
    step = optimizer.step
    with pytest.raises((TypeError, ValueError), match=complaint):
        SchedulerConfig(name, params).build(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert "initial_lr" not in optimizer.param_groups[0]
    assert optimizer.step == step


def test_past_its_end_torch_one_cycle_keeps_its_last_lr():
    optimizer = sgd()
    scheduler = SchedulerConfig("OneCycleLR", max_lr=1.0, total_steps=5).build(optimizer)
    lrs = []
    for _ in range(12):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    reference_optimizer = sgd()
    reference = torch.optim.lr_scheduler.OneCycleLR(reference_optimizer, max_lr=1.0, total_steps=5)
    for step in range(5):
        assert lrs[step] == reference.get_last_lr()[0]
        reference_optimizer.step()
        if step < 4:
            reference.step()
    assert lrs[4:] == [lrs[4]] * 8
