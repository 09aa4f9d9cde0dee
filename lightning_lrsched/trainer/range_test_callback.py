"""LRRangeTestCallback: one fit that finds a learning rate, and leaves no other trace."""

from __future__ import annotations

import math
import warnings
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor

from lightning_lrsched.range_test.divergence import DIVERGENCE_FACTOR, SETTLING_LOSSES, Divergence
from lightning_lrsched.range_test.growth import Growth
from lightning_lrsched.range_test.record import LossRecord
from lightning_lrsched.range_test.result import RangeTestResult
from lightning_lrsched.range_test.smoothing import DEFAULT_SMOOTHING
from lightning_lrsched.range_test.step_loss import StepLoss
from lightning_lrsched.schedulers import ClosedFormLR, LRRangeTest
from lightning_lrsched.schedulers.checks import did_you_mean, number
from lightning_lrsched.schedulers.param_groups import has_momentum, momentum_key
from lightning_lrsched.trainer.attach import pick_optimizer
from lightning_lrsched.trainer.conflicts import check_strategy, same_optimizer
from lightning_lrsched.trainer.range_test_board import show_result, show_row
from lightning_lrsched.trainer.run_length import run_length_of
from lightning_lrsched.trainer.scheduler_callback import NEVER
from lightning_lrsched.trainer.snapshot import TrainerSnapshot

SETTLING_VALIDATIONS = 3
"""A validation loss is a mean over many batches, and there are few of them."""

MOST_SKIPPED_STEPS = 20
"""In a row: a gradient scaler that begins at 65536 and halves its scale skips at most 16 while gradients are sound."""

MOST_BATCHES_WITHOUT_STEP = 1000
"""Under manual optimization, where some optimizers step on every nth batch only."""


