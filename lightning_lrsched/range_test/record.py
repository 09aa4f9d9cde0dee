"""LossRecord: losses come in on the device, rows of numbers come out on the host, without waiting for the device."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lrsched.range_test.smoothing import DEFAULT_SMOOTHING, LossTrend, newest_share

LAG = 8
"""Optimizer steps between a loss on an accelerator and its arrival on the host; the same on every rank."""


class Row(NamedTuple):
    """One recorded optimizer step."""

    step: int
    lr: float
    loss: float
    smoothed_loss: float


class LossRecord:
    """Smooths losses where they are made and reads them back a fixed number of steps late (0 on CPU).

    The same number on every rank, whatever the speed of its device, so that all ranks decide at the same step.
    """

    def __init__(self, device: torch.device, smoothing: float = DEFAULT_SMOOTHING) -> None:
        self.trend = LossTrend(smoothing)
        if device.type == "mps":
            self.trend.set_dtype(torch.float32)  # Apple's GPUs have no float64
        self.trend.to(device)
        self._on_host = device.type == "cpu"
        self._pending: deque[tuple[int, float, Tensor, torch.cuda.Event | None]] = deque()
        self._arrived: list[Row] = []
        self.count = 0
        self._smoothed = 0.0

    def add(self, step: int, lr: float, loss: Tensor) -> None:
        """Record the loss of optimizer step ``step``; a scalar tensor, the mean over the ranks is taken here."""
        self.count += 1
        loss = mean_over_ranks(loss.detach())
        if self._on_host:
            self._add_on_host(step, lr, loss.item())
        else:
            self._add_on_device(step, lr, loss)

    def _add_on_host(self, step: int, lr: float, loss: float) -> None:
        # The trend's own recursion, in plain numbers: as tensors, two of them cost more than the step of a small model.
        self._smoothed += newest_share(self.trend.smoothing, self.count) * (loss - self._smoothed)
        self._arrived.append(Row(step, lr, loss, self._smoothed))

    def _add_on_device(self, step: int, lr: float, loss: Tensor) -> None:
        loss = loss.to(self.trend.smoothed)
        self.trend.update(loss)
        row = torch.stack((loss, self.trend.smoothed))
        if row.device.type == "cuda":
            host = torch.empty(2, dtype=row.dtype, pin_memory=True)
            host.copy_(row, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._pending.append((step, lr, host, arrived))
        else:
            self._pending.append((step, lr, row, None))

    def rows(self, *, all_of_them: bool = False) -> list[Row]:
        """Return the rows that have arrived since the last call; with ``all_of_them`` wait for the rest."""
        while len(self._pending) > (0 if all_of_them else LAG):
            step, lr, values, event = self._pending.popleft()
            if event is not None:
                event.synchronize()  # LAG steps old: normally long past
            self._arrived.append(Row(step, lr, *values.tolist()))
        arrived, self._arrived = self._arrived, []
        return arrived


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over all ranks; not finite if it is not finite on any of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.to(torch.float64, copy=True)  # bfloat16 losses would be added up in bfloat16
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
