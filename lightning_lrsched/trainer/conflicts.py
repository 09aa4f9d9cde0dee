"""Checks that nothing else sets the learning rate of a scheduled optimizer, before anything is written to it."""

from __future__ import annotations

import math
import os

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.files import VARIABLE
from lightning_lrsched.optim.hyperparameters import LR, MOMENTUM, read_number, write
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.trainer.attach import NEVER, Idle, detach, ignore
from lightning_lrsched.trainer.deepspeed import check_no_scheduler_section
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, is_a

CALLBACKS_THAT_SET_LR = {
    "StochasticWeightAveraging": "WeightAveraging averages the weights without touching the lr",
    "LearningRateFinder": "LRRangeTestCallback finds an lr, in a fit of its own",
}
"""Class -> what to use with a schedule instead."""


def check_callbacks(trainer: TrainerLike | None, owner: str) -> None:
    """Raise ValueError where a callback or DeepSpeed's own config sets the lr too; to be called before any begins."""
    if callbacks_named(trainer, "LRRangeTestCallback"):
        return  # it disables all of them, the schedule too
    if os.environ.get(VARIABLE) and len(callbacks_named(trainer, "LRSchedulerCallback")) > 1:
        raise ValueError(
            f"{owner}: this Trainer has an LRSchedulerCallback of its own, and the environment variable {VARIABLE} has"
            " added another; unset the variable, or leave the Trainer's own callback out"
        )
    for other in callbacks_named(trainer, *CALLBACKS_THAT_SET_LR):
        name, instead = next(each for each in CALLBACKS_THAT_SET_LR.items() if is_a(other, each[0]))
        raise ValueError(f"{owner}: {name} sets the lr of the same optimizer; use only one of them ({instead})")
    check_no_scheduler_section(trainer, owner)


def check_optimizer(trainer: TrainerLike, index: int, owner: str, *, take_over: bool) -> None:
    """Raise ValueError where a schedule of optimizer ``index`` would not be the only one."""
    ours = [schedule for callback in callbacks_named(trainer, owner) for schedule in callback.schedulers]
    for other in configs_of(trainer, trainer.optimizers[index]):
        name = _name_of(other)
        if any(other.scheduler is schedule for schedule in ours):
            named = "" if isinstance(other.scheduler, Idle) else f" ({name})"
            raise ValueError(
                f"{owner}: another {owner} of this Trainer already schedules optimizer {index}{named}; keep one of"
                " them, or give each an optimizer_index of its own"
            )
        if not take_over:
            added = f" (unset {VARIABLE}, which has added it)" if os.environ.get(VARIABLE) else ""
            raise ValueError(
                f"{owner}: the module's configure_optimizers already returns a scheduler ({name}) for optimizer"
                f" {index}; write {owner}(..., take_over=True) to use this schedule in its place, or leave this"
                f" callback out{added}"
            )


def take_over(trainer: TrainerLike, index: int) -> tuple[Idle | None, str]:
    """Put idle schedulers in the place of those that the module has returned for an optimizer.

    The module may ask for them, and step them: their number and order stay, and what steps them changes nothing.

    Returns:
        The first of the idle ones, None where the module has returned none; and the names of those that are dropped.
    """
    optimizer, found = trainer.optimizers[index], None
    configs, dropped = trainer.strategy.lr_scheduler_configs, configs_of(trainer, optimizer)
    for config in dropped:
        _put_back(optimizer, config.scheduler)
        idle = Idle(optimizer)
        found = found or idle
        configs[configs.index(config)] = LRSchedulerConfig(idle, interval="step", frequency=NEVER, name=config.name)
    return found, " and ".join(map(_name_of, dropped))


def _put_back(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Give an optimizer back what a scheduler that is dropped has changed, and let its ``step`` do nothing."""
    detach(scheduler)
    scheduler.step = ignore  # type: ignore[method-assign]
    cycles = is_a(scheduler, "OneCycleLR", "CyclicLR")  # these replace the own lr, too
    momentum = read_number(MOMENTUM, optimizer.defaults)
    for group in optimizer.param_groups:
        if cycles:
            group["initial_lr"] = optimizer.defaults["lr"]
        if momentum is not None and (cycles or isinstance(scheduler, ScheduledLR)):
            write(MOMENTUM, group, momentum)
        if group.get("initial_lr") is not None:
            write(LR, group, float(group["initial_lr"]))


def _name_of(config: LRSchedulerConfig) -> str:
    name = getattr(config.scheduler, "name", type(config.scheduler).__name__)
    return f"{name} (monitor {config.monitor!r})" if config.monitor else name


def check_second_schedulers(trainer: TrainerLike, schedulers: list[LRScheduler], owner: str) -> None:
    """Raise ValueError where another callback has attached a scheduler to the optimizer of one of these."""
    for scheduler in schedulers:
        for config in configs_of(trainer, scheduler.optimizer):
            if config.scheduler is not scheduler and not isinstance(config.scheduler, Idle):
                index = [same_optimizer(scheduler, optimizer) for optimizer in trainer.optimizers].index(True)
                raise ValueError(
                    f"{owner}: a second scheduler ({type(config.scheduler).__name__}) has been attached to optimizer"
                    f" {index}, whose lr {type(scheduler).__name__} sets; keep one of them"
                )


def configs_of(trainer: TrainerLike, optimizer: Optimizer) -> list[LRSchedulerConfig]:
    """Return those of the Trainer's schedulers that write the param groups of ``optimizer``."""
    return [config for config in trainer.lr_scheduler_configs if same_optimizer(config.scheduler, optimizer)]


def same_optimizer(scheduler: LRScheduler, optimizer: Optimizer) -> bool:
    """Return whether ``scheduler`` writes the param groups of ``optimizer``, which may be a wrapper."""
    return scheduler.optimizer is optimizer or scheduler.optimizer.param_groups is optimizer.param_groups


def other_lr(schedule: ScheduledLR, optimizer: Optimizer) -> tuple[int, float, float] | None:
    """Return the first param group, counted from 1, whose lr is not its schedule's, with both; None: there is none."""
    for number, (group, own) in enumerate(
        zip(optimizer.param_groups, schedule.lr_at(schedule.last_epoch), strict=False), 1
    ):
        held = group[LR]
        # To compare a tensor on a device, the host would have to wait for it; others are of lower precision.
        if isinstance(held, Tensor):
            differs = held.device.type == "cpu" and not math.isclose(float(held), own, rel_tol=1e-2)
        else:
            differs = held != own
        if differs:
            return number, float(held), own
    return None


def warn_of_epoch_interval(trainer: TrainerLike) -> None:
    """Warn where Lightning steps one of our schedules, which count optimizer steps, once an epoch."""
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if isinstance(scheduler, ScheduledLR) and not scheduler.is_following and config.interval == "epoch":
            rank_zero_warn(
                f"{type(scheduler).__name__} counts optimizer steps, but the module has it stepped once an epoch"
                " (interval 'epoch', Lightning's default); return {'scheduler': ..., 'interval': 'step'}, or what"
                " lightning_lrsched.configure_optimizers returns"
            )
