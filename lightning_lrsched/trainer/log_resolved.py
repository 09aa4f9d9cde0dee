"""Logging the values that a configuration has in this run, and the section that is not used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import lr_of, type_and_params
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.config.trainer_arguments import trainer_arguments
from lightning_lrsched.schedulers.durations import STEPS, is_auto
from lightning_lrsched.schedulers.errors import ParameterError
from lightning_lrsched.trainer.protocol import TrainerLike

MAX_DIGITS = 8
"""A longer number was computed: six digits of it are shown."""


def log_schedule(trainer: Any, written: SchedulerConfig, resolved: SchedulerConfig, optimizer: str) -> None:
    """Log the values that depend on the run or on the optimizer, or that a range test has found.

    Args:
        trainer: the Trainer that is about to fit.
        written: the configuration as it was written.
        resolved: the same configuration with numbers.
        optimizer: name of the optimizer that it schedules.
    """
    keys = written.needs_range_test + written.needs_run + written.needs_optimizer
    if keys:
        as_written = {key: written.by_path()[1][key] for key in keys}
        name = written.type if written.unit == STEPS else f"{written.type} [{written.unit}s]"
        table = resolution_table(name, as_written, resolved.by_path()[1])
        log(trainer, f"Schedule of {optimizer}:\n{table}")


def log_optimizer(trainer: Any, section: Any, optimizer: Optimizer) -> dict[str, Any]:
    """Log the values of ``"auto"`` in the ``optimizer`` section that ``optimizer`` was made from, and return them."""
    _, params = type_and_params("optimizer", section)
    written = {key: value for key, value in params.items() if is_auto(value)}
    values = {key: optimizer.defaults[key] for key in written}
    resolved = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    if written:
        log(trainer, resolution_table(name_of(optimizer), written, resolved))
    return resolved


def log_unused(trainer: Any, owner: str, section: Any, optimizer: Optimizer, index: int | None = None) -> None:
    """Log that ``owner`` does not use an ``optimizer`` section, whatever it holds; with both lrs where they differ."""
    lr = lr_of(section)
    own = dict.fromkeys(f"{float(group.get('initial_lr', group['lr'])):g}" for group in optimizer.param_groups)
    differs = lr is not None and list(own) != [f"{lr:g}"]
    lrs = f" (its lr is {' and '.join(own)}, the section's {lr:g})" if differs else ""
    log(
        trainer,
        f"{owner}: the configuration's optimizer section is not used; the module's own {name_of(optimizer, index)} is"
        f"{lrs}. To make the optimizer from the section, return lightning_lrsched.configure_optimizers(self, config)"
        " from the module's configure_optimizers, in place of this callback",
    )


def log_trainer_arguments(trainer: TrainerLike, owner: str, config: Mapping[str, Any]) -> None:
    """Log which arguments of the Trainer the rest of a DeepSpeed configuration asks for, where it has others."""
    try:
        asked_for = trainer_arguments(config, world_size=trainer.world_size)
    except ParameterError as error:
        log(trainer, f"{owner}: the rest of the configuration cannot be used: {error}")
        return
    missing = {key: value for key, value in asked_for.items() if getattr(trainer, key) != value}
    if missing:
        listed = ", ".join(f"{key}={value!r}" for key, value in missing.items())
        log(
            trainer,
            f"{owner}: the configuration also asks for Trainer({listed}), which this Trainer does not have;"
            " lightning_lrsched.trainer_arguments(config) returns these arguments",
        )


def resolution_table(name: str, written: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """Return a plain-text table: each value as written, and in this run.

    >>> print(resolution_table("WarmupLR", {"warmup_num_steps": "auto"}, {"warmup_num_steps": 30}))
    WarmupLR         | as written | in this run
    warmup_num_steps | auto       | 30
    """
    rows = [(name, "as written", "in this run")]
    rows += [(key, str(value), _shown(resolved[key])) for key, value in written.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a:<{widths[0]}} | {b:<{widths[1]}} | {c}" for a, b, c in rows)


def _shown(value: Any) -> str:
    """Return ``value`` as text; of a number that was computed, as many digits as can mean something."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}" if isinstance(value, float) and len(str(value)) > MAX_DIGITS else str(value)


def name_of(optimizer: Optimizer, index: int | None = None) -> str:
    """Return how an optimizer is called in the log; with its index where a module has several."""
    name = type(optimizer).__name__
    return name if index is None else f"optimizer {index} ({name})"


def log(trainer: Any, text: str, level: int = logging.INFO) -> None:
    """Log ``text`` once, not on every rank, where Lightning logs: its logger has a handler that prints."""
    if getattr(trainer, "is_global_zero", False):
        # The user's Trainer may be a subclass.
        homes = [cls.__module__ for cls in type(trainer).__mro__ if cls.__name__ == "Trainer"]
        logging.getLogger((homes or [__name__])[-1]).log(level, "%s", text)
