"""Small optimizers, one small configuration of every schedule, and the check that an optimizer is scheduled rightly."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.schedulers import SCHEDULERS, OneCycle

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
    "WarmupStableDecayLR": {
        "total_num_steps": 12,
        "warmup_min_lr": 0.1,
        "warmup_max_lr": 1.0,
        "warmup_num_steps": 4,
        "decay_num_steps": 7,
        "decay_min_lr": 0.05,
    },
    "PhasedLR": {
        "phases": [
            {"steps": 4, "lr": 1.0, "momentum": 0.8},
            {"steps": 3, "lr": 0.3, "shape": "cosine"},
            {"steps": 4, "lr": 0.1, "momentum": 0.9, "shape": "1-sqrt"},
        ],
        "start_lr": 0.1,
        "start_momentum": 0.9,
    },
}
"""A configuration of every schedule whose lr is another one at (nearly) every step of the first ten."""

# Two configurations as files have them.
ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 1.0, "cycle_first_step_size": 40, "decay_step_size": 10},
}
AUTO = {
    "train_batch_size": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "2e-4"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": "auto", "warmup_num_steps": "1ep", "warmup_max_lr": "auto"},
    },
}

NAMES = list(SCHEDULERS)


def small(name: str, optimizer: Optimizer, **changes: Any) -> ScheduledLR:
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


def values_of(optimizer: Any) -> list[tuple[float, float | None]]:
    """(lr, momentum or first beta) of each param group, as numbers."""
    momenta = [g["betas"][0] if g.get("betas") else g.get("momentum") for g in optimizer.param_groups]
    return [
        (float(group["lr"]), None if momentum is None else float(momentum))
        for group, momentum in zip(optimizer.param_groups, momenta, strict=True)
    ]


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


class Calls(TorchDispatchMode):
    """Counts the operations that reach torch; ``_local_scalar_dense`` is what reads a tensor back into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


# The check of an optimizer ------------------------------------------------------------------------------------------

LRS = {"cycle_min_lr": 1e-5, "cycle_max_lr": 1e-4, "cycle_first_step_size": 3}
STEPS = 8


class Task:
    """A model and its loss."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.inputs = torch.randn(16, 4)
        self.sparse = False

    @property
    def matrices(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.ndim == 2]

    @property
    def vectors(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.ndim != 2]

    def loss(self, *_: Any) -> Tensor:
        self.model.zero_grad()
        loss = nn.functional.mse_loss(self.model(self.inputs), self.inputs.sum(1, keepdim=True))
        loss.backward()
        if self.sparse:
            for p in self.model.parameters():
                p.grad = p.grad.to_sparse()
        return loss.detach()

    @torch.enable_grad()
    def outputs_and_loss(self) -> tuple[Tensor, Tensor]:
        return self.model(self.inputs), self.loss()


def other_betas(optimizer: Any) -> list[Any]:
    return [tuple(group["betas"])[1:] if group.get("betas") else None for group in optimizer.param_groups]


def check(optimizer: Any, step: Callable[[], Any], schedule: Any = None) -> OneCycle:
    """Take real steps; check lr, momentum and the betas after the first, before and after each of them."""
    betas = other_betas(optimizer)
    if schedule is None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="cycle_momentum has no effect")
            schedule = OneCycle(optimizer, **LRS)
    schedule.follow_optimizer()
    layers = [optimizer, *[getattr(optimizer, n) for n in ("optimizer", "base_optimizer") if hasattr(optimizer, n)]]
    for finished in range(STEPS):
        assert schedule.last_epoch == finished
        for layer in layers:
            assert [lr for lr, _ in values_of(layer)] == schedule.lr_at(finished)
            assert schedule.momentum_at(finished) in (None, [momentum for _, momentum in values_of(layer)])
        assert other_betas(optimizer) == betas
        step()
    return schedule
