"""LRRangeTestCallback: one fit that finds a learning rate and leaves the model and the trainer as they were."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

import logging
import math
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.loss_watch import DEFAULT_SMOOTHING, DIVERGENCE_FACTOR, SETTLING_STEPS, StopReason
from lightning_lrsched.range_test.range_test import MAX_BATCHES_WITHOUT_STEP, RangeTestRun
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.report import (
    caveats_of,
    count_steps,
    summarize,
    summarize_one_of_several,
    why_nothing_among_several,
)
from lightning_lrsched.range_test.sweep import Sweep, SweepSettings, documented
from lightning_lrsched.schedules.errors import did_you_mean
from lightning_lrsched.trainer.attach import NEVER, Idle, pick_optimizer
from lightning_lrsched.trainer.conflicts import configs_of, same_optimizer
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.fit_state import FitState, RandomStates, set_limits
from lightning_lrsched.trainer.horizon import horizon_of
from lightning_lrsched.trainer.loggers import Board
from lightning_lrsched.trainer.protocol import Checkpoint, TrainerLike, callbacks_named, is_a, loss_in
from lightning_lrsched.trainer.reporting import add_note, log, of_optimizer, store_hyperparameters

OWN = ("LRRangeTestCallback", "LRSchedulerCallback")

SET_ASIDE = "these callbacks are off until it is over, because they may end it, or change weights or lr"


@documented
class LRRangeTestCallback(Callback):
    """Turns one ``trainer.fit`` into an LR range test.

    The learning rate grows from step to step while the loss of every optimizer step is recorded (the mean over
    accumulated micro-batches and over ranks). The sweep stops when the loss diverges or is no longer finite, at
    ``max_lr``, or after ``num_steps``. At the end weights, optimizer states, states of torchmetrics, random number
    generators and the trainer's progress are put back as they were, and :attr:`result` leads on to a training
    configuration.

    {sweeps}

    During the test, no validation runs, unless ``monitor`` needs it. What the module logs with ``self.log`` does not
    reach the loggers. Callbacks that write checkpoints, end the run, or change weights or lr are off. Loss, smoothed
    loss and lr go to the trainer's loggers under ``lr_range_test/``; at the end, also a figure and a table.

    Args:
        {settings}
        monitor: name of a metric that the module logs in validation (``"val_loss"``): the test then uses it instead of
            the training loss, one record per validation; let the trainer validate often (``val_check_interval``).
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
        self._settings = SweepSettings.of(locals(), by_validation=monitor is not None)
        self._monitor = monitor
        self.optimizer_index = optimizer_index
        self._log = log
        self._at_start: RandomStates | None = None  # where the test is made inside the fit that it is for
        self._several = False
        self._started: Sequence[Callback] = ()
        self._child_result = ChildResult()
        self._begin()

    def _begin(self) -> None:
        """Forget an earlier test."""
        self._state: FitState | None = None
        self._board: Board | None = None
        self._test: RangeTestRun | None = None
        self._resumes = False
        self._losses = BackwardLosses()
        self._skipped_steps = 0  # by a DeepSpeed engine, which counts them
        self.due = 0  # steps that Lightning would have made; under manual optimization, batches
        self._result: RangeTestResult | None = None

    @property
    def result(self) -> RangeTestResult:
        """The result of the last test.

        Raises:
            RuntimeError: if no test has ended yet.
        """
        result = self._child_result.instead_of(self._result)
        if result is None:
            raise RuntimeError(
                "no LR range test has ended yet: run Trainer(callbacks=[callback]).fit(module, data) first; if another"
                " package makes the Trainer and has given it a copy of this callback, look among trainer.callbacks"
            )
        return result

    @property
    def _run(self) -> RangeTestRun:
        """The test, while there is one."""
        assert self._test is not None
        return self._test

    def use_inside_fit(
        self, optimizer_index: int, start: RandomStates, *, several: bool, started: Sequence[Callback] = ()
    ) -> None:
        """Prepare for a test at the start of a fit that is already under way.

        Args:
            optimizer_index: which of the optimizers to sweep.
            start: the random states with which the fit began.
            several: whether there is a test for each of several optimizers.
            started: the callbacks whose ``on_train_start`` has run.
        """
        self.optimizer_index, self._at_start, self._several = optimizer_index, start, several
        self._started = started

    # Before -----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: TrainerLike, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._check_others(trainer)
            self._begin()
            self._child_result.begin(trainer)
            self._state = FitState(trainer, self._at_start)
            left_out = self._state.set_aside(self, self._start_batch, self._started)
            if left_out:
                log(trainer, f"{self._title(trainer)}: {SET_ASIDE}: {', '.join(left_out)}")

    def _title(self, trainer: TrainerLike) -> str:
        """Return how the test is called in the log: with its optimizer, where there are several."""
        return f"LR range test{of_optimizer(trainer, self.optimizer_index)}"

    def _check_others(self, trainer: TrainerLike) -> None:
        """Raise ValueError where the fit is meant for something else, too."""
        ours = callbacks_named(trainer, *OWN) if self._at_start is None else []
        others = [each for each in ours if each is not self]
        if others and is_a(others[0], "LRRangeTestCallback"):
            raise ValueError(
                "LRRangeTestCallback: another one of this Trainer tests in the same fit; keep one of them (two"
                " optimizers are tested in two fits, or by LRSchedulerCallback(), which tests each)"
            )
        if others:
            raise ValueError(
                "LRRangeTestCallback: a fit with it only tests, so that LRSchedulerCallback would train nothing; for a"
                " test and then the training in one fit, keep LRSchedulerCallback() alone, with the settings of the"
                " test as range_test=LRRangeTestCallback(...)"
            )

    def on_fit_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        assert self._state is not None
        _, optimizer = pick_optimizer(trainer, self.optimizer_index, type(self).__name__)
        # The length of the run, before the trainer's own limits are lifted.
        settings = self._settings.resolved(horizon_of(trainer if self._settings.needs_run else None))
        run_steps = None
        if self._at_start is not None:
            run_steps = horizon_of(trainer).total
            settings = settings.within(run_steps)
            _report_short_run(trainer, self._title(trainer), settings.max_steps, run_steps)
        self._state.capture(pl_module)
        self._state.set_data_aside()
        set_limits(trainer, min_epochs=None, min_steps=None)
        if self._monitor is None:
            set_limits(trainer, limit_val_batches=0)
        if settings.has_an_end and not trainer.fast_dev_run:
            # The trainer's own limits may end the run in the middle of the sweep.
            set_limits(trainer, max_epochs=-1, max_steps=-1)
        self._board = Board(
            trainer,
            loggers=self._state.loggers if self._log else [],
            bar=self._state.had_progress_bar(),
            steps=settings.max_steps,
            run_steps=run_steps,
            optimizer=self.optimizer_index if self._several else None,
        )
        for config in configs_of(trainer, optimizer):
            if isinstance(config.scheduler, ScheduledLR):
                config.scheduler.unfollow_optimizer()
        clock = clock_of(trainer)

        def follow(schedule: ScheduledLR) -> None:
            clock.follow(schedule)
            self._losses, self._skipped_steps = BackwardLosses(), clock.skipped
            configs, stand_in = trainer.strategy.lr_scheduler_configs, Idle(schedule.optimizer)
            for config in configs_of(trainer, optimizer):  # the next fit makes the module's again
                configs[configs.index(config)] = LRSchedulerConfig(stand_in, interval="step", frequency=NEVER)

        self._test = RangeTestRun(
            settings, optimizer, self._state, follow=follow, checks_steps=not clock.carries, on_row=self._board.show_row
        )

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: LightningModule, checkpoint: Checkpoint) -> None:
        self._resumes = True

    def on_train_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        assert self._state is not None
        if self._resumes:  # the optimizers' states were loaded after on_fit_start, with some strategies the weights too
            self._state.capture(pl_module)
        self._skipped_steps = clock_of(trainer).skipped
        sweep = self._run.sweep
        sweep.schedule.step(sweep.schedule.last_epoch)  # a checkpoint that the fit began from has restored its own lr
        self._check_validation(trainer)
        sweep.warn_of_length(None if self._settings.has_an_end else horizon_of(trainer).total)

    def _check_validation(self, trainer: TrainerLike) -> None:
        validates = trainer.enable_validation and trainer.fit_loop.epoch_loop.val_loop._data_source.is_defined()
        if self._monitor is not None and not validates:
            raise ValueError(
                f"monitor={self._monitor!r} needs validation, and this fit has none: give it a val dataloader and the"
                " module a validation_step (and no limit_val_batches=0), or leave monitor out"
            )

    # During -----------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._extend(trainer)

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._extend(trainer)

    def _extend(self, trainer: TrainerLike) -> None:
        """Set as many epochs as the test still needs to finish."""
        batches = trainer.num_training_batches
        left = 0 if trainer.fast_dev_run else self._run.steps_left or 0
        if left > 0 and math.isfinite(batches):
            # One more: the test itself says when it is over, and Lightning need not.
            epochs = math.ceil(left * trainer.accumulate_grad_batches / batches) + 1
            set_limits(trainer, max_epochs=trainer.fit_loop.epoch_progress.current.processed + epochs)

    def _start_batch(self) -> None:
        self._run.start_batch()

    def on_before_backward(self, trainer: TrainerLike, pl_module: LightningModule, loss: Tensor) -> None:
        if not pl_module.automatic_optimization:
            self._losses.add(loss, getattr(trainer.precision_plugin, "scaler", None))

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._losses.step(swept=same_optimizer(self._run.sweep.schedule, optimizer))

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        automatic = pl_module.automatic_optimization
        self.due += not (automatic and trainer.fit_loop._should_accumulate())
        sweep, skipped = self._run.sweep, self._has_skipped(trainer, automatic=automatic)
        if len(trainer.optimizers) == 1 and sweep.schedule.last_epoch > sweep.finished:
            self._losses.step_unheard()
        for loss in self._losses_of_batch(trainer, pl_module, outputs):
            sweep.add(loss)
        if sweep.advance():
            self._check_that_there_are_losses(sweep)
        elif skipped:
            sweep.skip()
        elif not automatic and sweep.stalled == MAX_BATCHES_WITHOUT_STEP:
            raise ValueError(
                f"optimizer_index={self.optimizer_index}: the module has not stepped this optimizer in"
                f" {sweep.stalled} batches"
            )
        self._stop_if_over(trainer)

    def _losses_of_batch(self, trainer: TrainerLike, pl_module: LightningModule, outputs: object) -> list[Tensor]:
        """Return what training_step returned; under manual optimization, where that says less, what went backward."""
        backward = self._losses.of_batch()
        returned = loss_in(outputs)
        if backward and (returned is None or len(trainer.optimizers) > 1):
            return backward
        if returned is None:
            return []
        # Lightning has divided it by the number of accumulated micro-batches.
        divided_by = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        return [returned.detach() if divided_by == 1 else returned.detach() * divided_by]

    def _has_skipped(self, trainer: TrainerLike, *, automatic: bool) -> bool:
        """Return whether a step was due with this batch, where none has been made."""
        clock = clock_of(trainer)
        if clock.attempts is None:
            return automatic and not trainer.fit_loop._should_accumulate()
        before, self._skipped_steps = self._skipped_steps, clock.skipped
        return self._skipped_steps > before

    def _check_that_there_are_losses(self, sweep: Sweep) -> None:
        if self._monitor is None and not sweep.losses.has_losses and sweep.finished >= SETTLING_STEPS:
            raise ValueError(
                f"training_step returned no loss in {sweep.finished} optimizer steps: have it return the loss (or"
                " a dict with the key 'loss') or pass it to self.manual_backward; or give monitor, the name of a metric"
                " logged in validation"
            )

    def on_validation_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        if self._monitor is None or trainer.sanity_checking or not self._run.sweep.finished:
            return
        if self._monitor not in trainer.callback_metrics:
            logged = list(trainer.callback_metrics)
            raise ValueError(
                f"monitor={self._monitor!r} was not logged in validation{did_you_mean(self._monitor, logged)};"
                f" logged were {', '.join(logged) or 'no metrics'}"
            )
        self._run.sweep.add_validation_loss(trainer.callback_metrics[self._monitor])
        self._stop_if_over(trainer)

    def _stop_if_over(self, trainer: TrainerLike) -> None:
        # Inside a fit, another callback that would end the training here has no say.
        trainer.should_stop = self._run.verdict is not None or (trainer.should_stop and self._at_start is None)

    # After ------------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        assert self._state is not None
        assert self._board is not None
        self._result = self._run.end()
        self._board.show_result(self._result)
        if self._at_start is None:  # else they belong to the record of the training
            found = {"lr_range_test": self._result.hyperparameters()} if self._log else {}
            store_hyperparameters(trainer, found, with_own=self._state.logs_hyperparameters)

    def on_fit_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        # Before the teardown hooks, so that the disabled callbacks get theirs.
        self._put_back(trainer)

    def on_exception(self, trainer: TrainerLike, pl_module: LightningModule, exception: BaseException) -> None:
        if self._state is None:
            return
        test = self._test
        if test is not None and isinstance(exception, Exception):
            add_note(trainer, exception, _where(test.sweep))
        try:
            if test is not None and test.result is None:
                self._result = test.end(StopReason.INTERRUPTED, wait=False)
        finally:
            self._put_back(trainer)

    def _put_back(self, trainer: TrainerLike) -> None:
        state, board, result = self._state, self._board, self._result
        self._state = self._test = None
        if state is None:
            return
        state.put_back()
        if board is not None:
            board.close()
        if result is None:
            return
        self._child_result.leave(trainer, result)
        restored, title = "weights, optimizers and Trainer restored", self._title(trainer)
        if state.refused:
            rank_zero_info(f"{title}: {state.refused}, and no validation was made: this had no effect")
        if result.stop_reason == StopReason.INTERRUPTED or trainer.fast_dev_run:
            why = "interrupted" if result.stop_reason == StopReason.INTERRUPTED else "ended by fast_dev_run"
            rank_zero_info(f"{title}: {why} after {count_steps(result)} optimizer steps; {restored}.")
            return
        several = len(trainer.optimizers) > 1
        rank_zero_info(f"{title}: {summarize_one_of_several(result) if several else summarize(result)}; {restored}.")
        if not (several and why_nothing_among_several(result)):
            for caveat in caveats_of(result):
                rank_zero_info(f"{title}: {caveat}")


