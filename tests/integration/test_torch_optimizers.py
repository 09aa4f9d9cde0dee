"""Every optimizer of torch.optim, and each kind that other libraries have: scheduled rightly at each real step.

The optimizers of pytorch_optimizer themselves: ``test_third_party_optimizers.py``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer

from lightning_lrsched import OneCycle, WarmupLR
from tests.kit.schedules import LRS, Task, check

# torch.optim --------------------------------------------------------------------------------------------------------

TORCHS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
WITH_MOMENTUM = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam", "Muon"}


@pytest.mark.parametrize("name", TORCHS)
def test_each_optimizer_of_torch_is_scheduled(name):
    task = Task()
    task.sparse = name == "SparseAdam"
    optimizer = TORCHS[name](task.matrices if name == "Muon" else task.model.parameters(), lr=0.01)
    if name == "LBFGS":
        schedule = check(optimizer, lambda: optimizer.step(task.loss))
    else:
        schedule = check(optimizer, lambda: (task.loss(), optimizer.step()))
    assert (schedule.momentum_at(0) is not None) == (name in WITH_MOMENTUM)


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_a_momentum_that_is_in_use_is_cycled(name):
    task = Task()
    optimizer = TORCHS[name](task.model.parameters(), lr=0.01, momentum=0.9)
    assert check(optimizer, lambda: (task.loss(), optimizer.step())).momentum_at(3) == [0.8]


# Kinds that other libraries have -----------------------------------------------------------------------------------


class Lookahead(Optimizer):
    """Wraps an optimizer and shares its param groups."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.defaults = optimizer.defaults
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}

    def step(self, closure: Any = None) -> None:
        self.optimizer.step()


class SharpnessAware(Optimizer):
    """Steps in two halves, of which the second lets the optimizer inside step."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, options)
        self.base_optimizer = SGD(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def second_half(self) -> None:
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> None:
        self.second_half()


class AggMo(SGD):
    """Has the name of one that keeps a buffer for each of its betas."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self.param_groups[0]["betas"] = (0.0, 0.9, 0.99)


class ChoosesItsLr(Optimizer):
    """Has no lr in its param groups."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"max_lr": 0.1})


class Wrapper:
    """No optimizer itself: it holds one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


def test_an_optimizer_that_wraps_another_is_scheduled_once_a_step():
    task = Task()
    optimizer = Lookahead(SGD(task.model.parameters(), lr=0.01, momentum=0.9))
    check(optimizer, lambda: (task.loss(), optimizer.step()))


@pytest.mark.parametrize("halves", [False, True])
def test_a_sharpness_aware_optimizer_is_scheduled_once_a_step_also_where_nobody_calls_its_step(halves):
    task = Task()
    optimizer = SharpnessAware(task.model.parameters(), lr=0.01, momentum=0.9)
    step = optimizer.second_half if halves else optimizer.step
    check(optimizer, lambda: (task.loss(), step()))


def test_the_optimizer_inside_a_wrapper_that_is_none_is_scheduled():
    task = Task()
    wrapper = Wrapper(SGD(task.model.parameters(), lr=0.01, momentum=0.9))
    assert OneCycle(wrapper, **LRS).optimizer is wrapper.optimizer


@pytest.mark.parametrize("schedule", [lambda o: OneCycle(o, **LRS), WarmupLR], ids=["OneCycle", "WarmupLR"])
def test_an_optimizer_without_lr_is_refused(schedule):
    optimizer = ChoosesItsLr(Task().model.parameters())
    before = deepcopy(optimizer.param_groups)
    with pytest.raises(
        ValueError, match=r"ChoosesItsLr has no learning rate to schedule: its param_groups\[0\] has no 'lr'"
    ):
        schedule(optimizer)
    assert [list(group) for group in optimizer.param_groups] == [list(group) for group in before]


def test_aggmos_betas_are_refused_and_its_lr_is_scheduled():
    task = Task()
    optimizer = AggMo(task.model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="cycle_momentum: AggMo keeps a buffer for each of its betas"):
        OneCycle(optimizer, **LRS)
    schedule = OneCycle(optimizer, **LRS, cycle_momentum=False)
    check(optimizer, lambda: (task.loss(), optimizer.step()), schedule)
