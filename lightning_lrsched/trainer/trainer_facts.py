"""What the callbacks ask a Trainer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.trainer.protocol import is_a


def pick_optimizer(trainer: Any, index: int | None, owner: str) -> tuple[int, Optimizer]:
    """Return the index and the optimizer meant by ``optimizer_index``, which may be None when there is only one."""
    optimizers = trainer.optimizers
    # Lightning puts a stand-in without param groups where a module returns no optimizer.
    if not any(optimizer.param_groups for optimizer in optimizers):
        raise ValueError(f"{owner}: the module's configure_optimizers returned no optimizer")
    if index is None:
        if len(optimizers) > 1:
            raise ValueError(
                f"{owner}: the module has {len(optimizers)} optimizers; say which one with"
                f" optimizer_index=0..{len(optimizers) - 1}, or give a list with one scheduler for each"
            )
        index = 0
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(optimizers):
        raise ValueError(f"{owner}: optimizer_index must be 0..{len(optimizers) - 1}, got {index!r}")
    return index, optimizers[index]


def refuse_deepspeed(trainer: Any, owner: str) -> None:
    """Raise where DeepSpeed owns the optimizer and its steps cannot be followed."""
    if is_a(trainer.strategy, "DeepSpeedStrategy"):
        raise ValueError(
            f"{owner} cannot follow the optimizer under DeepSpeedStrategy, because DeepSpeed wraps it; instead,"
            " return lightning_lrsched.configure_optimizers(self, config) from the module's configure_optimizers"
        )


def curve_tags(trainer: Any) -> dict[int, list[str]]:
    """Return the tags under which LearningRateMonitor logs each scheduled optimizer's groups, by ``id(optimizer)``."""
    tags: dict[int, list[str]] = {}
    seen: Counter[type] = Counter()
    for config in trainer.lr_scheduler_configs:
        optimizer = config.scheduler.optimizer
        if config.name is None:
            seen[type(optimizer)] += 1
        name = config.name or f"lr-{type(optimizer).__name__}"
        repeated = seen[type(optimizer)]
        prefix = f"{name}-{repeated - 1}" if repeated > 1 else name
        tags[id(optimizer)] = _group_tags(prefix, optimizer.param_groups)
    return tags


def _group_tags(prefix: str, groups: list[dict[str, Any]]) -> list[str]:
    if len(groups) == 1:
        return [f"{prefix}/{groups[0]['name']}" if groups[0].get("name") else prefix]
    return [f"{prefix}/{group.get('name', f'pg{number}')}" for number, group in enumerate(groups, start=1)]
