"""Other ways to a learning rate, each as its authors document it: finders, and optimizers that need none.

Each function takes a task's name and a seed, and makes its own training from them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from tasks import Task, TaskModule, Values, make_task, sweep, train
from torch import nn
from torch.optim import Optimizer

FAILED: Values = {"loss": math.inf, "error": math.inf}

LIGHTNING_STEPS = 100
FASTAI_STEPS = 100
WARMUP_SHARE = 0.05
"""Of schedule-free optimizers: https://github.com/facebookresearch/schedule_free recommends 5 %."""

PRECISE_BATCHES = 50
"""Forward passes by which batch norms learn their statistics at the weights that a schedule-free optimizer returns."""


# Lightning ------------------------------------------------------------------------------------------------------------


def lightning_finder(name: str, seed: int) -> float | None:
    """Return what ``Tuner.lr_find`` suggests, with its defaults."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.tuner import Tuner

    trainer = Trainer(
        max_steps=10**6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    finder = Tuner(trainer).lr_find(TaskModule(make_task(name, seed)), update_attr=False)
    return finder.suggestion() if finder else None


def train_at(name: str, seed: int, lr: float | None) -> Values:
    return FAILED if lr is None else train(make_task(name, seed), lr)


# fastai: its finder and its rules, from their definitions (fastai 2, callback.schedule) -------------------------------


def fastai_suggestions(name: str, seed: int) -> dict[str, float]:
    lrs = [1e-7 * 1e8 ** (step / FASTAI_STEPS) for step in range(FASTAI_STEPS + 1)]
    losses = sweep(make_task(name, seed), lrs)
    smoothed, total, best = [], 0.0, math.inf
    for count, loss in enumerate(losses, start=1):
        total = 0.98 * total + 0.02 * loss
        smoothed.append(total / (1 - 0.98**count))
        best = min(best, smoothed[-1])
        if smoothed[-1] > 4 * best:
            break
    x, y = np.array(lrs[: len(smoothed)])[10:-5], np.array(smoothed)[10:-5]
    finite = np.cumprod(np.isfinite(y)).astype(bool)
    x, y = x[finite], y[finite]
    return {"valley": _fastai_valley(x, y), "minimum": float(x[y.argmin()]) / 10}


def _fastai_valley(lrs: Any, losses: Any) -> float:
    """Two thirds (in whole steps) into the longest falling subsequence."""
    length, start, end = [1] * len(losses), 0, 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[i] < length[j] + 1:
                length[i] = length[j] + 1
            if length[end] < length[i]:
                end = i
                start = end - length[end]
    third = (end - start) / 3
    return float(lrs[start + int(third) + int(third / 2)])


class FastaiCycle:
    """fit_one_cycle: cosine from top / 25 up in 25 %, down to top / 1e5; momentum 0.95 -> 0.85 -> 0.95."""

    def __init__(self, optimizer: Optimizer, top: float, steps: int) -> None:
        self.optimizer, self.top, self.steps, self.step_count = optimizer, top, steps, -1
        self.step()

    def step(self) -> None:
        self.step_count += 1
        done, top = min(1.0, self.step_count / self.steps), self.top
        if done < 0.25:
            part, lrs, momenta = done / 0.25, (top / 25, top), (0.95, 0.85)
        else:
            part, lrs, momenta = (done - 0.25) / 0.75, (top, top / 1e5), (0.85, 0.95)
        weight = (1 - math.cos(math.pi * part)) / 2
        momentum = momenta[0] + weight * (momenta[1] - momenta[0])
        for group in self.optimizer.param_groups:
            group["lr"] = lrs[0] + weight * (lrs[1] - lrs[0])
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif group.get("momentum"):
                group["momentum"] = momentum


def fastai_cycle(name: str, seed: int, top: float) -> Values:
    task = make_task(name, seed)
    return train(task, top, lambda optimizer: FastaiCycle(optimizer, top, task.num_steps))


# Optimizers that need no lr -------------------------------------------------------------------------------------------


def without_lr(kind: str, name: str, seed: int) -> Values:
    """Train with Prodigy or D-Adaptation at lr 1 and cosine annealing, or schedule-free with warmup."""
    task = make_task(name, seed)
    own = task.optimizer(1.0)
    is_sgd = isinstance(own, torch.optim.SGD)
    optimizer = _make(kind, task, is_sgd=is_sgd, decay=float(own.defaults.get("weight_decay") or 0.0))
    if kind != "schedule-free":
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        return train(task, 1.0, lambda optimizer: cosine(optimizer, task.num_steps), optimizer)
    optimizer.train()
    train(task, 1.0, optimizer=optimizer)
    optimizer.eval()
    if any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in task.model.modules()):
        with torch.no_grad():
            for inputs, _ in task.batches(PRECISE_BATCHES):
                task.model(inputs)
    return task.validate()


def _make(kind: str, task: Task, *, is_sgd: bool, decay: float) -> Any:
    import pytorch_optimizer as others

    parameters, decay_options = task.model.parameters(), {"weight_decay": decay, "weight_decouple": not is_sgd}
    if kind == "Prodigy":
        return others.Prodigy(parameters, lr=1.0, **decay_options)
    if kind == "D-Adaptation":
        return (others.DAdaptSGD if is_sgd else others.DAdaptAdam)(parameters, lr=1.0, **decay_options)
    warmup = round(WARMUP_SHARE * task.num_steps)
    make = others.ScheduleFreeSGD if is_sgd else others.ScheduleFreeAdamW
    return make(parameters, weight_decay=decay, warmup_steps=warmup)
