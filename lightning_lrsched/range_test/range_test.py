"""RangeTestRun: a range test from its beginning to its end, whoever drives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.loss_watch import StopReason
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.suggest import searches_lr
from lightning_lrsched.range_test.sweep import Row, Sweep, SweepSettings

SAMPLED, EVERY, EDGE = 4, 4, 16
"""Of the updates, some of the parameters, every few steps, and so many entries along each axis are measured."""

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
        checks_steps: raise ValueError where a step was made with another lr than is recorded for it, and measure how
            far steps go; not possible where an engine calls the optimizer's ``step`` more than once for a step.
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
        checks_steps: bool = True,
        on_row: Callable[[Row], object] | None = None,
    ) -> None:
        self._settings, self._optimizer, self._state = settings, optimizer, state
        self._follow, self._on_row = follow, on_row
        self._marked = self._is_fine = False
        self.result: RangeTestResult | None = None
        self._updates, self._hooks = Updates(optimizer), []
        if checks_steps:  # before the hook with which the schedule sets the next lr
            self._hooks = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]
        try:
            self.sweep = self._begin(settings)
        except BaseException:
            self._remove_hooks()
            raise

    def _begin(self, settings: SweepSettings, coarse: RangeTestResult | None = None) -> Sweep:
        sweep = Sweep(settings, self._optimizer, self._on_row, coarse)
        self._updates.begin()
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
            coarse = replace(self.sweep.record(), update_growth=self._updates.growth())
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
        self._remove_hooks()
        try:
            if wait:
                self.sweep.wait()
            growth = self._updates.growth() if wait else None
            self.result = replace(self.sweep.record(reason), update_growth=growth)
            return self.result
        finally:
            self._state.restore()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if not torch.compiler.is_compiling():
            self._updates.before_step()

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Raise ValueError where the step that has just been made had another lr than will be recorded for it."""
        if torch.compiler.is_compiling():
            return
        schedule = self.sweep.schedule
        expected = schedule.lr_at(schedule.last_epoch)
        self._updates.after_step(max(expected))
        # A group that has been added during the sweep gets its lr after the step.
        groups = self._optimizer.param_groups[: self._groups]
        for number, (group, lr) in enumerate(zip(groups, expected, strict=False), 1):
            held = group["lr"]
            # To compare a tensor on a device, the host would have to wait for it; others are of lower precision.
            if isinstance(held, Tensor):
                differs = held.device.type == "cpu" and not math.isclose(float(held), lr, rel_tol=1e-2)
            else:
                differs = held != lr
            if differs:
                raise ValueError(
                    f"something else has set the lr of param group {number} to {float(held):g}, where the range test"
                    f" had set {lr:g}: leave it out during the test (a scheduler in the loop, a warmup in the module)"
                )


class Updates:
    """How far an optimizer moves its parameters in a step: not as the lr says, if it has a schedule of its own.

    Measured is a sample, of some of the parameters in every few steps; nothing waits for the device.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        sharded = any(hasattr(parameter, "to_local") for parameter in parameters)
        self._searches_lr = searches_lr(optimizer)
        self._sample = [] if sharded else sorted(parameters, key=Tensor.numel)[-SAMPLED:]
        self.begin()

    def begin(self) -> None:
        """Forget the steps of an earlier sweep."""
        self._steps = 0
        self._before: list[Tensor] = []
        self._sizes: list[tuple[float, Tensor]] = []

    def before_step(self) -> None:
        """Remember where the parameters are."""
        self._before = [part.clone() for part in self._parts()] if self._steps % EVERY == 0 else []
        self._steps += 1

    def after_step(self, lr: float) -> None:
        """Note how far the step went that was made with ``lr``."""
        before, self._before = self._before, []
        parts = self._parts() if before else []
        if parts and [part.shape for part in parts] == [part.shape for part in before]:
            moves = [(new.float() - old.float()).square().sum() for new, old in zip(parts, before, strict=True)]
            self._sizes.append((lr, torch.stack([move.to(moves[0].device) for move in moves]).sum()))

    def _parts(self) -> list[Tensor]:
        return [parameter.detach()[(slice(EDGE),) * parameter.ndim] for parameter in self._sample]

    def growth(self) -> float | None:
        """Return the power of the lr with which the steps grew, None where there are too few of them.

        The medians of the first and the last third are compared: where training goes well, gradients fall by less than
        the lr grows, and the first steps may be lost in rounding, which counts as growth.
        """
        if self._searches_lr:
            return 0.0
        third = len(self._sizes) // 3
        if third < 2:
            return None
        sizes = torch.stack([size for _, size in self._sizes]).sqrt().tolist()
        (low, few), (high, many) = (
            (median([self._sizes[i][0] for i in part]), median([sizes[i] for i in part]))
            for part in (range(third), range(len(sizes) - third, len(sizes)))
        )
        if high < 10 * low or not (few > 0 and 0 < many < math.inf):
            return None
        return math.log(many / few) / math.log(high / low)