class BackwardLosses:
    """The losses of an optimizer's steps under manual optimization, of which the Trainer knows nothing.

    They are those of the backward passes right before a step, with no step of any optimizer between them; one backward
    pass may serve several optimizers.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._of_batch: list[Tensor] = []
        self._stepped = self._heard = False

    def add(self, loss: Tensor, scaler: Any) -> None:
        """Add what goes backward; a gradient scaler has scaled it."""
        if self._stepped:
            self._losses, self._stepped = [], False
        scale = 1 if scaler is None else scaler.scale(torch.ones_like(loss.detach()))
        self._losses.append(loss.detach() / scale)

    def step(self, *, swept: bool) -> None:
        """Note a step, of the optimizer that is tested or of another."""
        self._stepped = self._heard = True
        if swept:
            self._of_batch += self._losses

    def step_unheard(self) -> None:
        """Note a step of the only optimizer, if none was heard of: a module may step torch's, without Lightning's."""
        if not self._heard:
            self.step(swept=True)

    def of_batch(self) -> list[Tensor]:
        """Return the losses of the steps since the last call."""
        losses, self._of_batch, self._heard = self._of_batch, [], False
        return losses


def _where(sweep: Sweep) -> str:
    """Return in which step of a test, and at which lr, an error was raised: a module may check its own loss."""
    lr = max(sweep.schedule.lr_at(sweep.finished))
    return (
        f"This was in the LR range test, in step {sweep.finished}, at lr {lr:.3g}, which grows until the loss explodes."
        " If the module itself raises an error where that happens, switch its check off for the test, or end the test"
        f" before (LRRangeTestCallback(max_lr={lr / 10:.1g}))."
    )


def _report_short_run(trainer: TrainerLike, title: str, test_steps: int | None, run_steps: int | None) -> None:
    if run_steps is not None and test_steps is not None and run_steps < test_steps:
        log(
            trainer,
            f"{title}: it takes up to {test_steps} optimizer steps, but the training after it has only"
            f" {run_steps}; for a shorter test write range_test=LRRangeTestCallback(num_steps=...)",
            logging.WARNING,
        )


class ChildResult:
    """A temporary file in which the first child process leaves a result for the process that made the callback.

    Its name is chosen here and known to the children, whether they are forked or get a pickled copy of the callback.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"lightning_lrsched-{uuid4().hex}.json"
        weakref.finalize(self, _remove, self._path, self._owner)

    def __deepcopy__(self, memo: object) -> ChildResult:
        return ChildResult()  # a copied callback runs tests of its own

    def begin(self, trainer: TrainerLike) -> None:
        """Forget the result of an earlier test."""
        if os.getpid() == self._owner:
            self._path.unlink(missing_ok=True)
        elif self._is_first_child(trainer):
            self._path.write_text("")  # a test has begun, so that none of an earlier one is shown

    def leave(self, trainer: TrainerLike, result: RangeTestResult) -> None:
        """Leave the result for the parent, in the first of its child processes."""
        if self._is_first_child(trainer):
            result.save(self._path, overwrite=True)

    def instead_of(self, own: RangeTestResult | None) -> RangeTestResult | None:
        """Return what a child has left, if the last test ran in one; else this process's own result."""
        if os.getpid() != self._owner or not self._path.exists():
            return own
        # Empty where the test did not come to its end.
        return RangeTestResult.load(self._path) if self._path.stat().st_size else None

    def _is_first_child(self, trainer: TrainerLike) -> bool:
        parent = multiprocessing.parent_process()
        # Of each node: every node's parent has a file of its own.
        return parent is not None and parent.pid == self._owner and trainer.local_rank == 0


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has the same object
        path.unlink(missing_ok=True)
