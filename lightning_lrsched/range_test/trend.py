"""LossTrend: the smoothed loss of a sweep and the rule that says when it has diverged."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

SETTLING_STEPS = 10
"""Losses at the beginning: their mean is where the loss came from, their jitter is its noise; no verdict before."""

NOISE_FACTOR = 4.0
"""Standard deviations of a single loss that a rise must exceed, however little the loss has fallen before."""


class LossTrend(Metric):
    """Smooths a loss and tells whether it has diverged.

    The smoothed loss is an exponential average with exact bias correction,
    ``average(t) = sum(b**(t-i) * loss(i)) / sum(b**(t-i))``, ``b = smoothing``. The loss has diverged when it is not
    finite, or when its average lies above its best value so far by more than
    ``max(divergence_factor * (first - best), NOISE_FACTOR * noise)``; ``first`` is the mean of the first
    ``settling`` losses. The rule knows only differences: a constant added to the loss, or its sign, changes nothing.
    The noise, a standard deviation, comes from the jitter between neighbouring losses up to the best one: an explosion
    must not widen the tolerance that it is to be measured by.

    All state lives on the metric's device; nothing here waits for it. All ranks feed the same (averaged) loss and so
    reach the same verdict.

    Args:
        smoothing: weight of the past in the average, in [0, 1); 0: no smoothing.
        divergence_factor: share of the fall so far that the loss may climb back.
        settling: how many losses are taken to be the beginning.
    """

    full_state_update = False
    origin: Tensor
    average: Tensor
    weight: Tensor
    losses: Tensor
    first: Tensor
    best: Tensor
    last: Tensor
    jitter: Tensor
    noise: Tensor
    diverged: Tensor

    def __init__(self, smoothing: float = 0.9, divergence_factor: float = 0.5, settling: int = SETTLING_STEPS) -> None:
        super().__init__(sync_on_compute=False)
        self.smoothing = smoothing
        self.divergence_factor = divergence_factor
        self.settling = settling
        for name in ("origin", "average", "weight", "losses", "first", "last", "jitter", "noise"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="mean")
        self.add_state("best", torch.full((), torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self.add_state("diverged", torch.zeros((), dtype=torch.bool), dist_reduce_fx="max")

    def update(self, loss: Tensor) -> None:
        """Add the loss of one optimizer step."""
        loss = loss.detach().to(self.average)
        # Averaged is the distance from the first loss: of a constant it is exactly 0, without any rounding.
        self.origin = torch.where(self.losses == 0, loss, self.origin)
        loss = loss - self.origin
        self.average = self.smoothing * self.average + (1 - self.smoothing) * loss
        self.weight = self.smoothing * self.weight + (1 - self.smoothing)
        self.losses = self.losses + 1
        settling = self.losses <= self.settling
        self.first = torch.where(settling, self.first + (loss - self.first) / self.losses, self.first)
        self.jitter = torch.where(self.losses > 1, self.jitter + (loss - self.last) ** 2, self.jitter)
        self.last = loss

        smoothed = self.average / self.weight
        better = smoothed < self.best
        # Neighbouring losses differ by sqrt(2) standard deviations on average.
        noise = (self.jitter / (2 * (self.losses - 1).clamp(min=1))).sqrt()
        self.noise = torch.where(settling | better, noise, self.noise)
        self.best = torch.where(better, smoothed, self.best)
        climb = torch.maximum(self.divergence_factor * (self.first - self.best), NOISE_FACTOR * self.noise)
        risen = ~settling & (smoothed > self.best + climb)
        self.diverged = self.diverged | risen | ~torch.isfinite(loss)

    def compute(self) -> Tensor:
        """Return the smoothed loss."""
        return self.origin + self.average / self.weight
