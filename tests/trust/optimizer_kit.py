"""A model with its loss, and the check that an optimizer is scheduled rightly at each of its steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lrsched import OneCycle

from .helpers import values_of

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
