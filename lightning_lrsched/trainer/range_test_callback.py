"""LRRangeTestCallback: one fit that finds a learning rate and leaves the model and the trainer as they were."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor

from lightning_lrsched.range_test.divergence import DIVERGENCE_FACTOR, SETTLING_STEPS, StopReason
from lightning_lrsched.range_test.result import RangeTestResult
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.smoothing import DEFAULT_SMOOTHING
from lightning_lrsched.range_test.sweep import MAX_BATCHES_WITHOUT_STEP, Sweep
from lightning_lrsched.range_test.tables import caveats_of, hyperparameters, summarize
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.checks import did_you_mean
from lightning_lrsched.trainer.attach import NEVER, pick_optimizer
from lightning_lrsched.trainer.child_result import ChildResult
from lightning_lrsched.trainer.conflicts import same_optimizer
from lightning_lrsched.trainer.deepspeed_engine import engine_of, follow_engine
from lightning_lrsched.trainer.log_resolved import log
from lightning_lrsched.trainer.protocol import TrainerLike
from lightning_lrsched.trainer.range_test_board import RangeTestBoard
from lightning_lrsched.trainer.run_length import run_length_of
from lightning_lrsched.trainer.run_report import store_hyperparameters
from lightning_lrsched.trainer.snapshot import RandomStates, TrainerSnapshot


class LRRangeTestCallback(Callback):
    """Turns one ``trainer.fit`` into an LR range test.

    The learning rate grows from step to step while the loss of every optimizer step is recorded (the mean over
    accumulated micro-batches and over ranks). The sweep stops when the loss diverges or is no longer finite, at
    ``max_lr``, or after ``num_steps``. At the end weights, optimizer states, states of torchmetrics, random number
    generators and the trainer's progress are put back as they were, and :attr:`result` leads on to a training
    configuration.

    Without a range there are two sweeps, 300 steps at most. A coarse one of 100 steps, from lr 1e-6 to 10, finds the lr
    at which the loss explodes. Weights, optimizers and schedulers are put back, and a fine one of 200 steps follows,
    from a hundredth of that lr to three times as much, while the data go on. The suggestions are read from the fine
    one. There is one sweep where ``mode``, ``max_lr``, ``num_steps``, ``monitor`` or one of the first four arguments is
    given, where the stop rule is off, and where the very first loss is not finite.

    During the test no validation runs (unless ``monitor`` needs it), what the module logs with ``self.log`` does not
    reach the loggers, and callbacks that write checkpoints, stop the run or change weights or lr are disabled. Loss,
    smoothed loss and lr go to the trainer's loggers under ``lr_range_test/``; at the end also a figure and a table.

    Args:
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. One float is the lr of the group with the
            largest lr: the ratios between the groups' own learning rates are kept.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps]; also a fraction of the run
            (0.01), epochs (``"2ep"``) or ``"auto"`` (a hundredth of the run).
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``.
        lr_range_test_staircase: hold the lr within each interval.
        mode: ``"exponential"`` or ``"linear"``; None: linear when one of the three linear parameters above is given,
            else exponential.
        max_lr: stop beyond this lr (exponential growth: reach it with the last of ``num_steps``). In a single sweep
            with exponential growth, 10 unless given.
        num_steps: stop after this many optimizer steps; also a fraction of the run, epochs or ``"auto"`` (as long as
            the run). In a single sweep with exponential growth, 200 unless given.
        monitor: name of a metric that the module logs in validation (``"val_loss"``): the test then uses it instead of
            the training loss, one record per validation; let the trainer validate often (``val_check_interval``).
        divergence_factor: fraction of the fall so far that the smoothed loss may climb back before the test stops;
            infinity or None: only a loss that is not finite stops it.
        smoothing: weight of the past in the smoothed loss, per optimizer step, in [0, 1). The smoothed loss is
            shown, and the stop rule uses it; suggestions smooth the losses themselves.
        prior: the peak of 1Cycle to which the suggestions are drawn down, the more the less the record says. ``"auto"``
            is what is known of this kind of optimizer, a number what you know yourself, None: the record alone.
        optimizer_index: which of several optimizers to sweep, counted from 0; the others train as usual.
        log: send curves and figure to the trainer's loggers.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or if DeepSpeed keeps weights or optimizer states on disk.

    Source:
        L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3;
        DeepSpeed's tutorial "Learning Rate Range Test".

    Example:
        >>> callback = LRRangeTestCallback(max_lr=1.0, num_steps=100)
        >>> # Trainer(callbacks=[callback]).fit(module, dataloader)
        >>> # callback.result.one_cycle()
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
        divergence_factor: float | None = DIVERGENCE_FACTOR,
        smoothing: float = DEFAULT_SMOOTHING,
        prior: float | str | None = "auto",
        optimizer_index: int = 0,
        log: bool = True,
    ) -> None:
        super().__init__()
        linear = {
            "lr_range_test_step_size": lr_range_test_step_size,
            "lr_range_test_step_rate": lr_range_test_step_rate,
            "lr_range_test_staircase": lr_range_test_staircase,
        }
        by_validation = monitor is not None
        self._settings = SweepSettings(
            mode, lr_range_test_min_lr, linear, max_lr, num_steps, smoothing, divergence_factor, by_validation, prior
        )
        self._monitor = monitor
        self.optimizer_index = optimizer_index
        self._log = log
        self._at_start: RandomStates | None = None  # where the test is made inside the fit that it is for
        self._several = False
        self._snapshot: TrainerSnapshot | None = None
        self._board: Any = None  # a RangeTestBoard, while there is one
        self._sweep: Any = None  # a Sweep, while there is one
        self._resumes = False
        self._skipped_steps = 0  # by a DeepSpeed engine, which counts them
        self._backward_losses: list[Tensor] = []
        self._of_batch: list[Tensor] = []
        self._stepped = False
        self._result: RangeTestResult | None = None
        self._child_result = ChildResult()

    @property
    def result(self) -> RangeTestResult:
        """The result of the last test.

        Raises:
            RuntimeError: if no test has ended yet.
        """
        result = self._child_result.instead_of(self._result)
        if result is None:
            raise RuntimeError(
                "no LR range test has ended yet: run Trainer(callbacks=[callback]).fit(module, data) first"
            )
        return result

    def use_inside_fit(self, optimizer_index: int, start: Any, *, several: bool) -> None:
        """Prepare for a test at the start of a fit that is already under way.

        Args:
            optimizer_index: which of the optimizers to sweep.
            start: the random states from which the fit goes on.
            several: whether there is a test for each of several optimizers.
        """
        self.optimizer_index, self._at_start, self._several = optimizer_index, start, several

    # Before -----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: TrainerLike, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._sweep = self._board = self._result = None
            self._resumes = False
            self._forget_losses()
            self._child_result.begin(trainer)
            self._snapshot = TrainerSnapshot(trainer, self._at_start)

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        assert self._snapshot is not None
        owner = type(self).__name__
        _, optimizer = pick_optimizer(trainer, self.optimizer_index, owner)
        # The length of the run, before the trainer's own limits are lifted.
        settings = self._settings.resolved(run_length_of(trainer if self._settings.needs_run else None))
        if self._at_start is not None:
            self._report_short_run(trainer, settings.max_steps)
        self._snapshot.capture(trainer, pl_module)
        self._snapshot.set_limits(trainer, min_epochs=None, min_steps=None)
        if self._monitor is None:
            self._snapshot.set_limits(trainer, limit_val_batches=0)
        if settings.has_an_end and not trainer.fast_dev_run:
            # The trainer's own limits may end the run in the middle of the sweep.
            self._snapshot.set_limits(trainer, max_epochs=-1, max_steps=-1)
        self._board = RangeTestBoard(
            trainer,
            log=self._log,
            bar=self._snapshot.had_progress_bar(),
            steps=settings.max_steps,
            optimizer=self.optimizer_index if self._several else None,
        )
        for config in _configs_of(optimizer, trainer):
            if isinstance(config.scheduler, ClosedFormLR):
                config.scheduler.unfollow_optimizer()
        self._sweep = Sweep(settings, optimizer, self._board.show_row)
        self._attach_sweep(trainer)

    def _report_short_run(self, trainer: TrainerLike, test_steps: int | None) -> None:
        run_steps = run_length_of(trainer).total_steps
        if run_steps is not None and test_steps is not None and run_steps < test_steps:
            log(
                trainer,
                f"LR range test: it takes up to {test_steps} optimizer steps, and the training after it only"
                f" {run_steps}; for a shorter test write range_test=LRRangeTestCallback(num_steps=...)",
                logging.WARNING,
            )

    def _attach_sweep(self, trainer: TrainerLike) -> None:
        """Put the sweep's schedule in place of the module's own for this optimizer; the next fit makes that again."""
        schedule, engine = self._sweep.schedule, engine_of(trainer)
        if engine is not None:
            follow_engine(schedule, engine)
        self._skipped_steps = getattr(engine, "skipped_steps", 0)
        configs = trainer.strategy.lr_scheduler_configs
        for config in _configs_of(schedule.optimizer, trainer):
            # Under manual optimization the module may ask for it and step it, which changes nothing.
            configs[configs.index(config)] = LRSchedulerConfig(schedule, interval="step", frequency=NEVER)

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._resumes = True

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        assert self._snapshot is not None
        if self._resumes:  # the optimizers' states were loaded after on_fit_start, with some strategies the weights too
            self._snapshot.capture(trainer, pl_module)
        self._skipped_steps = getattr(engine_of(trainer), "skipped_steps", 0)
        # A checkpoint that the fit began from has restored its own lr.
        self._sweep.schedule.step(self._sweep.schedule.last_epoch)
        self._check_validation(trainer)
        self._sweep.warn_of_length(None if self._settings.has_an_end else run_length_of(trainer).total_steps)

    def _check_validation(self, trainer: TrainerLike) -> None:
        validates = trainer.enable_validation and trainer.fit_loop.epoch_loop.val_loop._data_source.is_defined()
        if self._monitor is not None and not validates:
            raise ValueError(
                f"monitor={self._monitor!r} needs validation, and this fit has none: give it a val dataloader and the"
                " module a validation_step (and no limit_val_batches=0), or leave monitor out"
            )

    # During -----------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        self._extend(trainer)

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        self._extend(trainer)

    def _extend(self, trainer: TrainerLike) -> None:
        """Set as many epochs as the test still needs to finish."""
        batches = trainer.num_training_batches
        left = 0 if trainer.fast_dev_run else self._sweep.steps_left or 0
        if left > 0 and math.isfinite(batches):
            epochs = math.ceil(left * trainer.accumulate_grad_batches / batches)
            TrainerSnapshot.set_limits(trainer, max_epochs=trainer.fit_loop.epoch_progress.current.processed + epochs)

    # Under manual optimization the losses of a step are those of the backward passes right before it, with no step of
    # any optimizer between them; one backward pass may serve several optimizers.

    def on_before_backward(self, trainer: TrainerLike, pl_module: Any, loss: Tensor) -> None:
        if not pl_module.automatic_optimization:
            if self._stepped:
                self._backward_losses, self._stepped = [], False
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = 1 if scaler is None else scaler.scale(torch.ones_like(loss.detach()))
            self._backward_losses.append(loss.detach() / scale)

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: Any, optimizer: Any) -> None:
        self._stepped = True
        if same_optimizer(self._sweep.schedule, optimizer):
            self._of_batch += self._backward_losses

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        automatic = pl_module.automatic_optimization
        for loss in self._losses_of_batch(trainer, pl_module, outputs):
            self._sweep.add(loss)
        skipped = self._has_skipped(trainer, automatic=automatic)
        if self._sweep.advance():
            self._check_that_there_are_losses()
        elif skipped:
            self._sweep.skip()
        elif not automatic and self._sweep.stalled == MAX_BATCHES_WITHOUT_STEP:
            raise ValueError(
                f"optimizer_index={self.optimizer_index}: the module has not stepped this optimizer in"
                f" {self._sweep.stalled} batches"
            )
        self._stop_if_due(trainer)

    def _has_skipped(self, trainer: TrainerLike, *, automatic: bool) -> bool:
        """Return whether a step was due with this batch, where none has been made."""
        engine = engine_of(trainer)
        if engine is None:
            return automatic and not trainer.fit_loop._should_accumulate()
        before, self._skipped_steps = self._skipped_steps, engine.skipped_steps
        return bool(engine.skipped_steps > before)

    def _losses_of_batch(self, trainer: TrainerLike, pl_module: Any, outputs: Any) -> list[Tensor]:
        """Return what training_step returned; under manual optimization, where that says less, what went backward."""
        backward, self._of_batch = self._of_batch, []
        returned = outputs if isinstance(outputs, Tensor) else (outputs or {}).get("loss")
        if backward and (returned is None or len(trainer.optimizers) > 1):
            return backward
        if returned is None:
            return []
        # Lightning has divided it by the number of accumulated micro-batches.
        divided_by = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        return [returned.detach() if divided_by == 1 else returned.detach() * divided_by]

    def _check_that_there_are_losses(self) -> None:
        if self._monitor is None and not self._sweep.has_losses and self._sweep.finished >= SETTLING_STEPS:
            raise ValueError(
                f"training_step returned no loss in {self._sweep.finished} optimizer steps: have it return the loss (or"
                " a dict with the key 'loss') or pass it to self.manual_backward; or give monitor, the name of a metric"
                " logged in validation"
            )

    def _stop_if_due(self, trainer: TrainerLike) -> None:
        """Where the sweep is over, begin the fine one that follows, or stop the Trainer."""
        if self._sweep.stop_reason is None:
            return
        fine = self._sweep.fine(partial(self._put_back, trainer))
        if fine is None:
            trainer.should_stop = True
        else:
            self._sweep = fine
            self._attach_sweep(trainer)

    def _put_back(self, trainer: TrainerLike) -> None:
        """Restore what the coarse sweep has changed; a group of micro-batches that has begun is dropped."""
        assert self._snapshot is not None
        self._snapshot.restore_model(trainer, keep=True)
        self._forget_losses()

    def _forget_losses(self) -> None:
        self._backward_losses, self._of_batch, self._stepped = [], [], False

    def on_validation_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        if self._monitor is None or trainer.sanity_checking or not self._sweep.finished:
            return
        if self._monitor not in trainer.callback_metrics:
            logged = list(trainer.callback_metrics)
            raise ValueError(
                f"monitor={self._monitor!r} was not logged in validation{did_you_mean(self._monitor, logged)};"
                f" logged were {', '.join(logged) or 'no metrics'}"
            )
        self._sweep.add_validation_loss(trainer.callback_metrics[self._monitor])
        self._stop_if_due(trainer)

    # After ------------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        assert self._snapshot is not None
        assert self._board is not None
        self._result = self._sweep.finish()
        self._snapshot.restore_model(trainer)
        self._board.show_result(self._result)
        if self._at_start is None:  # else they belong to the record of the training
            store_hyperparameters(
                trainer,
                {"lr_range_test": hyperparameters(self._result)} if self._log else {},
                with_own=self._snapshot.logs_hyperparameters,
            )

    def on_fit_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        # Before the teardown hooks, so that the disabled callbacks get theirs.
        if self._snapshot is not None:
            self._restore_trainer(trainer)

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        if self._snapshot is None:
            return
        if self._sweep is not None and self._result is None:
            self._result = self._sweep.finish(StopReason.INTERRUPTED)
        try:
            self._snapshot.restore_model(trainer)
        finally:
            self._restore_trainer(trainer)

    def _restore_trainer(self, trainer: TrainerLike) -> None:
        assert self._snapshot is not None
        self._snapshot.restore_trainer(trainer)
        self._snapshot = self._sweep = None
        if self._result is not None:
            self._child_result.leave(trainer, self._result)
        if self._board is not None:
            self._board.close()
        if self._result is not None and (self._result.steps or self._result.stop_reason != StopReason.INTERRUPTED):
            rank_zero_info(f"LR range test: {summarize(self._result)}; weights, optimizers and Trainer restored.")
            for caveat in caveats_of(self._result):
                rank_zero_info(f"LR range test: {caveat}")


def _configs_of(optimizer: Any, trainer: TrainerLike) -> list[Any]:
    """Return those of the Trainer's schedulers that write the param groups of ``optimizer``."""
    return [config for config in trainer.strategy.lr_scheduler_configs if same_optimizer(config.scheduler, optimizer)]
