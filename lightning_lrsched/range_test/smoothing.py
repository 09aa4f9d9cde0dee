"""The smoothed loss of a sweep: one formula, for the display, the stop rule and the suggestions."""

from __future__ import annotations

DEFAULT_SMOOTHING = 0.9


class SmoothedLoss:
    """Exponential average with exact bias correction, whose weights decay per optimizer step.

    ``average(n) = sum(b**(s(n)-s(i)) * loss(i)) / sum(b**(s(n)-s(i)))`` with ``b = smoothing``, ``s(i)`` the optimizer
    step of loss ``i`` and both sums over ``i = 0..n``. So a loss that is recorded at every tenth step is forgotten as
    fast as one that is recorded at every step.

    Args:
        smoothing: weight of the past in the average, per optimizer step, in [0, 1); 0: no smoothing.

    Example:
        >>> smoothed = SmoothedLoss(smoothing=0.5)
        >>> smoothed.update(step=0, loss=1.0)
        1.0
        >>> smoothed.update(step=1, loss=4.0)  # (0.5 * 1 + 1 * 4) / (0.5 + 1)
        3.0
    """

    def __init__(self, smoothing: float = DEFAULT_SMOOTHING) -> None:
        self._smoothing = smoothing
        self._average = 0.0
        self._weight = 0.0
        self._step = 0

    def update(self, step: int, loss: float) -> float:
        """Add the loss of one optimizer step; return the average."""
        # abs: the suggestions also smooth from the end to the beginning.
        self._weight = self._weight * self._smoothing ** abs(step - self._step) + 1.0
        self._step = step
        self._average += (loss - self._average) / self._weight
        return self._average
