"""LossTrend: the smoothed loss of a sweep, kept on the device where the losses are made."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

DEFAULT_SMOOTHING = 0.9


def newest_share(smoothing: float, losses: int) -> float:
    """Return the weight of the newest of so many losses: 1 for the first, going to ``1 - smoothing``."""
    return (1.0 - smoothing) / (1.0 - smoothing**losses)


class LossTrend(Metric):
    """Smooths a loss by an exponential average with exact bias correction.

    ``average(t) = sum(b**(t-i) * loss(i)) / sum(b**(t-i))`` with ``b = smoothing`` and both sums over ``i = 0..t``. The
    average is linear in the losses, so the mean over the ranks of their averages is the average of their mean loss.

    Args:
        smoothing: weight of the past in the average, in [0, 1); 0: no smoothing.

    Example:
        >>> trend = LossTrend(smoothing=0.5)
        >>> trend.update(torch.tensor(1.0))
        >>> trend.update(torch.tensor(4.0))
        >>> trend.compute().item()  # (0.5 * 1 + 1 * 4) / (0.5 + 1)
        3.0
    """

    full_state_update = False
    smoothed: Tensor

    def __init__(self, smoothing: float = DEFAULT_SMOOTHING) -> None:
        super().__init__(sync_on_compute=False)
        self.smoothing = smoothing
        self.add_state("smoothed", torch.zeros((), dtype=torch.float64), dist_reduce_fx="mean")

    def update(self, loss: Tensor) -> None:
        """Add the loss of one optimizer step."""
        share = newest_share(self.smoothing, self.update_count)
        self.smoothed = torch.lerp(self.smoothed, loss.detach().to(self.smoothed), share)

    def compute(self) -> Tensor:
        """Return the smoothed loss."""
        return self.smoothed
