"""Divergence: the rule that says when the loss of a sweep has diverged. Plain numbers, no torch."""

from __future__ import annotations

import math

SETTLING_LOSSES = 10
"""Losses at the beginning: their mean is where the loss came from, their jitter is its noise; no verdict before."""

DIVERGENCE_FACTOR = 0.25
"""Share of the fall so far that the smoothed loss may climb back."""

NOISE_FACTOR = 3.0
"""Standard deviations of a single loss that a rise must exceed, however little the loss has fallen before."""

CONFIRMING_LOSSES = 3
"""Losses in a row that must lie above the bar too: a single spike lifts the average, but not its neighbours."""


class Divergence:
    """Tells, loss by loss, whether a sweep has diverged.

    It has when a loss is not finite, or when the smoothed loss and the last 3 losses themselves all lie above
    ``best + max(factor * (first - best), 3 * noise)``. There ``best`` is the lowest smoothed loss since the beginning
    was over (of few losses, the best average is mostly luck), ``first`` the mean of the losses of the beginning, and
    ``noise`` the standard deviation of a single loss, from the jitter between neighbours up to the best one: an
    explosion must not widen the tolerance that it is to be measured by. The rule knows only differences: a constant
    added to the loss, or its sign, changes nothing.

    The constants were chosen by measurement on complete sweeps: ``tests/benchmarks/stop_rule.py``.

    Args:
        factor: share of the fall so far that the smoothed loss may climb back.
        settling: how many losses are the beginning.

    Example:
        >>> rule = Divergence(settling=2)
        >>> [rule.update(loss, smoothed=loss) for loss in (5.0, 4.0, 1.0, 9.0, 9.0, 9.0)]
        [False, False, False, False, False, True]
    """

    def __init__(self, factor: float = DIVERGENCE_FACTOR, settling: int = SETTLING_LOSSES) -> None:
        self._factor = factor
        self._settling = settling
        self._losses = 0
        self._first = 0.0
        self._best = math.inf
        self._last = 0.0
        self._jitter = 0.0
        self._noise = 0.0
        self._above = 0

    def update(self, loss: float, smoothed: float) -> bool:
        """Add one loss and its running average; return whether the sweep has diverged."""
        if not math.isfinite(loss):
            return True
        self._losses += 1
        settling = self._losses <= self._settling
        if settling:
            self._first += (loss - self._first) / self._losses
        if self._losses > 1:
            # Neighbouring losses differ by sqrt(2) standard deviations on average.
            self._jitter += (loss - self._last) ** 2 / 2.0
        self._last = loss
        better = smoothed < self._best and self._losses >= self._settling
        if settling or better:
            self._noise = math.sqrt(self._jitter / max(1, self._losses - 1))
        if better:
            self._best = smoothed
        bar = self._best + max(self._factor * (self._first - self._best), NOISE_FACTOR * self._noise)
        self._above = self._above + 1 if loss > bar else 0
        return not settling and smoothed > bar and self._above >= CONFIRMING_LOSSES
