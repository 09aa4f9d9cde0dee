"""Checks that nothing else sets the learning rate of a scheduled optimizer, before anything is written to it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.trainer.deepspeed import check_no_scheduler_section
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named

CALLBACKS_THAT_SET_LR = {
    "StochasticWeightAveraging": "WeightAveraging averages the weights without touching the lr",
    "LearningRateFinder": "LRRangeTestCallback finds an lr, in a fit of its own",
}
"""Class -> what to use with a schedule instead."""


def check_callbacks(trainer: Any, owner: str) -> None:
    """Raise ValueError where a callback or DeepSpeed's own config sets the lr too; to be called before any begins."""
    if callbacks_named(trainer, "LRRangeTestCallback"):
        return  # it disables all of them, the schedule too
    for name, instead in CALLBACKS_THAT_SET_LR.items():
        if callbacks_named(trainer, name):
            raise ValueError(f"{owner}: {name} sets the lr of the same optimizer; use only one of them ({instead})")
    check_no_scheduler_section(trainer, owner)


def check_optimizer(trainer: TrainerLike, index: int, owner: str) -> None:
    """Raise ValueError where a schedule of optimizer ``index`` would not be the only one."""
    ours = [schedule for callback in callbacks_named(trainer, owner) for schedule in callback.schedulers]
    for other in configs_of(trainer, trainer.optimizers[index]):
        name = type(other.scheduler).__name__
        if any(other.scheduler is schedule for schedule in ours):
            raise ValueError(
                f"{owner}: another {owner} of this Trainer already schedules optimizer {index} ({name}); keep one of"
                " them, or give each an optimizer_index of its own"
            )
        raise ValueError(
            f"{owner}: the module's configure_optimizers already returns a scheduler ({name}) for optimizer {index};"
            " keep that one or this callback"
        )


def check_second_schedulers(trainer: TrainerLike, schedulers: list[LRScheduler], owner: str) -> None:
    """Raise ValueError where another callback has attached a scheduler to the optimizer of one of these."""
    for scheduler in schedulers:
        for config in configs_of(trainer, scheduler.optimizer):
            if config.scheduler is not scheduler:
                index = [same_optimizer(scheduler, optimizer) for optimizer in trainer.optimizers].index(True)
                raise ValueError(
                    f"{owner}: a second scheduler ({type(config.scheduler).__name__}) has been attached to optimizer"
                    f" {index}, whose lr {type(scheduler).__name__} sets; keep one of them"
                )


def configs_of(trainer: TrainerLike, optimizer: Any) -> list[Any]:
    """Return those of the Trainer's schedulers that write the param groups of ``optimizer``."""
    return [config for config in trainer.lr_scheduler_configs if same_optimizer(config.scheduler, optimizer)]


def same_optimizer(scheduler: Any, optimizer: Any) -> bool:
    """Return whether ``scheduler`` writes the param groups of ``optimizer``, which may be a wrapper."""
    return scheduler.optimizer is optimizer or scheduler.optimizer.param_groups is optimizer.param_groups


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


def warn_of_finetuning(trainer: TrainerLike) -> None:
    """Warn where BackboneFinetuning sets an lr of the backbone that the schedule then replaces with its own."""
    if callbacks_named(trainer, "BackboneFinetuning"):
        rank_zero_warn(
            "BackboneFinetuning: once unfrozen, the backbone's lr is the schedule's like that of every param group; the"
            " callback's own settings of the backbone's lr have no effect, except with a schedule that scales each"
            " group's own lr (WarmupCosineLR, or warmup_max_lr: null)"
        )
