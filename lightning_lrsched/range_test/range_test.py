"""RangeTestRun: a range test from its beginning to its end, whoever drives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.loss_watch import StopReason
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.settings import SweepSettings
from lightning_lrsched.range_test.sweep import Row, Sweep

MAX_BATCHES_WITHOUT_STEP = 1000
"""In a loop that decides itself when an optimizer steps, some step on every nth batch only."""


class State(Protocol):
    """All that a test changes: model, optimizers, random numbers, and whatever else the driver knows of."""

    def mark(self) -> None:
        """Remember this moment, where each sweep begins: all that is done before the first batch has been done."""

    def rewind(self) -> None:
        """Put back what has changed since :meth:`mark`, but for the data, which go on."""

    def restore(self) -> None:
        """Put everything back as it was before the test."""


class RangeTestRun:
    """One LR range test: a sweep, or a coarse one and then a fine one, and everything put back at the end.

    A loop drives it: it calls :meth:`start_batch`, tells :attr:`sweep` the losses and, after the batch, that a step may
    have been made or was skipped, until there is a :attr:`verdict`; then, however the loop ended, it calls :meth:`end`.

    Args:
        settings: with all lengths as numbers of optimizer steps.
        optimizer: the optimizer whose lr is swept.
        state: puts back what the test changes.
        follow: has the schedule of a sweep advance with the steps of the optimizer.
        checks_lr: raise ValueError where a step was made with another lr than is recorded for it; not possible where an
            engine calls the optimizer's ``step`` more than once for a step.
        on_row: called with each recorded step when its loss has arrived; steps are counted over both sweeps.

    Attributes:
        sweep: the present sweep.
        result: what was found, once the test has ended.
    """

    def __init__(
        self,
        settings: SweepSettings,
        optimizer: Optimizer,
        state: State,
        *,
        follow: Callable[[ScheduledLR], object] = ScheduledLR.follow_optimizer,
        checks_lr: bool = True,
        on_row: Callable[[Row], object] | None = None,
    ) -> None:
        self._settings, self._optimizer, self._state = settings, optimizer, state
        self._follow, self._on_row = follow, on_row
        self._marked = self._is_fine = False
        self.result: RangeTestResult | None = None
        # Before the hook with which the schedule sets the next lr.
        self._check = self._optimizer.register_step_post_hook(self._check_lr) if checks_lr else None
        try:
            self.sweep = self._begin(settings)
        except BaseException:
            self._stop_checking()
            raise

    def _begin(self, settings: SweepSettings, coarse: RangeTestResult | None = None) -> Sweep:
        sweep = Sweep(settings, self._optimizer, self._on_row, coarse)
        self._follow(sweep.schedule)
        self._groups = len(self._optimizer.param_groups)
        return sweep

    def start_batch(self) -> None:
        """Begin the fine sweep, where the coarse one is over; to be called before anything is done with a batch."""
        if not self._marked:
            self._marked = True
            self._state.mark()
        elif self._fine_follows():
            self.sweep.wait()
            coarse = self.sweep.record()
            self.sweep.schedule.unfollow_optimizer()
            self._state.rewind()
            self.sweep, self._is_fine = self._begin(self._settings.fine(coarse), coarse), True

    @property
    def verdict(self) -> StopReason | None:
        """Why the test must end now; None: it goes on."""
        return None if self._fine_follows() else self.sweep.stop_reason

    def _fine_follows(self) -> bool:
        """Return whether the coarse sweep is over, and a fine one follows: not where no lr is to blame for its end."""
        sweep = self.sweep
        is_coarse = bool(self._settings.then_fine) and not self._is_fine
        return is_coarse and sweep.stop_reason is not None and bool(sweep.rows) and math.isfinite(sweep.rows[0].loss)

    @property
    def steps_left(self) -> int | None:
        """Optimizer steps still to come at most, with those of a fine sweep; None where not known."""
        steps = self._settings.fine_steps if self._is_fine else self._settings.max_steps
        return None if steps is None else steps - self.sweep.finished

    def end(self, reason: StopReason = StopReason.TRAINER, *, wait: bool = True) -> RangeTestResult:
        """Put everything back and return what was found.

        Args:
            reason: why the test ends, where it has no reason of its own.
            wait: wait for the last losses; after an error a device may no longer answer.
        """
        self.sweep.schedule.unfollow_optimizer()
        self._stop_checking()
        try:
            if wait:
                self.sweep.wait()
            self.result = self.sweep.record(reason)
            return self.result
        finally:
            self._state.restore()

    def _stop_checking(self) -> None:
        if self._check is not None:
            self._check.remove()

    def _check_lr(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Raise ValueError where the step that has just been made had another lr than will be recorded for it."""
        if torch.compiler.is_compiling():
            return
        schedule = self.sweep.schedule
        expected = schedule.lr_at(schedule.last_epoch)
        # A group that has been added during the sweep gets its lr after the step.
        groups = self._optimizer.param_groups[: self._groups]
        for number, (group, lr) in enumerate(zip(groups, expected, strict=False), 1):
            # To compare a tensor, the host would have to wait for its device.
            if not isinstance(group["lr"], Tensor) and group["lr"] != lr:
                raise ValueError(
                    f"something else has set the lr of param group {number} to {group['lr']!r}, where the range test"
                    f" had set {lr!r}: leave the scheduler out of the loop during the test"
                )
