"""Sweep: the lr grows with the steps of one optimizer, and the loss of each step is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.optim.hyperparameters import check_lrs, momentum_kind
from lightning_lrsched.optim.ranks import warn
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.loss_watch import LossWatch, StopReason, Watched
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.suggest import prior_of
from lightning_lrsched.schedules.growth import ExponentialGrowth, LinearGrowth

MAX_SKIPPED_STEPS = 20
"""In a row: a gradient scaler that begins at 65536 and halves its scale skips at most 16 while gradients are sound."""

LONG_TEST = 10_000
"""[optimizer steps] A linear test that takes longer to reach ``max_lr`` gets a warning."""


class Row(NamedTuple):
    """One recorded optimizer step."""

    step: int
    lr: float
    loss: float
    smoothed_loss: float


class Sweep:
    """One growth of the lr, from its first step to its record.

    Args:
        settings: with all lengths as numbers of optimizer steps.
        optimizer: the optimizer whose lr is swept. Restoring it afterwards is the caller's task.
        on_row: called with each recorded step when its loss has arrived.
        coarse: the record of a coarse sweep before this one; ``on_row`` gets its steps counted, too.

    Attributes:
        schedule: sets the lr; whoever makes a sweep has it follow the optimizer, or the engine that owns that.
        losses: what watches the losses.
        rows: the recorded steps.
        finished: optimizer steps that :meth:`advance` has seen.
        stalled: calls of :meth:`advance` in a row that saw no optimizer step.
        stop_reason: why the sweep must end now; None: it goes on.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> sweep = Sweep(SweepSettings(max_lr=100.0, num_steps=150), torch.optim.SGD([weight], lr=0.1))
        >>> sweep.schedule.follow_optimizer()
        >>> while sweep.stop_reason is None:
        ...     loss = weight**2
        ...     loss.backward()
        ...     sweep.schedule.optimizer.step()
        ...     sweep.schedule.optimizer.zero_grad()
        ...     sweep.add(loss)
        ...     _ = sweep.advance()
        >>> sweep.record().stop_reason.value
        'diverged'
    """

    def __init__(
        self,
        settings: SweepSettings,
        optimizer: Optimizer,
        on_row: Callable[[Row], object] | None = None,
        coarse: RangeTestResult | None = None,
    ) -> None:
        self._settings, self._on_row, self._coarse = settings, on_row, coarse
        assert settings.divergence_factor is not None
        self.losses = LossWatch(settings.smoothing, settings.divergence_factor, by_validation=settings.by_validation)
        self.rows: list[Row] = []
        self._momentum = momentum_kind(optimizer)
        self._prior = prior_of(optimizer) if isinstance(settings.prior, str) else settings.prior
        self.finished = self.stalled = 0
        self.stop_reason: StopReason | None = None
        self.schedule = make_schedule(settings, optimizer)

    def add(self, loss: Tensor) -> None:
        """Add the training loss of one micro-batch."""
        if not self._settings.by_validation:
            self.losses.add(loss)

    def advance(self) -> bool:
        """Check, after a batch, whether the optimizer has stepped; if so, the losses since then belong to that step."""
        finished = self.schedule.last_epoch
        if finished == self.finished:
            self.stalled += 1
            return False
        self.finished, self.stalled = finished, 0
        self._take(self.losses.end_step(finished - 1))
        if self.stop_reason is None:
            self.stop_reason = self._limit_reached()
        return True

    def skip(self) -> None:
        """Drop the losses since the last step: a gradient scaler has skipped it."""
        self._take(self.losses.end_step(None))
        if self.stop_reason is None and self.stalled >= MAX_SKIPPED_STEPS:
            self.stop_reason = StopReason.SKIPPED

    def add_validation_loss(self, loss: Tensor) -> None:
        """Record the validation loss after the last finished step."""
        self._take(self.losses.send(self.finished - 1, loss))

    def wait(self) -> None:
        """Take in the losses that are still on their way from the device."""
        self._take(self.losses.take(wait=True))

    def _take(self, losses: list[Watched]) -> None:
        before = 0 if self._coarse is None else self._coarse.num_steps
        for step, loss, smoothed in losses:
            self.rows.append(Row(step, self._lr(step), loss, smoothed))
            if self._on_row is not None:
                self._on_row(self.rows[-1]._replace(step=before + step))
        self.stop_reason = self.losses.verdict or self.stop_reason  # divergence takes precedence over a limit

    def _limit_reached(self) -> StopReason | None:
        num_steps, max_lr = self._settings.num_steps, self._settings.max_lr
        if num_steps is not None and self.finished >= int(num_steps):
            return StopReason.NUM_STEPS
        # Exponential growth reaches max_lr with its last step.
        if max_lr is not None and self._settings.mode == "linear" and self._lr(self.finished) > max_lr * (1 + 1e-9):
            return StopReason.MAX_LR
        return None

    def _lr(self, step: int) -> float:
        return max(self.schedule.lr_at(step))

    def record(self, reason: StopReason = StopReason.TRAINER) -> RangeTestResult:
        """Return what was recorded; ``reason`` is used where the sweep has none of its own."""
        lrs = self.schedule.lr_at(0)
        return RangeTestResult(
            steps=[row.step for row in self.rows],
            lrs=[row.lr for row in self.rows],
            losses=[row.loss for row in self.rows],
            smoothed_losses=[row.smoothed_loss for row in self.rows],
            stop_reason=self.stop_reason or reason,
            mode=str(self._settings.mode),
            group_ratios=[lr / max(lrs) for lr in lrs],
            momentum=self._momentum,
            coarse=self._coarse,
            prior=self._prior,
        )

    def warn_of_length(self, run_steps: int | None = None) -> None:
        """Warn of a sweep that takes very long, or that hardly changes the lr before it ends.

        Args:
            run_steps: how long the run is, where nothing else ends the sweep [optimizer steps]; None: not known.
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
        ends += [] if last_step is None else [self._lr(int(last_step) - 1)]
        first, last = self._lr(0), min(ends, default=math.inf)
        if last < 10 * first:
            warn(
                f"the LR range test goes only from {first:g} to {last:g}, less than one decade: it can hardly show"
                " where the loss begins to fall and where it diverges; raise max_lr or the growth, or lower the min lr",
                stacklevel=2,
            )


