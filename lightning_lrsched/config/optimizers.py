"""configure_optimizers: an optimizer and its schedule from one DeepSpeed-style configuration, ready for Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers.checks import did_you_mean


def configure_optimizers(
    module_or_optimizer: Module | Optimizer, config: SchedulerConfig | Mapping[str, Any] | str | Path
) -> dict[str, Any]:
    """Return what a LightningModule's ``configure_optimizers`` returns, from a DeepSpeed-style configuration.

    The schedule follows the optimizer's real steps, so accumulation, skipped fp16 steps and manual optimization need no
    further care. Under Lightning's DeepSpeedStrategy, where DeepSpeed owns the optimizer, Lightning steps it instead.

    Args:
        module_or_optimizer: an optimizer, or a module: then ``config`` must hold an ``optimizer`` section too.
        config: a dictionary, or the path of a JSON or YAML file, with a ``scheduler`` section (or only such a section).

    Returns:
        ``{"optimizer": ..., "lr_scheduler": {"scheduler": ..., "interval": "step", "frequency": 1}}``

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a key is unknown or missing, or a value is out of range.

    Source:
        DeepSpeed 0.19.8, sections ``optimizer`` and ``scheduler`` of its configuration.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}
        >>> configured = configure_optimizers(optimizer, {"scheduler": section})
        >>> configured["lr_scheduler"]["interval"]
        'step'
    """
    if isinstance(config, (str, Path)):
        config = read_mapping(config)
    schedule = SchedulerConfig.of(config)
    if isinstance(module_or_optimizer, Optimizer):
        optimizer = module_or_optimizer
    elif isinstance(module_or_optimizer, Module):
        if isinstance(config, SchedulerConfig) or "optimizer" not in config:
            raise ValueError("no 'optimizer' section in the configuration: add one, or pass an optimizer, not a module")
        optimizer = build_optimizer(module_or_optimizer, config["optimizer"])
    else:
        raise TypeError(f"expected a module or an optimizer, got {type(module_or_optimizer).__name__}")
    scheduler = schedule.build(optimizer)
    if not _is_run_by_deepspeed(module_or_optimizer):
        scheduler.follow_optimizer()
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def build_optimizer(module: Module, section: Any) -> Optimizer:
    """Make the torch optimizer that a DeepSpeed ``optimizer`` section asks for, over all trainable parameters."""
    if not isinstance(section, Mapping) or "type" not in section:
        raise ValueError(f"optimizer must be a mapping with the keys type and params, got {section!r}")
    params = dict(section.get("params") or {})
    name = section["type"]
    # DeepSpeed's own names are case-insensitive, and its "Adam" decouples the weight decay unless told otherwise.
    if str(name).lower() in ("adam", "adamw"):
        name = "AdamW" if params.pop("adam_w_mode", True) or str(name).lower() == "adamw" else "Adam"
    known = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, Optimizer)]
    if name not in known:
        raise ValueError(
            f"optimizer.type must be one of {', '.join(sorted(known))}, got {name!r}{did_you_mean(name, known)}"
        )
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        optimizer: Optimizer = getattr(torch.optim, name)(trainable, **params)
    except (TypeError, ValueError) as error:
        raise type(error)(f"optimizer.params: {error}") from None
    return optimizer


def _is_run_by_deepspeed(module_or_optimizer: Module | Optimizer) -> bool:
    # ZeRO may call the inner optimizer's step once per param group: its steps cannot be counted by a hook.
    trainer = getattr(module_or_optimizer, "_trainer", None)
    strategy = getattr(trainer, "strategy", None)
    return any(cls.__name__ == "DeepSpeedStrategy" for cls in type(strategy).__mro__)
