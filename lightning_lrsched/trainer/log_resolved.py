"""Telling once what a configuration became in this run: tables in the log, and hyperparameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import Sections, lr_of, type_and_params
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers.durations import is_auto


def announce_resolved(trainer: Any, config: SchedulerConfig, optimizer: Optimizer, index: int | None = None) -> None:
    """Log the values that the run or the optimizer decided, and store them with the trainer's loggers.

    Args:
        trainer: the Trainer that is about to fit; anything without loggers is told nothing.
        config: the configuration as it was written.
        optimizer: the optimizer that it schedules.
        index: which of the module's optimizers that is, where it has several.
    """
    written = {key: config.params[key] for key in config.needs_run + config.needs_optimizer}
    if not written or not hasattr(trainer, "loggers"):
        return
    resolved = config.resolve(optimizer, trainer).to_dict()
    table = resolution_table(config.type, written, resolved["params"])
    _log(trainer, f"Schedule of {_name(optimizer, index)}:\n{table}")
    name = f"lr_scheduler_{index}" if index else "lr_scheduler"
    _store(trainer, {name: {"type": resolved["type"], **resolved["params"]}})


def announce_optimizer(trainer: Any, section: Any, optimizer: Optimizer) -> None:
    """Log what ``"auto"`` became in the ``optimizer`` section that ``optimizer`` was made from, and store it."""
    _, params = type_and_params("optimizer", section)
    written = {key: value for key, value in params.items() if is_auto(value)}
    if written and hasattr(trainer, "loggers"):
        values = {key: optimizer.defaults[key] for key in written}
        resolved = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        _log(trainer, resolution_table(_name(optimizer), written, resolved))
        _store(trainer, {"optimizer": resolved})


def optimizer_section(given: Any) -> Any:
    """Return the ``optimizer`` section beside the schedule in what a user passed; None if there is none."""
    content = read_mapping(given) if isinstance(given, (str, Path)) else given
    return Sections.find(content).optimizer if isinstance(content, Mapping) else None


def announce_unused(trainer: Any, owner: str, section: Any, optimizer: Optimizer, index: int | None = None) -> None:
    """Log that ``owner`` leaves an ``optimizer`` section alone, whatever it holds; with both lrs where they differ."""
    lr = lr_of(section)
    own = dict.fromkeys(f"{float(group.get('initial_lr', group['lr'])):g}" for group in optimizer.param_groups)
    differs = lr is not None and list(own) != [f"{lr:g}"]
    lrs = f" (its lr is {' and '.join(own)}, the section's {lr:g})" if differs else ""
    _log(
        trainer,
        f"{owner}: the configuration's optimizer section is not used; the module's own {_name(optimizer, index)} is"
        f"{lrs}. To make the optimizer from the section, return lightning_lrsched.configure_optimizers(self, config)"
        " from the module's configure_optimizers, in place of this callback",
    )


def resolution_table(name: str, written: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """Return a plain-text table: what was written, what it became.

    >>> print(resolution_table("WarmupLR", {"warmup_num_steps": "auto"}, {"warmup_num_steps": 30}))
    WarmupLR         | as written | in this run
    warmup_num_steps | auto       | 30
    """
    rows = [(name, "as written", "in this run")]
    rows += [(key, str(value), str(resolved[key])) for key, value in written.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a:<{widths[0]}} | {b:<{widths[1]}} | {c}" for a, b, c in rows)


def _name(optimizer: Optimizer, index: int | None = None) -> str:
    name = type(optimizer).__name__
    return name if index is None else f"optimizer {index} ({name})"


def _log(trainer: Any, text: str) -> None:
    if trainer.is_global_zero:
        # A child of Lightning's own logger, which shows what it is told; the user's Trainer may be a subclass.
        homes = [cls.__module__ for cls in type(trainer).__mro__ if cls.__name__ == "Trainer"]
        logging.getLogger((homes or [__name__])[-1]).info("%s", text)


def _store(trainer: Any, hyperparameters: dict[str, Any]) -> None:
    for logger in trainer.loggers:
        logger.log_hyperparams(hyperparameters)
