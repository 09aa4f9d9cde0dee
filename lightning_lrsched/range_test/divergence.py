"""Why a sweep ends, and the rule that decides when its loss has diverged. Plain numbers, no torch."""

from __future__ import annotations

import math
from enum import Enum

SETTLING_STEPS = 10
"""Length of the beginning [optimizer steps]; its mean loss is the starting level, and the rule does not fire in it."""

MIN_SETTLING_LOSSES = 3
"""Smallest number of losses in the beginning, where they are recorded less often than once a step."""

DIVERGENCE_FACTOR = 0.25
"""Fraction of the fall so far that the smoothed loss may climb back."""

NOISE_FACTOR = 3.0
"""Standard deviations of a single loss that a rise must exceed, however little the loss has fallen before."""

CONFIRMING_STEPS = 2
"""[optimizer steps] How long the losses must have been above the bar: a single spike lifts only the average."""

VALIDATION_RISE = 0.2
"""Fraction of the first validation losses that a rise must exceed. They are means over many batches, so their jitter is
almost zero; so is the fall of a model that was trained before."""


class StopReason(str, Enum):
    """Why a range test ended; compares and prints as its text."""

    DIVERGED = "diverged"
    NON_FINITE = "non-finite loss"
    SKIPPED = "skipped steps"
    MAX_LR = "max_lr"
    NUM_STEPS = "num_steps"
    TRAINER = "trainer"
    INTERRUPTED = "interrupted"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


class Divergence:
    """Decides, loss by loss, whether a sweep has diverged.

    It has diverged if a loss is not finite, or if the smoothed loss and all losses of the last 3 optimizer steps
    are above ``best + max(factor * (first - best), 3 * noise, min_rise * abs(first))``. There ``best`` is the lowest
    smoothed loss since the end of the beginning (of few losses, the best average is mostly luck), ``first`` the mean of
    the losses of the beginning, and ``noise`` the standard deviation of a single loss, from the jitter between
    neighbours up to the best one: an explosion must not widen the tolerance that it is measured against. With
    ``min_rise=0`` the rule uses only differences: a constant added to the loss, or its sign, changes nothing.

    The constants were chosen by measurement on complete sweeps: ``tests/benchmarks/stop_rule.py``.

    Args:
        factor: fraction of the fall so far that the smoothed loss may climb back; infinity: only a loss that is not
            finite counts as divergence.
        min_rise: fraction of the first losses that a rise must exceed.

    Example:
        >>> rule = Divergence()
        >>> losses = [5.0] * 10 + [1.0, 1.0, 9.0, 9.0, 9.0]
        >>> [step for step, loss in enumerate(losses) if rule.update(step, loss, smoothed=loss)]
        [14]
    """

    def __init__(self, factor: float = DIVERGENCE_FACTOR, min_rise: float = 0.0) -> None:
        self._factor = factor
        self._min_rise = min_rise
        self._losses = 0
        self._first = 0.0
        self._best = math.inf
        self._last = 0.0
        self._jitter = 0.0
        self._noise = 0.0
        self._above_since: int | None = None

    def update(self, step: int, loss: float, smoothed: float) -> bool:
        """Add the loss of optimizer step ``step`` and its running average; return whether the sweep has diverged."""
        if not math.isfinite(loss):
            return True
        if math.isinf(self._factor):
            return False
        settling = self._losses < MIN_SETTLING_LOSSES or step < SETTLING_STEPS
        self._learn(loss, smoothed, settling=settling)
        bar = self._bar()
        if loss <= bar or settling:
            self._above_since = None
        elif self._above_since is None:
            self._above_since = step
        return smoothed > bar and self._above_since is not None and step - self._above_since >= CONFIRMING_STEPS

    def _learn(self, loss: float, smoothed: float, *, settling: bool) -> None:
        """Update the starting level, the noise and the best average so far."""
        self._losses += 1
        if self._losses > 1:
            # Neighbouring losses differ by sqrt(2) standard deviations on average.
            self._jitter += (loss - self._last) ** 2 / 2.0
        self._last = loss
        if settling:
            self._first += (loss - self._first) / self._losses
        elif smoothed >= self._best:
            return
        self._best = smoothed
        self._noise = math.sqrt(self._jitter / max(1, self._losses - 1))

    def _bar(self) -> float:
        rise = max(
            self._factor * (self._first - self._best), NOISE_FACTOR * self._noise, self._min_rise * abs(self._first)
        )
        return self._best + rise
