"""LossReader: takes in the loss of each optimizer step on its device and returns it on the host, without waiting."""

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

    The number is the same on every rank, whatever the speed of its device, so that all ranks decide at the same step.
    On the CPU there is nothing to wait for, and losses arrive at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._micro_batches: list[Tensor] = []
        self._pending: deque[tuple[int | None, Tensor, Any]] = deque()
        self._arrived: list[Loss] = []

    def add(self, loss: Tensor) -> None:
        """Add the loss of one micro-batch."""
        self._micro_batches.append(loss.detach())

    def end_step(self, step: int | None) -> None:
        """Send the mean loss of the micro-batches since the last call, if there were any."""
        losses, self._micro_batches = self._micro_batches, []
        if losses:
            self.send(step, losses[0] if len(losses) == 1 else sum(losses[1:], start=losses[0]) / len(losses))

    def send(self, step: int | None, loss: Tensor) -> None:
        """Start copying one loss to the host; first take its mean over the ranks."""
        self.count += 1
        loss = mean_over_ranks(loss.detach())
        if not _is_far(loss):
            self._arrived.append(Loss(step, loss.item()))
        elif loss.device.type == "cuda":
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            host.copy_(loss.reshape(()), non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._pending.append((step, host, copied))
        else:
            self._pending.append((step, loss.clone(), None))  # the module may change its own later

    def arrived(self, *, wait: bool = False) -> list[Loss]:
        """Return the losses that have arrived since the last call; with ``wait`` also those still being copied."""
        while len(self._pending) > (0 if wait else LAG):
            step, loss, copied = self._pending.popleft()
            if copied is not None:
                copied.synchronize()  # LAG steps old: normally finished long ago
            self._arrived.append(Loss(step, loss.item()))
        arrived, self._arrived = self._arrived, []
        return arrived


def _is_far(loss: Tensor) -> bool:
    """Return whether reading ``loss`` would make the host wait for a device."""
    return loss.device.type != "cpu"


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over all ranks; not finite if it is not finite on any of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.to(torch.float64, copy=True)  # bfloat16 losses would be added up in bfloat16
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
