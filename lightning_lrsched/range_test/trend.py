"""LossTrend: the smoothed loss of a sweep and the rule that says when it has diverged."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

SETTLING_STEPS = 10
"""Losses at the beginning: their mean is where the loss came from, their jitter is its noise; no verdict before."""

DIVERGENCE_FACTOR = 0.25
"""Share of the fall so far that the smoothed loss may climb back."""

NOISE_FACTOR = 3.0
"""Standard deviations of a single loss that a rise must exceed, however little the loss has fallen before."""

CONFIRMING_LOSSES = 3
"""Losses in a row that must lie above the bar too: a single spike lifts the average, but not its neighbours."""


class LossTrend(Metric):
    """Smooths a loss and tells whether it has diverged.

    The smoothed loss is an exponential average with exact bias correction,
    ``average(t) = sum(b**(t-i) * loss(i)) / sum(b**(t-i))``, ``b = smoothing``. The loss has diverged when it is not
    finite, or when its average and the last 3 losses themselves all lie above
    ``best + max(divergence_factor * (first - best), 3 * noise)``. There ``best`` is the lowest average since the
    beginning was over (of few losses, the best average is mostly luck), ``first`` the mean of the first ``settling``
    losses, and ``noise`` the standard deviation of a single loss, from the jitter between neighbours up to the best
    one: an explosion must not widen the tolerance that it is to be measured by. The rule knows only differences: a
    constant added to the loss, or its sign, changes nothing.

    The constants were chosen by measurement on complete sweeps: ``tests/benchmarks/stop_rule.py``.

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
    above: Tensor
    diverged: Tensor

    def __init__(
        self, smoothing: float = 0.9, divergence_factor: float = DIVERGENCE_FACTOR, settling: int = SETTLING_STEPS
    ) -> None:
        super().__init__(sync_on_compute=False)
        self.smoothing = smoothing
        self.divergence_factor = divergence_factor
        self.settling = settling
        for name in ("origin", "average", "weight", "losses", "first", "last", "jitter", "noise", "above"):
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
        better = (smoothed < self.best) & (self.losses >= self.settling)
        # Neighbouring losses differ by sqrt(2) standard deviations on average.
        noise = (self.jitter / (2 * (self.losses - 1).clamp(min=1))).sqrt()
        self.noise = torch.where(settling | better, noise, self.noise)
        self.best = torch.where(better, smoothed, self.best)
        bar = self.best + torch.maximum(self.divergence_factor * (self.first - self.best), NOISE_FACTOR * self.noise)
        self.above = torch.where(loss > bar, self.above + 1, 0)
        risen = ~settling & (smoothed > bar) & (self.above >= CONFIRMING_LOSSES)
        self.diverged = self.diverged | risen | ~torch.isfinite(loss)

    def compute(self) -> Tensor:
        """Return the smoothed loss."""
        return self.origin + self.average / self.weight
