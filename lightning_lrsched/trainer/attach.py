"""A schedule takes an optimizer and gives it back: the one way for the callback and for configure_optimizers."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, ref

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.durations import RunLength
from lightning_lrsched.trainer.protocol import TrainerLike

_ATTACHED: WeakKeyDictionary[Optimizer, tuple[ref[ClosedFormLR], int]] = WeakKeyDictionary()
"""The schedule that drives an optimizer, and the position at which it began."""


def attach(
    config: SchedulerConfig, optimizer: Optimizer, run: RunLength, *, follow: bool = True, capturable: bool = False
) -> LRScheduler:
    """Build the schedule for ``optimizer``, have it follow the optimizer's steps, and return it.

    A schedule that an earlier fit left behind gives the optimizer back. One that has not moved yet belongs to the
    present fit: two for one optimizer are refused.

    Args:
        config: the schedule.
        optimizer: the optimizer whose lr it sets.
        run: how long the run is.
        follow: advance with the optimizer's own steps; schedulers of torch's own never do.
        capturable: turn lr and scheduled momentum into tensors.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is wrong, or another schedule drives the optimizer.
    """
    earlier, moved = _attached_to(optimizer)
    if earlier is not None and not moved and follow and config.is_own:
        raise ValueError(
            f"{config.type} cannot follow this {type(optimizer).__name__}: {type(earlier).__name__} follows it already,"
            " and both would set its lr; keep one of them (or give the stepping back with unfollow_optimizer())"
        )
    scheduler = config.build(optimizer, run, capturable=capturable)
    release(optimizer)  # only now: a wrong configuration leaves the earlier one active
    if follow and isinstance(scheduler, ClosedFormLR):
        scheduler.follow_optimizer()
        _ATTACHED[optimizer] = ref(scheduler), scheduler.last_epoch
    return scheduler


def release(optimizer: Optimizer) -> None:
    """Detach the schedule of an earlier fit, if the module has kept its optimizer since."""
    earlier, moved = _attached_to(optimizer)
    if earlier is not None and moved:
        detach(earlier)


def detach(scheduler: LRScheduler) -> None:
    """Stop ``scheduler`` from following its optimizer."""
    if isinstance(scheduler, ClosedFormLR):
        scheduler.unfollow_optimizer()


def _attached_to(optimizer: Optimizer) -> tuple[ClosedFormLR | None, bool]:
    """Return the schedule that follows ``optimizer``, and whether it has moved since it was attached."""
    schedule, began_at = _ATTACHED.get(optimizer, (None, 0))
    attached = None if schedule is None else schedule()
    if attached is None or not attached.is_following:
        return None, False
    return attached, attached.last_epoch != began_at


def pick_optimizer(trainer: TrainerLike, index: int | None, owner: str) -> tuple[int, Optimizer]:
    """Return the index and the optimizer meant by ``optimizer_index``, which may be None when there is only one."""
    optimizers: list[Any] = trainer.optimizers
    # Lightning puts an optimizer without param groups where a module returns none.
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
