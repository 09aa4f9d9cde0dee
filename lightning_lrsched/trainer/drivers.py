"""Who else sets a learning rate in a Trainer: found before training starts, and told."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.trainer.protocol import callbacks_named


def refuse_second_schedulers(trainer: Any, schedulers: list[LRScheduler], owner: str) -> None:
    """Raise ValueError where another scheduler of the trainer has the optimizer of one of these."""
    for config in trainer.lr_scheduler_configs:
        for scheduler in schedulers:
            if config.scheduler is not scheduler and same_optimizer(config.scheduler, scheduler.optimizer):
                index = [same_optimizer(scheduler, optimizer) for optimizer in trainer.optimizers].index(True)
                raise ValueError(
                    f"{owner}: a second scheduler ({type(config.scheduler).__name__}) has been attached to optimizer"
                    f" {index}, whose lr {type(scheduler).__name__} sets; keep one of them"
                )


def same_optimizer(scheduler: Any, optimizer: Any) -> bool:
    """Tell whether ``scheduler`` writes the param groups of ``optimizer``, be it the wrapper or the wrapped one."""
    return scheduler.optimizer is optimizer or scheduler.optimizer.param_groups is optimizer.param_groups


def warn_of_epoch_interval(trainer: Any) -> None:
    """Warn where Lightning steps one of our schedules, which count optimizer steps, once an epoch."""
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if isinstance(scheduler, ClosedFormLR) and not scheduler.is_following and config.interval == "epoch":
            rank_zero_warn(
                f"{type(scheduler).__name__} counts optimizer steps, but the module has it stepped once an epoch"
                " (interval 'epoch', Lightning's default); return {'scheduler': ..., 'interval': 'step'}, or what"
                " lightning_lrsched.configure_optimizers returns"
            )


def warn_of_finetuning(trainer: Any, schedulers: list[LRScheduler]) -> None:
    """Warn where BackboneFinetuning sets an lr of the backbone that the schedule then replaces by its own."""
    if schedulers and callbacks_named(trainer, "BackboneFinetuning"):
        rank_zero_warn(
            "BackboneFinetuning: once unfrozen, the backbone's lr is the schedule's like that of every param group; the"
            " callback's own settings of the backbone's lr have no effect, except with a schedule that scales each"
            " group's own lr (WarmupCosineLR, or warmup_max_lr: null)"
        )
