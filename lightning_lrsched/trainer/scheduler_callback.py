"""LRSchedulerCallback: add it to a Trainer, and lr and momentum follow a schedule, step by step."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers import SCHEDULERS, ClosedFormLR
from lightning_lrsched.trainer.protocol import callbacks_named
from lightning_lrsched.trainer.checkpoint import arrange, check_optimizers, mark
from lightning_lrsched.trainer.drivers import (
    refuse_second_schedulers,
    same_optimizer,
    warn_of_epoch_interval,
    warn_of_finetuning,
)
from lightning_lrsched.trainer.log_resolved import announce_resolved, announce_unused, optimizer_section
from lightning_lrsched.trainer.loggers import CurveLogger
from lightning_lrsched.trainer.rivals import refuse_rivals
from lightning_lrsched.trainer.trainer_facts import pick_optimizer, refuse_deepspeed

NEVER = sys.maxsize
"""[batches] Between two calls of ``step`` by Lightning."""

Scheduler = SchedulerConfig | Mapping[str, Any] | str | Path


class LRSchedulerCallback(Callback):
    """Schedules lr and momentum of a module's optimizer; the module itself needs no scheduler code.

    Before the first batch the schedule's first values are set; after every finished optimizer step the next ones. Not
    counted are accumulated micro-batches and steps that a gradient scaler skipped; under manual optimization each
    schedule counts its own optimizer's steps. The position is saved in Lightning's checkpoints and restored from them.

    On a resume the configuration in force now wins, and a warning shows what has changed. From a checkpoint that was
    saved without the schedule, it continues from the number of steps that the optimizer has counted itself, else (with
    one optimizer) from ``trainer.global_step``, and a warning says so; where neither tells it, give
    ``last_batch_iteration`` among the schedule's params. Param groups that are unfrozen during training have the
    schedule's values from then on.

    The curves go to every logger of the trainer under the tags of Lightning's LearningRateMonitor (``lr-SGD``,
    ``lr-SGD-momentum``, ``lr-SGD/pg1`` ...), against the optimizer step, every ``log_every_n_steps``. What a
    LearningRateMonitor of the same trainer logs already is not logged twice. TensorBoard's tab Custom Scalars shows the
    lr of all param groups in one chart and their momentum in another.

    Lengths may be given as a fraction of the run (0.1), in epochs (``"2ep"``) or as ``"auto"``: when training starts
    they become optimizer steps, which a table in the log tells and the loggers keep among the hyperparameters. A class
    of ``torch.optim.lr_scheduler`` is possible as type too; Lightning steps it after each of its own optimizer steps.
    An ``optimizer`` section beside the schedule is not used, which the log says; :func:`configure_optimizers` reads it.

    Args:
        scheduler: the schedule: a ``{"type", "params"}`` dictionary, the path of a JSON or YAML file, or a
            :class:`SchedulerConfig`; or a list of these, one for each of the module's optimizers (None: leave that
            optimizer alone).
        optimizer_index: which of several optimizers to schedule, counted from 0; needed when there are several and
            ``scheduler`` is not a list.
        log: send the lr and momentum curves to the trainer's loggers.
        capturable: turn lr and scheduled momentum into tensors, for an optimizer step that is compiled or captured in a
            CUDA graph; only for optimizers that have torch's option ``capturable``.

    Attributes:
        schedulers: the schedules of the current fit, in the order of ``scheduler``; after it those of the last one,
            which then follow their optimizers no longer.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the configuration is wrong (at construction); or, when training starts: if the module returns a
            scheduler for the same optimizer, if StochasticWeightAveraging, LearningRateFinder or DeepSpeedStrategy is
            in use, if a value depends on the length of a run that the Trainer does not know, if the optimizer cannot be
            made capturable; or, on a resume, if the checkpoint has another number of optimizers, of param groups or of
            the module's own schedulers.

    Example:
        >>> callback = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
        >>> callback.schedulers  # made when training starts
        []
    """

    def __init__(
        self,
        scheduler: Scheduler | Sequence[Scheduler | None],
        *,
        optimizer_index: int | None = None,
        log: bool = True,
        capturable: bool = False,
    ) -> None:
        super().__init__()
        several = isinstance(scheduler, Sequence) and not isinstance(scheduler, str)
        if several and optimizer_index is not None:
            raise ValueError("optimizer_index: not together with a list of schedulers, whose order says it")
        listed: list[Scheduler | None] = list(scheduler) if several else [scheduler]  # type: ignore[arg-type, list-item]
        self._configs = [None if item is None else SchedulerConfig.of(item) for item in listed]
        self._optimizer_sections = [optimizer_section(item) for item in listed]
        self._one_for_each = several
        self._optimizer_index = optimizer_index
        self._log = log
        self._capturable = capturable
        self._curves = CurveLogger()
        self._logged_steps: list[int] = []
        self._lrs_in_force: list[list[Any]] = []
        self.schedulers: list[LRScheduler] = []
        self._indices: list[int] = []
        self._attached = False
        self._checkpoint: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._checkpoint = None
        self._attached = False
        if stage == "fit":
            refuse_rivals(trainer, type(self).__name__)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Here the optimizers exist and their saved state is not yet restored: Lightning then restores ours as well.
        owner = type(self).__name__
        refuse_deepspeed(trainer, owner)
        self.schedulers, self._indices = [], []
        for index, config in self._targets(trainer):
            optimizer = trainer.optimizers[index]
            for other in trainer.lr_scheduler_configs:
                if same_optimizer(other.scheduler, optimizer):
                    raise ValueError(
                        f"{owner}: the module's configure_optimizers already returns a scheduler"
                        f" ({type(other.scheduler).__name__}) for optimizer {index}; keep that one or this callback"
                    )
            scheduler = config.build(optimizer, trainer, follow=True, capturable=self._capturable)
            self.schedulers.append(scheduler)
            self._indices.append(index)
            if not config.is_own and not pl_module.automatic_optimization:
                raise ValueError(
                    f"{owner}: under manual optimization Lightning never steps {config.type}, one of torch's own"
                    f" schedulers; use one of {', '.join(SCHEDULERS)}, which follow the optimizer themselves"
                )
            number = index if len(trainer.optimizers) > 1 else None
            announce_resolved(trainer, config, optimizer, number)
            section = self._optimizer_sections[index if self._one_for_each else 0]
            if section is not None:
                announce_unused(trainer, owner, section, optimizer, number)
            # Saved, restored and monitored by Lightning; a schedule that follows its optimizer need not be stepped too.
            frequency = NEVER if isinstance(scheduler, ClosedFormLR) else 1
            config_of_lightning = LRSchedulerConfig(scheduler, interval="step", frequency=frequency)
            trainer.strategy.lr_scheduler_configs.append(config_of_lightning)
        self._attached = True
        warn_of_epoch_interval(trainer)
        warn_of_finetuning(trainer, self.schedulers)
        self._arrange_checkpoint(trainer)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # Before on_fit_start; but with strategies that shard the optimizer, after it.
        self._checkpoint = checkpoint
        if self._attached:
            self._arrange_checkpoint(trainer)

    def _arrange_checkpoint(self, trainer: Any) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            groups_may_come = bool(callbacks_named(trainer, "BaseFinetuning"))
            check_optimizers(checkpoint, trainer.optimizers, groups_may_come=groups_may_come)
            own = dict(zip(self._indices, self.schedulers, strict=True))
            others = len(trainer.lr_scheduler_configs) - len(own)
            arrange(checkpoint, own, trainer.optimizers, others)

    def _targets(self, trainer: Any) -> list[tuple[int, SchedulerConfig]]:
        if not self._one_for_each:
            index, _ = pick_optimizer(trainer, self._optimizer_index, type(self).__name__)
            return [(index, config) for config in self._configs if config is not None]
        if len(self._configs) != len(trainer.optimizers):
            raise ValueError(
                f"scheduler lists {len(self._configs)} schedules,"
                f" but the module has {len(trainer.optimizers)} optimizers"
            )
        return [(index, config) for index, config in enumerate(self._configs) if config is not None]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        refuse_second_schedulers(trainer, self.schedulers, type(self).__name__)
        self._logged_steps = [scheduler.last_epoch for scheduler in self.schedulers]
        self._lrs_in_force = [scheduler.get_last_lr() for scheduler in self.schedulers]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            # Callbacks that unfreeze layers have added param groups, or set an lr, at the start of the epoch.
            for scheduler in self.schedulers:
                if isinstance(scheduler, ClosedFormLR):
                    scheduler.step(scheduler.last_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        every = trainer.log_every_n_steps
        for number, scheduler in enumerate(self.schedulers):
            finished, before = scheduler.last_epoch, self._logged_steps[number]
            if finished != before:
                self._logged_steps[number] = finished
                closed_form = isinstance(scheduler, ClosedFormLR)
                # Under manual optimization a batch may have made several steps, and passed a multiple in its middle.
                if self._log and every and finished // every > before // every:
                    # The values with which the step that has just finished, counted from 0, was made.
                    lrs = None if closed_form else self._lrs_in_force[number]
                    self._curves.add(trainer, scheduler, finished - 1, lrs)
                if not closed_form:
                    # torch's own cannot be asked for the lr of a step that is past.
                    self._lrs_in_force[number] = scheduler.get_last_lr()

    # Nothing that was logged waits longer than what it belongs to.

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._curves.flush(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._curves.flush(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._curves.flush(trainer)
        mark(checkpoint, dict(zip(self._indices, self.schedulers, strict=True)), trainer.lr_scheduler_configs)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._curves.flush(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._curves.flush(trainer)
        self._unfollow()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._unfollow()

    def _unfollow(self) -> None:
        """Give the optimizers back: a module may return the same ones for the next fit."""
        for scheduler in self.schedulers:
            if isinstance(scheduler, ClosedFormLR):
                scheduler.unfollow_optimizer()
