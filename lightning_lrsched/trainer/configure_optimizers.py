"""configure_optimizers: an optimizer and its schedule from one DeepSpeed-style configuration, ready for Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import Sections, type_and_params
from lightning_lrsched.config.optimizers import build_optimizer, group_lines
from lightning_lrsched.config.scheduler_config import SchedulerConfig, in_file, read_content
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.schedules.errors import ParameterValueError
from lightning_lrsched.schedules.length import STEPS, is_word
from lightning_lrsched.trainer.attach import Scheduled, Written, release
from lightning_lrsched.trainer.conflicts import check_callbacks
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.horizon import horizon_of
from lightning_lrsched.trainer.reporting import (
    EndReport,
    RunReport,
    log,
    log_trainer_arguments,
    name_of,
    resolution_table,
)


def configure_optimizers(
    module_or_optimizer: Module | Optimizer,
    config: SchedulerConfig | Mapping[str, Any] | str | Path,
    *,
    params: Iterable[Any] | None = None,
    trainer: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a LightningModule's ``configure_optimizers`` returns, from a DeepSpeed-style configuration.

    The schedule follows the optimizer's actual steps, so accumulation, skipped fp16 steps and manual optimization need
    no special treatment. A scheduler of torch's own is stepped by Lightning after every optimizer step that Lightning
    makes. Under Lightning's DeepSpeedStrategy, where DeepSpeed owns the optimizer, both follow the steps that DeepSpeed
    applies; pass the module, or ``trainer``, so that the strategy is known.

    The values of ``"auto"`` in either section are logged as a table. The loggers store the schedule's numbers among the
    hyperparameters, and a line in the log reports a schedule whose length does not fit the run.

    A later call for the same optimizer replaces the schedule of the earlier one, once that has made a step.

    Args:
        module_or_optimizer: an optimizer, or a module: then ``config`` must hold an ``optimizer`` section too.
        config: a dictionary, or the path of a JSON or YAML file, with a ``scheduler`` section (or only such a section).
            With an ``optimizer`` section but no scheduler, the optimizer alone is returned, as in DeepSpeed. In the
            ``optimizer`` section, ``groups`` sorts the trainable parameters into param groups by patterns over their
            names (``[{"match": "*.bias", "weight_decay": 0.0}, {"match": "backbone.*", "lr_ratio": 0.1}]``; the first
            match counts), and ``layer_decay`` is the factor from the lr of a block to that of the block below it.
        params: parameters or param groups for the optimizer; None: what the module's ``param_groups()`` returns where
            it has such a method, else all its trainable parameters.
        trainer: the Trainer, for values such as ``"auto"``; None: the module's own.
        hyperparameters: other numbers in the optimizer's param groups that go beside the schedule, such as
            ``{"weight_decay": {"follows": "lr"}}``; the same as the key ``hyperparameters`` in the schedule's params.

    Returns:
        ``{"optimizer": ..., "lr_scheduler": {"scheduler": ..., "interval": "step", "frequency": 1}}``

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a key is unknown or missing, a value is out of range, or the optimizer is not one of torch's.

    Source:
        DeepSpeed 0.19.8, sections ``optimizer`` and ``scheduler`` of its configuration.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}
        >>> configured = configure_optimizers(optimizer, {"scheduler": section})
        >>> configured["lr_scheduler"]["interval"]
        'step'
        >>> config = {"optimizer": {"type": "Adam", "params": {"lr": 0.1}}, "scheduler": section}
        >>> type(configure_optimizers(torch.nn.Linear(1, 1), config)["optimizer"]).__name__
        'AdamW'
    """
    content = config if isinstance(config, SchedulerConfig) else read_content(config)
    with in_file(config):
        return _configure(module_or_optimizer, content, params, trainer, hyperparameters)


def _configure(
    target: Any, content: Any, params: Iterable[Any] | None, trainer: Any, hyperparameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    if not isinstance(target, (Module, Optimizer)):
        raise TypeError(f"expected a module or an optimizer, got {type(target).__name__}")
    sections = Sections() if isinstance(content, SchedulerConfig) else Sections.find(content)
    schedule = None
    if isinstance(content, SchedulerConfig) or sections.scheduler is not None or sections.optimizer is None:
        schedule = _schedule(content, hyperparameters)
    elif hyperparameters is not None:
        raise ValueError("hyperparameters: they go beside a schedule; add a 'scheduler' section")
    trainer = getattr(target, "_trainer", None) if trainer is None else trainer
    report = RunReport.join(trainer)
    optimizer = _optimizer(target, sections, params, trainer, report, scheduled=schedule is not None)
    if schedule is None:
        release(optimizer)
        return {"optimizer": optimizer}
    check_callbacks(trainer, "configure_optimizers")
    if report is not None and not isinstance(content, SchedulerConfig):
        log_trainer_arguments(trainer, "configure_optimizers", content)
    scheduled = Scheduled(Written(schedule), 0 if report is None else len(report.schedules), optimizer)

    def make() -> ScheduledLR:
        scheduled.run = horizon_of(trainer if schedule.needs_run else None)
        scheduled.build(schedule, optimizer, clock_of(trainer))
        if report is not None:
            report.add(trainer, scheduled)
        return scheduled.schedule

    if report is not None:
        EndReport.join(trainer, scheduled)
    clock = clock_of(trainer)
    scheduler = clock.build(trainer, optimizer, make, needs_run=bool(schedule.needs_run))
    entry = {"scheduler": scheduler, "interval": "step", "frequency": 1}  # calls of its step() change nothing
    return {"optimizer": optimizer, "lr_scheduler": entry}


def _schedule(content: Any, hyperparameters: Mapping[str, Any] | None) -> SchedulerConfig:
    schedule = SchedulerConfig.of(content)
    if schedule.unit != STEPS:
        raise ParameterValueError(
            "scheduler.unit",
            f'="{schedule.unit}" needs LRSchedulerCallback, which sees the batches; configure_optimizers knows the'
            " optimizer's steps only",
        )
    return schedule if hyperparameters is None else schedule.beside(hyperparameters)


def _optimizer(
    target: Any,
    sections: Sections,
    params: Iterable[Any] | None,
    trainer: Any,
    report: RunReport | None,
    *,
    scheduled: bool,
) -> Optimizer:
    if isinstance(target, Optimizer):
        if params is not None:
            raise ValueError("params: only together with a module; an optimizer has its parameters already")
        return target
    if sections.optimizer is None:
        raise ValueError("no 'optimizer' section in the configuration: add one, or pass an optimizer, not a module")
    optimizer = build_optimizer(target, sections.optimizer, params, sections.prefix, scheduled=scheduled)
    if report is not None and {"groups", "layer_decay"} & set(sections.optimizer):
        log(trainer, f"Param groups of {name_of(optimizer)}:\n  " + "\n  ".join(group_lines(optimizer)))
    _, written = type_and_params("optimizer", sections.optimizer)
    auto = {key: value for key, value in written.items() if is_word(value, "auto")}
    if auto and report is not None:
        defaults = {key: optimizer.defaults[key] for key in auto}
        resolved = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
        log(trainer, resolution_table(name_of(optimizer), auto, resolved))
        report.add_hyperparameters(trainer, "optimizer", resolved)
    return optimizer
