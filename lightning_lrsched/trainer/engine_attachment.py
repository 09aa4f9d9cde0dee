"""A scheduler from configure_optimizers under DeepSpeedStrategy: it gets its clock when there is an engine."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.param_groups import torch_optimizer
from lightning_lrsched.trainer.deepspeed_engine import engine_of, follow_engine, uses_engine
from lightning_lrsched.trainer.protocol import TrainerLike


def build_for_trainer(
    trainer: Any, optimizer: Any, build: Callable[[], LRScheduler], *, needs_run: bool = False
) -> LRScheduler:
    """Return what ``build`` makes in ``configure_optimizers``; under DeepSpeedStrategy it will follow the engine."""
    if not uses_engine(trainer):
        return build()
    attachment = EngineAttachment(optimizer, build, needs_run=needs_run)
    trainer.callbacks.append(attachment)
    return attachment.scheduler


class EngineAttachment(Callback):
    """Has a scheduler from the module's ``configure_optimizers`` follow the engine, which is made from it only then.

    It is added after all other callbacks of the Trainer, and removes itself when training starts.

    Args:
        optimizer: the module's.
        build: makes the scheduler for that optimizer.
        needs_run: make it again once a checkpoint is loaded, which DeepSpeed does late, for its lengths depend on that.
    """

    def __init__(self, optimizer: Any, build: Callable[[], LRScheduler], *, needs_run: bool) -> None:
        super().__init__()
        self._optimizer, self._build, self._needs_run = optimizer, build, needs_run
        self._own_values = [_lr_and_momentum(group) for group in optimizer.param_groups]
        self.scheduler = build()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        engine = engine_of(trainer)
        if not self._is_in_use(trainer):  # an LR range test has taken its place
            return
        inner = torch_optimizer(engine.optimizer) if engine is not None else None
        if inner is not self._optimizer or len(inner.param_groups) != len(self._own_values):
            raise ValueError(
                f"{type(self.scheduler).__name__} was made for the {type(self._optimizer).__name__} that the module"
                f" returned, but DeepSpeed trains with another one ({type(inner).__name__} of"
                f" {len(inner.param_groups) if inner is not None else 0} param groups): use LRSchedulerCallback, which"
                " takes the engine's own, or return no param group without parameters"
            )
        follow_engine(self.scheduler, engine)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        engine = engine_of(trainer)
        if engine is None or not self._needs_run or not self._is_in_use(trainer):
            return
        earlier = self.scheduler
        if isinstance(earlier, ClosedFormLR):
            earlier.unfollow_optimizer()
        for group, values in zip(self._optimizer.param_groups, self._own_values, strict=True):
            group.pop("initial_lr", None)
            group.update(deepcopy(values))
        self.scheduler = self._build()
        for config in trainer.lr_scheduler_configs:
            if config.scheduler is earlier:
                config.scheduler = self.scheduler
        follow_engine(self.scheduler, engine)

    def _is_in_use(self, trainer: TrainerLike) -> bool:
        return any(config.scheduler is self.scheduler for config in trainer.lr_scheduler_configs)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._leave(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._leave(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._leave(trainer)  # if there was nothing to train

    def _leave(self, trainer: TrainerLike) -> None:
        # A new list: Lightning iterates over the present one.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]


def _lr_and_momentum(group: dict[str, Any]) -> dict[str, Any]:
    return {key: deepcopy(group[key]) for key in ("lr", "initial_lr", "momentum", "betas") if key in group}
