"""Learning rates read off a range test: pure functions of its learning rates and losses.

All of them look at the loss against the *logarithm* of the lr, on an even grid, so that a rule means the same whether
the lr grew exponentially or linearly. The loss is smoothed forwards and backwards: a running average alone would lag
behind the lr and shift every suggestion upwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID_POINTS = 200
FEWEST_POINTS = 10


class Curve:
    """The smoothed loss of a range test on an even grid of log lr, up to its minimum and beyond."""

    def __init__(self, lrs: Sequence[float], losses: Sequence[float], smoothing: float = 0.9) -> None:
        """Keep the finite part of the record; raise ValueError where it is too short to say anything."""
        pairs = [(lr, loss) for lr, loss in zip(lrs, losses, strict=True) if math.isfinite(loss)]
        if len(pairs) < FEWEST_POINTS:
            raise ValueError(
                f"the range test recorded only {len(pairs)} finite losses; at least {FEWEST_POINTS} are needed:"
                " make the test longer (num_steps), or let it begin at a lower lr (lr_range_test_min_lr)"
            )
        kept_lrs, kept_losses = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
        smoothed = zero_phase(kept_losses, smoothing)
        rising, where = np.unique(np.log(kept_lrs), return_index=True)
        if len(rising) < 2:
            raise ValueError("the lr did not change during the range test: raise max_lr or lr_range_test_step_rate")
        self.log_lr = np.linspace(rising[0], rising[-1], GRID_POINTS)
        self.loss = np.interp(self.log_lr, rising, smoothed[where])
        self.minimum = int(np.argmin(self.loss))
        self.start = float(np.mean(self.loss[: max(1, GRID_POINTS // 20)]))
        self.fall = self.start - float(self.loss[self.minimum])
        if self.minimum == 0 or self.fall <= 0:
            raise ValueError(
                "the loss never fell below its starting value during the range test: begin at a lower lr"
                " (lr_range_test_min_lr), or let the lr grow more slowly (num_steps, lr_range_test_step_size)"
            )

    def lr_of(self, index: int) -> float:
        """Return the lr of a grid point."""
        return float(math.exp(self.log_lr[index]))


def zero_phase(values: Array, smoothing: float) -> Array:
    """Smooth with a bias-corrected exponential average, forwards and backwards, and take the mean of both."""

    def average(sequence: Array) -> Array:
        total, weight, out = 0.0, 0.0, []
        for value in sequence:
            total, weight = smoothing * total + value, smoothing * weight + 1.0
            out.append(total / weight)
        return np.array(out)

    return (average(values) + average(values[::-1])[::-1]) / 2.0


def minimum(curve: Curve) -> float:
    """A tenth of the lr at which the loss is lowest (fastai's ``minimum``)."""
    return curve.lr_of(curve.minimum) / 10.0


def steep(curve: Curve) -> float:
    """The lr at which the loss falls fastest per log lr, before its minimum (fastai's and Lightning's idea)."""
    slope = np.gradient(curve.loss, curve.log_lr)[: curve.minimum + 1]
    return curve.lr_of(int(np.argmin(slope)))


def valley(curve: Curve) -> float:
    """The middle of the longest stretch over which the loss keeps falling (fastai's ``valley``)."""
    begin, best = 0, (0, 0)
    for index, (here, there) in enumerate(pairwise(curve.loss), start=1):
        if there > here:
            begin = index
        elif index - begin > best[1] - best[0]:
            best = (begin, index)
    return curve.lr_of((best[0] + best[1]) // 2)


def slide(curve: Curve) -> float:
    """The highest lr, before the minimum, at which the loss still falls at half its greatest speed (after fastai)."""
    slope = np.gradient(curve.loss, curve.log_lr)[: curve.minimum + 1]
    return curve.lr_of(int(np.flatnonzero(slope <= slope.min() / 2.0)[-1]))


METHODS = {"valley": valley, "steep": steep, "minimum": minimum, "slide": slide}


def bounds(curve: Curve) -> tuple[float, float]:
    """The lowest lr at which the loss clearly falls (a tenth of its fall), and the highest before it turns.

    The highest is where nine tenths of the fall are done: at the minimum itself the model already stands at the edge
    of divergence.
    """
    done = (curve.start - curve.loss[: curve.minimum + 1]) / curve.fall
    return curve.lr_of(int(np.flatnonzero(done >= 0.1)[0])), curve.lr_of(int(np.flatnonzero(done >= 0.9)[0]))