def make_schedule(settings: SweepSettings, optimizer: Optimizer) -> ScheduledLR:
    """Make the schedule; one lr for several param groups keeps the ratios of their own learning rates."""
    check_lrs(optimizer)
    min_lr = {"lr_range_test_min_lr": settings.largest_min_lr}
    schedule: LinearGrowth | ExponentialGrowth
    if settings.mode == "linear":
        schedule = LinearGrowth.parse({**min_lr, **settings.linear})
    else:
        assert settings.max_lr is not None
        assert settings.num_steps is not None
        growth = {"factor": settings.max_lr / settings.largest_min_lr, "last_step": int(settings.num_steps) - 1}
        schedule = ExponentialGrowth.parse({**min_lr, **growth})
    # As it stands: a group whose own lr is 0 keeps it, though nobody may write that.
    return ScheduledLR(optimizer, replace(schedule, lr_range_test_min_lr=_min_lr(settings, optimizer)))


def _min_lr(settings: SweepSettings, optimizer: Optimizer) -> float | tuple[float, ...]:
    if isinstance(settings.lr_range_test_min_lr, tuple):
        return settings.lr_range_test_min_lr
    # Not the lr of this moment: a schedule of the module may have begun at 0.
    own_lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    largest = max(own_lrs)
    if len(own_lrs) == 1 or largest <= 0:
        return settings.largest_min_lr
    return tuple(settings.largest_min_lr * lr / largest for lr in own_lrs)
