"""Optimizers of no consequence: to try a schedule on before there is an optimizer, or without one."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer


def light(optimizer_class: type[Optimizer]) -> type[Optimizer]:
    """Return a class that is like ``optimizer_class``, but can be made without loading torch's compiler.

    torch keeps its compiler away from ``add_param_group`` by a wrapper that imports it first, for a second.
    """
    unwrapped = inspect.unwrap(Optimizer.add_param_group)
    return type(optimizer_class.__name__, (optimizer_class,), {"add_param_group": unwrapped})


def stand_in(groups: int, lr: float, momentum: float = 0.9) -> Optimizer:
    """Return an SGD over nothing, with so many param groups."""
    return light(torch.optim.SGD)([{"params": [torch.zeros(1, 1)]} for _ in range(groups)], lr=lr, momentum=momentum)  # type: ignore[call-arg]


def stand_in_for(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with the settings of the param groups of ``optimizer``, but none of its parameters."""
    groups = [
        {
            **{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in group.items() if k != "param_names"},
            "params": [torch.zeros(1)],
        }
        for group in optimizer.param_groups
    ]
    return light(Optimizer)(groups, dict(optimizer.defaults))