class LRRangeTestCallback(Callback):
    """Turns one ``trainer.fit`` into an LR range test.

    The learning rate grows from step to step while the loss of every optimizer step is recorded (the mean over
    accumulated micro-batches and over ranks). The run stops when the loss diverges or is no longer finite, at
    ``max_lr``, or after ``num_steps``. Then weights, optimizer states, random number generators and the trainer's
    progress are put back as they were, and :attr:`result` leads on to a training configuration.

    During the test no validation runs (unless ``monitor`` needs it), and callbacks that write checkpoints, stop the run
    or move weights or lr are set aside. Loss, smoothed loss and lr go to the trainer's loggers under
    ``lr_range_test/``; at the end also a figure and a table.

    Args:
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. One float is the lr of the group with the
            largest lr: the ratios between the groups' own learning rates are kept.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps]; also a fraction of the run
            (0.01), epochs (``"2ep"``) or ``"auto"`` (a hundredth of the run).
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``.
        lr_range_test_staircase: hold the lr within each interval.
        mode: ``"exponential"`` or ``"linear"``; None: linear when one of the three linear parameters above is given,
            else exponential.
        max_lr: stop beyond this lr (exponential growth: reach it after ``num_steps``; 10 unless given).
        num_steps: stop after so many optimizer steps (exponential growth: 200 unless given); also a fraction of the
            run, epochs or ``"auto"`` (as long as the run).
        monitor: name of a metric that the module logs in validation (``"val_loss"``): the test then goes by it, not by
            the training loss, one record per validation; let the trainer validate often (``val_check_interval``).
        divergence_factor: share of the fall so far that the smoothed loss may climb back before the test stops.
        smoothing: weight of the past in the smoothed loss, in [0, 1).
        optimizer_index: which of several optimizers to sweep, counted from 0; the others train as they always do.
        log: send curves and figure to the trainer's loggers.

    Attributes:
        result: the :class:`RangeTestResult` of the last test, None before it.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or under DeepSpeedStrategy.

    Source:
        L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3;
        DeepSpeed's tutorial "Learning Rate Range Test".

    Example:
        >>> callback = LRRangeTestCallback(max_lr=1.0, num_steps=100)
        >>> # Trainer(callbacks=[callback]).fit(module, dataloader)
        >>> # callback.result.one_cycle(total_num_steps=1000)
        >>> callback.result is None
        True
    """

    def __init__(
        self,
        lr_range_test_min_lr: float | list[float] | None = None,
        lr_range_test_step_size: int | float | str | None = None,
        lr_range_test_step_rate: float | None = None,
        lr_range_test_staircase: bool | None = None,
        *,
        mode: str | None = None,
        max_lr: float | None = None,
        num_steps: int | float | str | None = None,
        monitor: str | None = None,
        divergence_factor: float = DIVERGENCE_FACTOR,
        smoothing: float = DEFAULT_SMOOTHING,
        optimizer_index: int = 0,
        log: bool = True,
    ) -> None:
        super().__init__()
        linear = {
            "lr_range_test_step_size": lr_range_test_step_size,
            "lr_range_test_step_rate": lr_range_test_step_rate,
            "lr_range_test_staircase": lr_range_test_staircase,
        }
        self._growth = Growth.of(lr_range_test_min_lr, linear, mode, max_lr, num_steps)
        self._monitor = monitor
        self._divergence_factor = number("divergence_factor", divergence_factor, above=0)
        self._smoothing = number("smoothing", smoothing, at_least=0, below=1)
        self._optimizer_index = optimizer_index
        self._log = log
        self._snapshot: TrainerSnapshot | None = None
        self._scheduler: Any = None  # an LRRangeTest, while there is one
        self.result: RangeTestResult | None = None

    # Before -----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._snapshot, self._scheduler = TrainerSnapshot(trainer), None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        assert self._snapshot is not None
        owner = type(self).__name__
        check_strategy(trainer, owner)
        _, optimizer = pick_optimizer(trainer, self._optimizer_index, owner)
        self._running = self._growth.resolved(
            run_length_of(trainer if self._growth.needs_run else None)
        )  # before the trainer's own limits are lifted
        self._snapshot.capture(trainer, pl_module)
        self._snapshot.set_limits(trainer, min_epochs=None, min_steps=None)
        if self._monitor is None:
            self._snapshot.set_limits(trainer, limit_val_batches=0)
        if self._running.has_an_end and not trainer.fast_dev_run:
            # The trainer's may come too early, in the middle of the sweep.
            self._snapshot.set_limits(trainer, max_epochs=-1, max_steps=-1)
        self._scheduler = self._replace_schedulers(trainer, optimizer)
        self._warn_if_narrow()
        settling = SETTLING_LOSSES if self._monitor is None else SETTLING_VALIDATIONS
        self._divergence = Divergence(self._divergence_factor, settling)
        self._record = LossRecord(trainer.strategy.root_device, self._smoothing)
        self._step_loss = StepLoss()
        self._finished = self._stalled = 0
        self._ended_by = "trainer"
        lrs = self._scheduler.lr_at(0)
        ratios = [lr / max(lrs) for lr in lrs]
        momentum = momentum_key(optimizer.param_groups[0]) if has_momentum(optimizer) else None
        self.result = RangeTestResult([], [], [], [], "trainer", self._running.mode, ratios, momentum)

    def _replace_schedulers(self, trainer: Any, optimizer: Any) -> LRRangeTest:
        """Put our schedule in the place of the module's own for this optimizer; the next fit makes that anew."""
        configs = trainer.strategy.lr_scheduler_configs
        places = [place for place, config in enumerate(configs) if same_optimizer(config.scheduler, optimizer)]
        for place in places:
            if isinstance(configs[place].scheduler, ClosedFormLR):
                configs[place].scheduler.unfollow_optimizer()
        scheduler = self._running.build(optimizer)
        scheduler.follow_optimizer()
        for place in places:
            # Under manual optimization the module may ask for it and step it, which changes nothing.
            configs[place] = LRSchedulerConfig(scheduler, interval="step", frequency=NEVER)
        return scheduler

    def _warn_if_narrow(self) -> None:
        first, last = max(self._scheduler.lr_at(0)), self._running.last_lr(self._scheduler)
        if last is not None and last < 10 * first:
            warnings.warn(
                f"the LR range test goes only from {first:g} to {last:g}, less than one decade: it can hardly show"
                " where the loss begins to fall and where it diverges; raise max_lr or the growth, or lower the min lr",
                stacklevel=2,
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # A checkpoint that the fit began from has brought back its own lr.
        self._scheduler.step(self._scheduler.last_epoch)

    # During -----------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._extend(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._extend(trainer)

    def _extend(self, trainer: Any) -> None:
        """Set as many epochs as the test still needs: enough to finish, and a number that the progress bar can show."""
        batches, num_steps = trainer.num_training_batches, self._running.num_steps
        left = 0 if num_steps is None or trainer.fast_dev_run else num_steps + 1 - self._finished
        if left > 0 and math.isfinite(batches):
            epochs = math.ceil(left * trainer.accumulate_grad_batches / batches)
            TrainerSnapshot.set_limits(trainer, max_epochs=trainer.fit_loop.epoch_progress.current.processed + epochs)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        automatic = pl_module.automatic_optimization
        self._step_loss.add(outputs, trainer.accumulate_grad_batches if automatic else 1)
        finished = self._scheduler.last_epoch
        if finished > self._finished:
            self._finished, self._stalled = finished, 0
            loss = self._step_loss.take()
            if loss is not None and self._monitor is None:
                self._add(trainer, loss)
            self._check_that_there_are_losses()
            ended_by = None if trainer.should_stop else self._running.ended_by(self._scheduler, finished)
            if ended_by is not None:
                self._end(trainer, ended_by)
        elif not automatic or not trainer.fit_loop._should_accumulate():
            self._after_no_step(trainer, automatic=automatic)

    def _after_no_step(self, trainer: Any, *, automatic: bool) -> None:
        """After a window of batches without an optimizer step; without a limit, a test could wait for ever."""
        self._stalled += 1
        if automatic:
            self._step_loss.take()  # The gradient scaler skipped this step: its losses belong to none.
            if self._stalled == MOST_SKIPPED_STEPS:
                self._end(trainer, "skipped steps")
        elif self._stalled == MOST_BATCHES_WITHOUT_STEP:
            raise ValueError(
                f"optimizer_index={self._optimizer_index}: the module has not stepped this optimizer in"
                f" {self._stalled} batches"
            )

    def _check_that_there_are_losses(self) -> None:
        assert self.result is not None
        if self._monitor is None and not self._record.count and self._finished >= SETTLING_LOSSES:
            raise ValueError(
                f"training_step returned no loss in {self._finished} optimizer steps: have it return the loss (or a"
                " dict with the key 'loss'), or give monitor, the name of a metric logged in validation"
            )

    def _end(self, trainer: Any, reason: str) -> None:
        self._ended_by = reason
        trainer.should_stop = True

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._monitor is None or trainer.sanity_checking or not self._finished:
            return
        if self._monitor not in trainer.callback_metrics:
            logged = list(trainer.callback_metrics)
            raise ValueError(
                f"monitor={self._monitor!r} was not logged in validation{did_you_mean(self._monitor, logged)};"
                f" logged were {', '.join(logged) or 'no metrics'}"
            )
        self._add(trainer, trainer.callback_metrics[self._monitor])

    def _add(self, trainer: Any, loss: Tensor) -> None:
        step = self._finished - 1
        self._record.add(step, max(self._scheduler.lr_at(step)), loss)
        self._take(trainer, all_of_them=False)

    def _take(self, trainer: Any, *, all_of_them: bool) -> None:
        """Move the rows that have arrived into the result; stop where one of them says so."""
        assert self.result is not None
        for row in self._record.rows(all_of_them=all_of_them):
            if self.result.stop_reason != "trainer":
                return  # arrived after the verdict: no part of the test
            self.result.steps.append(row.step)
            self.result.lrs.append(row.lr)
            self.result.losses.append(row.loss)
            self.result.smoothed_losses.append(row.smoothed_loss)
            if self._log:
                show_row(trainer, row)
            if self._divergence.update(row.loss, row.smoothed_loss):
                self.result.stop_reason = "diverged" if math.isfinite(row.loss) else "non-finite loss"
                trainer.should_stop = True

    # After ------------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.result is not None
        assert self._snapshot is not None
        self._take(trainer, all_of_them=True)
        if self.result.stop_reason == "trainer":
            self.result.stop_reason = self._ended_by
        self._scheduler.unfollow_optimizer()
        self._snapshot.restore_model(trainer, pl_module)
        if self._log:
            show_result(trainer, self.result)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # Before the teardown hooks, so that the callbacks set aside get theirs.
        if self._snapshot is not None:
            self._snapshot.restore_trainer(trainer)
            self._snapshot = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._snapshot is None:
            return
        if self._scheduler is not None:
            self._scheduler.unfollow_optimizer()
        try:
            self._snapshot.restore_model(trainer, pl_module)
        finally:
            self._snapshot.restore_trainer(trainer)
            self._snapshot = None
