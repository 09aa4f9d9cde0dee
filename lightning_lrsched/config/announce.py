"""Telling once what "auto" and the durations of a configuration became: a table in the log, and hyperparameters."""

from __future__ import annotations

import logging
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.config.scheduler_config import SchedulerConfig


def announce_resolved(trainer: Any, config: SchedulerConfig, optimizer: Optimizer, index: int = 0) -> None:
    """Log the values that the run or the optimizer decided, and store them with the trainer's loggers.

    Args:
        trainer: the Trainer that is about to fit.
        config: the configuration as it was written.
        optimizer: the optimizer that it schedules.
        index: which of the module's optimizers that is.
    """
    if not config.needs_run and not config.needs_optimizer:
        return
    resolved = config.resolve(optimizer, trainer).to_dict()
    name = "lr_scheduler" if index == 0 else f"lr_scheduler_{index}"
    if trainer.is_global_zero:
        # A child of Lightning's own logger, which shows what it is told; the user's Trainer may be a subclass.
        homes = [cls.__module__ for cls in type(trainer).__mro__ if cls.__name__ == "Trainer"]
        logging.getLogger((homes or [__name__])[-1]).info("%s", resolution_table(config, resolved["params"]))
    for logger in trainer.loggers:
        logger.log_hyperparams({name: {"type": resolved["type"], **resolved["params"]}})


def resolution_table(config: SchedulerConfig, resolved: dict[str, Any]) -> str:
    """Return a plain-text table: what was written, what it became.

    >>> config = SchedulerConfig("WarmupLR", warmup_num_steps="auto", warmup_max_lr=0.1)
    >>> print(resolution_table(config, {"warmup_num_steps": 30, "warmup_max_lr": 0.1}))
    WarmupLR         | as written | in this run
    warmup_num_steps | auto       | 30
    """
    rows = [(config.type, "as written", "in this run")]
    rows += [(key, str(config.params[key]), str(resolved[key])) for key in config.needs_run + config.needs_optimizer]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a:<{widths[0]}} | {b:<{widths[1]}} | {c}" for a, b, c in rows)
