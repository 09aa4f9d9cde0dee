"""Optimizers of no consequence: to try a schedule on before there is an optimizer, or without one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch.optim import Optimizer


def make_light(optimizer_class: type[Optimizer], *args: Any, **options: Any) -> Optimizer:
    """Return ``optimizer_class(*args, **options)``, made without loading torch's compiler.

    torch keeps its compiler away from ``add_param_group`` by a wrapper that imports it first, which takes a second. No
    subclass does this: LightningCLI looks optimizers up by name among all the subclasses that there are.
    """
    optimizer = optimizer_class.__new__(optimizer_class)
    vars(optimizer)["add_param_group"] = MethodType(inspect.unwrap(Optimizer.add_param_group), optimizer)
    optimizer_class.__init__(optimizer, *args, **options)
    del vars(optimizer)["add_param_group"]
    return optimizer


def stand_in(lrs: Sequence[float], momentum: float = 0.9) -> Optimizer:
    """Return an SGD over nothing, with one param group for each learning rate."""
    groups = [{"params": [torch.zeros(1, 1)], "lr": lr} for lr in lrs]
    return make_light(torch.optim.SGD, groups, lr=1.0, momentum=momentum)


def stand_in_for(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with the settings of the param groups of ``optimizer``, but none of its parameters."""
    groups = [
        {
            **{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in group.items() if k != "param_names"},
            "params": [torch.zeros(1)],
        }
        for group in optimizer.param_groups
    ]
    return make_light(Optimizer, groups, dict(optimizer.defaults))
