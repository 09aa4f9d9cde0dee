"""configure_optimizers: an optimizer and its schedule from one DeepSpeed-style configuration, ready for Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import Sections
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.config.torch_optimizers import build_optimizer
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.trainer.protocol import is_a
from lightning_lrsched.trainer.log_resolved import announce_optimizer, announce_resolved
from lightning_lrsched.trainer.rivals import refuse_rivals

_SCHEDULES: WeakKeyDictionary[Optimizer, tuple[ref[ClosedFormLR], int]] = WeakKeyDictionary()
"""What an earlier call made for an optimizer, and where it began: a module may keep its optimizer for the next fit."""


def configure_optimizers(
    module_or_optimizer: Module | Optimizer,
    config: SchedulerConfig | Mapping[str, Any] | str | Path,
    *,
    params: Iterable[Any] | None = None,
    trainer: Any = None,
    capturable: bool = False,
) -> dict[str, Any]:
    """Return what a LightningModule's ``configure_optimizers`` returns, from a DeepSpeed-style configuration.

    The schedule follows the optimizer's real steps, so accumulation, skipped fp16 steps and manual optimization need no
    further care. A scheduler of torch's own is stepped by Lightning after every optimizer step that Lightning makes.
    Under Lightning's DeepSpeedStrategy, where DeepSpeed owns the optimizer, Lightning steps every schedule.

    What ``"auto"`` became in either section, a table in the log tells and the loggers keep among the hyperparameters.

    A later call for the same optimizer replaces the schedule of the earlier one, once that has made a step.

    Args:
        module_or_optimizer: an optimizer, or a module: then ``config`` must hold an ``optimizer`` section too.
        config: a dictionary, or the path of a JSON or YAML file, with a ``scheduler`` section (or only such a section).
            With an ``optimizer`` section but no scheduler, the optimizer alone is returned, as in DeepSpeed.
        params: parameters or param groups for the optimizer; None: what the module's ``param_groups()`` returns where
            it has such a method, else all its trainable parameters.
        trainer: the Trainer, for values such as ``"auto"``; None: the module's own.
        capturable: turn lr and scheduled momentum into tensors, for an optimizer step that is compiled or captured in a
            CUDA graph; only for optimizers that have torch's option ``capturable``.

    Returns:
        ``{"optimizer": ..., "lr_scheduler": {"scheduler": ..., "interval": "step", "frequency": 1}}``

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a key is unknown or missing, a value is out of range, the optimizer is not one of torch's, or it
            cannot be made capturable.

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
    try:
        return _configure(module_or_optimizer, config, params, trainer, capturable)
    except (TypeError, ValueError) as error:
        if not isinstance(config, (str, Path)) or str(error).startswith(str(config)):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{config}: {error}") from None


def _configure(
    target: Any, config: Any, params: Iterable[Any] | None, trainer: Any, capturable: bool
) -> dict[str, Any]:
    if not isinstance(target, (Module, Optimizer)):
        raise TypeError(f"expected a module or an optimizer, got {type(target).__name__}")
    content = read_mapping(config) if isinstance(config, (str, Path)) else config
    sections = Sections() if isinstance(content, SchedulerConfig) else Sections.find(content)
    schedule = None
    if isinstance(content, SchedulerConfig) or sections.scheduler is not None or sections.optimizer is None:
        schedule = SchedulerConfig.of(content)
    trainer = getattr(target, "_trainer", None) if trainer is None else trainer
    if isinstance(target, Optimizer):
        if params is not None:
            raise ValueError("params: only together with a module; an optimizer has its parameters already")
        optimizer = target
    elif sections.optimizer is None:
        raise ValueError("no 'optimizer' section in the configuration: add one, or pass an optimizer, not a module")
    else:
        optimizer = build_optimizer(target, sections.optimizer, params, sections.prefix)
        announce_optimizer(trainer, sections.optimizer, optimizer)
    if schedule is None:
        _unfollow_earlier(optimizer)
        return {"optimizer": optimizer}
    refuse_rivals(trainer, "configure_optimizers")
    scheduler = schedule.build(optimizer, trainer, capturable=capturable)
    _unfollow_earlier(optimizer)  # only now: a wrong configuration leaves it in charge
    if isinstance(scheduler, ClosedFormLR) and not _is_run_by_deepspeed(trainer):
        scheduler.follow_optimizer()
        _SCHEDULES[optimizer] = ref(scheduler), scheduler.last_epoch
    announce_resolved(trainer, schedule, optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def _unfollow_earlier(optimizer: Optimizer) -> None:
    earlier, began_at = _SCHEDULES.get(optimizer, (None, 0))
    schedule = None if earlier is None else earlier()
    # One that has not moved yet may be returned together with the new one: two for one optimizer, which are refused.
    if schedule is not None and schedule.last_epoch != began_at:
        schedule.unfollow_optimizer()


def _is_run_by_deepspeed(trainer: Any) -> bool:
    # ZeRO may call the inner optimizer's step once per param group: its steps cannot be counted by a hook.
    return is_a(getattr(trainer, "strategy", None), "DeepSpeedStrategy")
