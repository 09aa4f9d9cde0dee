"""Small optimizers, one small configuration of every schedule, and what several test files look at."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

from lightning_lrsched.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.base import ClosedFormLR

SMALL: dict[str, dict[str, Any]] = {
    "LRRangeTest": {"lr_range_test_min_lr": 0.5, "lr_range_test_step_size": 2},
    "OneCycle": {
        "cycle_min_lr": 0.1,
        "cycle_max_lr": 1.0,
        "cycle_first_step_size": 4,
        "decay_step_size": 4,
        "decay_lr_rate": 1.0,
        "decay_mom_rate": 0.01,
    },
    "WarmupLR": {"warmup_min_lr": 0.1, "warmup_max_lr": 1.0, "warmup_num_steps": 6},
    "WarmupDecayLR": {"total_num_steps": 12, "warmup_min_lr": 0.1, "warmup_max_lr": 1.0, "warmup_num_steps": 4},
    "WarmupCosineLR": {"total_num_steps": 12, "warmup_min_ratio": 0.1, "warmup_num_steps": 4},
}
"""A configuration of every schedule whose lr is another one at (nearly) every step of the first ten."""

NAMES = list(SCHEDULERS)


def small(name: str, optimizer: Optimizer, **changes: Any) -> ClosedFormLR:
    """Build the schedule ``name`` from its small configuration, with ``changes``."""
    return SCHEDULERS[name](optimizer, **{**SMALL[name], **changes})


def parameter() -> torch.Tensor:
    return torch.zeros(1, requires_grad=True)


def param_groups(lrs: list[Any]) -> list[dict[str, Any]]:
    return [{"params": [parameter()], "lr": lr} for lr in lrs]


def adamw(*lrs: Any, **options: Any) -> AdamW:
    """Return an AdamW with one param group for each of ``lrs``; one group with lr 0.1 if none is given."""
    return AdamW(param_groups(list(lrs) or [0.1]), **options)


def sgd(**options: Any) -> SGD:
    return SGD([parameter()], **{"lr": 0.1, "momentum": 0.9, **options})


def train_step(optimizer: Optimizer) -> None:
    """Let the optimizer really step."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def lrs(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def momenta(optimizer: Optimizer) -> list[float]:
    return [float(g["betas"][0] if "betas" in g else g["momentum"]) for g in optimizer.param_groups]


def snapshot(optimizer: Optimizer) -> list[Any]:
    """Return everything about the param groups and hooks that a refused scheduler could have changed."""
    groups = [
        [
            (key, id(value), value.clone() if isinstance(value, torch.Tensor) else repr(value))
            for key, value in g.items()
        ]
        for g in optimizer.param_groups
    ]
    hooks = [list(optimizer._optimizer_step_pre_hooks), list(optimizer._optimizer_step_post_hooks)]
    return [id(optimizer.param_groups), groups, hooks, "step" in vars(optimizer)]


class ThreeBetas(Optimizer):
    """An optimizer with a third beta, as Adan has; its step does nothing."""

    def __init__(self, params: Any, betas: tuple[float, float, float] = (0.98, 0.92, 0.99)) -> None:
        super().__init__(params, {"lr": 0.1, "betas": betas})

    def step(self, closure: Any = None) -> None:
        """Change nothing."""
