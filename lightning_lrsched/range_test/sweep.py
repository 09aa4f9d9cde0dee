"""Sweep: one LR range test from its first step to its result; needs an optimizer, but no Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.range_test.divergence import VALIDATION_RISE, Divergence, StopReason
from lightning_lrsched.range_test.growth import make_schedule
from lightning_lrsched.range_test.loss_reader import Loss, LossReader
from lightning_lrsched.range_test.priors import prior_of
from lightning_lrsched.range_test.result import RangeTestResult
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.smoothing import SmoothedLoss
from lightning_lrsched.schedulers.param_groups import momentum_kind
from lightning_lrsched.schedulers.ranks import warn

MAX_SKIPPED_STEPS = 20
"""In a row: a gradient scaler that begins at 65536 and halves its scale skips at most 16 while gradients are sound."""

MAX_BATCHES_WITHOUT_STEP = 1000
"""In a loop that decides itself when an optimizer steps, some step on every nth batch only."""

LONG_TEST = 10_000
"""[optimizer steps] A linear test that takes longer to reach ``max_lr`` gets a warning."""


class Row(NamedTuple):
    """One recorded optimizer step."""

    step: int
    lr: float
    loss: float
    smoothed_loss: float


class Sweep:
    """One LR range test while it runs: it sets the lr, takes in losses, decides when to stop, and returns the result.

    Losses travel one way: mean over the micro-batches of a step and over ranks, device to host, smoothed, stop rule,
    record. The lr grows when the optimizer steps.

    Args:
        settings: with all lengths as numbers of optimizer steps.
        optimizer: the optimizer whose lr is swept. Restoring it afterwards is the caller's task.
        on_row: called with each recorded step when its loss has arrived; its number counts the steps of a coarse sweep
            before this one, too.
        coarse: the record of a coarse sweep before this one.

    Attributes:
        schedule: sets the lr.
        finished: optimizer steps that :meth:`advance` has seen.
        stalled: calls of :meth:`advance` in a row that saw no optimizer step.
        stop_reason: why the test must end now; None: it goes on.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> sweep = Sweep(SweepSettings(max_lr=100.0, num_steps=150), torch.optim.SGD([weight], lr=0.1))
        >>> while sweep.stop_reason is None:
        ...     loss = weight**2
        ...     loss.backward()
        ...     sweep.schedule.optimizer.step()
        ...     sweep.schedule.optimizer.zero_grad()
        ...     sweep.add(loss)
        ...     _ = sweep.advance()
        >>> sweep.finish().stop_reason.value
        'diverged'
    """

    def __init__(
        self,
        settings: SweepSettings,
        optimizer: Optimizer,
        on_row: Callable[[Row], None] | None = None,
        coarse: RangeTestResult | None = None,
    ) -> None:
        self._settings, self._on_row, self._coarse = settings, on_row, coarse
        self._reader, self._smoothed = LossReader(), SmoothedLoss(settings.smoothing)
        assert settings.divergence_factor is not None
        self._divergence = Divergence(settings.divergence_factor, VALIDATION_RISE if settings.by_validation else 0.0)
        self._rows: list[Row] = []
        self._momentum = momentum_kind(optimizer)
        self._prior = prior_of(optimizer) if isinstance(settings.prior, str) else settings.prior
        self.finished = self.stalled = 0
        self.stop_reason: StopReason | None = None
        self.schedule = make_schedule(settings, optimizer)
        self.schedule.follow_optimizer()

    @property
    def steps_left(self) -> int | None:
        """Optimizer steps still to come at most, with those of a fine sweep after this one; None where not known."""
        return None if self._settings.max_steps is None else self._settings.max_steps - self.finished

    @property
    def has_losses(self) -> bool:
        """Whether any loss has come in."""
        return self._reader.count > 0

    def warn_of_length(self, run_steps: int | None = None) -> None:
        """Warn of a test that takes very long, or that hardly changes the lr before it ends.

        Args:
            run_steps: how long the run is, where nothing else ends the test [optimizer steps]; None: not known.
        """
        steps, max_lr = self._settings.linear_steps, self._settings.max_lr
        if steps is not None and steps > LONG_TEST:
            warn(
                f"the LR range test will take {steps:,} optimizer steps to reach max_lr={max_lr:g}; a smaller"
                " lr_range_test_step_size or a larger lr_range_test_step_rate makes it shorter",
                stacklevel=2,
            )
        last_step = self._settings.num_steps or run_steps
        ends = [] if max_lr is None else [max_lr]
        ends += [] if last_step is None else [self._lr(last_step - 1)]
        first, last = self._lr(0), min(ends, default=math.inf)
        if last < 10 * first:
            warn(
                f"the LR range test goes only from {first:g} to {last:g}, less than one decade: it can hardly show"
                " where the loss begins to fall and where it diverges; raise max_lr or the growth, or lower the min lr",
                stacklevel=2,
            )

    def _lr(self, step: int) -> float:
        return max(self.schedule.lr_at(step))

    # Losses -----------------------------------------------------------------------------------------------------------

    def add(self, loss: Tensor) -> None:
        """Add the training loss of one micro-batch."""
        if not self._settings.by_validation:
            self._reader.add(loss)

    def advance(self) -> bool:
        """Check, after a batch, whether the optimizer has stepped; if so, the losses since then belong to that step."""
        finished = self.schedule.last_epoch
        if finished == self.finished:
            self.stalled += 1
            return False
        self.finished, self.stalled = finished, 0
        self._reader.end_step(finished - 1)
        self._take()
        if self.stop_reason is None:
            self.stop_reason = self._limit_reached()
        return True

    def skip(self) -> None:
        """Drop the losses since the last step: a gradient scaler has skipped it."""
        self._reader.end_step(None)
        self._take()
        if self.stop_reason is None and self.stalled >= MAX_SKIPPED_STEPS:
            self.stop_reason = StopReason.SKIPPED

    def add_validation_loss(self, loss: Tensor) -> None:
        """Record the validation loss after the last finished step."""
        self._reader.send(self.finished - 1, loss)
        self._take()

    def wait(self) -> None:
        """Take in the losses that are still on their way from the device."""
        self._take(wait=True)

    def _limit_reached(self) -> StopReason | None:
        num_steps, max_lr = self._settings.num_steps, self._settings.max_lr
        if num_steps is not None and self.finished >= num_steps:
            return StopReason.NUM_STEPS
        # Exponential growth reaches max_lr with its last step.
        if max_lr is not None and self._settings.mode == "linear" and self._lr(self.finished) > max_lr * (1 + 1e-9):
            return StopReason.MAX_LR
        return None

    def _take(self, *, wait: bool = False) -> None:
        for loss in self._reader.arrived(wait=wait):
            # What arrives after divergence does not belong to the test; divergence takes precedence over a limit.
            if self.stop_reason not in (StopReason.DIVERGED, StopReason.NON_FINITE):
                self._judge(loss)

    def _judge(self, loss: Loss) -> None:
        """Smooth a loss, record it, and apply the stop rule; for a skipped step, only check whether it is finite."""
        finite = math.isfinite(loss.value)
        diverged = not finite
        if loss.step is not None:
            row = Row(loss.step, self._lr(loss.step), loss.value, self._smoothed.update(loss.step, loss.value))
            self._rows.append(row)
            if self._on_row is not None:
                self._on_row(row._replace(step=row.step + (0 if self._coarse is None else self._coarse.num_steps)))
            diverged = self._divergence.update(loss.step, loss.value, row.smoothed_loss)
        if diverged:
            self.stop_reason = StopReason.DIVERGED if finite else StopReason.NON_FINITE

    # The end ----------------------------------------------------------------------------------------------------------

    def finish(self, reason: StopReason = StopReason.TRAINER) -> RangeTestResult:
        """Stop following the optimizer and return the result; ``reason`` is used where the test has none of its own."""
        self.schedule.unfollow_optimizer()
        if reason is not StopReason.INTERRUPTED:  # after an error a device may no longer answer
            self.wait()
        lrs = self.schedule.lr_at(0)
        return RangeTestResult(
            steps=[row.step for row in self._rows],
            lrs=[row.lr for row in self._rows],
            losses=[row.loss for row in self._rows],
            smoothed_losses=[row.smoothed_loss for row in self._rows],
            stop_reason=self.stop_reason or reason,
            mode=str(self._settings.mode),
            group_ratios=[lr / max(lrs) for lr in lrs],
            momentum=self._momentum,
            coarse=self._coarse,
            prior=self._prior,
        )

    def fine(self, put_back: Callable[[], object]) -> Sweep | None:
        """Begin the fine sweep around the lr at which this coarse one has ended; None: none follows.

        None follows where a range was asked for, and where the very first loss is not finite: no lr is to blame.

        Args:
            put_back: restores model and optimizer, and whatever else a step changes, to where this sweep began.
        """
        if not self._settings.then_fine or self.stop_reason is None:
            return None
        record = self.finish()
        if not record.losses or not math.isfinite(record.losses[0]):
            return None
        put_back()
        return Sweep(self._settings.fine(record.lrs[-1]), self.schedule.optimizer, self._on_row, record)
