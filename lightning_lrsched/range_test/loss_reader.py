"""LossReader: the loss of each optimizer step comes in on its device and out on the host, without waiting for it."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

LAG = 8
"""Optimizer steps between a loss on an accelerator and its arrival on the host; the same on every rank."""


class Loss(NamedTuple):
    """The loss of one optimizer step, or one validation loss after it; ``step`` None: the step was skipped."""

    step: int | None
    value: float


class LossReader:
    """Averages the losses of a step over micro-batches and ranks, and reads them a fixed number of steps late.

    The same number on every rank, whatever the speed of its device, so that all ranks decide at the same step. On the
    CPU there is nothing to wait for, and losses arrive at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._micro_batches: list[Tensor] = []
        self._pending: deque[tuple[int | None, Tensor, Any]] = deque()

    def add(self, loss: Tensor) -> None:
        """Add the loss of one micro-batch."""
        self._micro_batches.append(loss.detach())

    def end_step(self, step: int | None) -> None:
        """Send the mean loss of the micro-batches since the last call; nothing where there were none."""
        losses, self._micro_batches = self._micro_batches, []
        if losses:
            self.send(step, losses[0] if len(losses) == 1 else sum(losses[1:], start=losses[0]) / len(losses))

    def send(self, step: int | None, loss: Tensor) -> None:
        """Send one loss on its way to the host; the mean over the ranks is taken here."""
        self.count += 1
        loss = mean_over_ranks(loss.detach())
        arrived = None
        if loss.device.type == "cuda":
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            loss = host.copy_(loss.reshape(()), non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            loss = loss.clone()  # the module may go on to change its own
        self._pending.append((step, loss, arrived))

    def arrived(self, *, wait: bool = False) -> list[Loss]:
        """Return the losses that have arrived since the last call; with ``wait`` also those still on their way."""
        losses = []
        while self._pending and (wait or len(self._pending) > self._lag()):
            step, loss, arrived = self._pending.popleft()
            if arrived is not None:
                arrived.synchronize()  # LAG steps old: normally long past
            losses.append(Loss(step, float(loss)))
        return losses

    def _lag(self) -> int:
        _, loss, arrived = self._pending[0]
        return 0 if arrived is None and loss.device.type == "cpu" else LAG


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over all ranks; not finite if it is not finite on any of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.to(torch.float64, copy=True)  # bfloat16 losses would be added up in bfloat16
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
