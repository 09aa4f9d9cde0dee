"""LossWatch: reads the losses of a training late, smooths them, and decides whether they have diverged."""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

DEFAULT_SMOOTHING = 0.9

LAG = 8
"""Optimizer steps between a loss on an accelerator and its arrival on the host; the same on every rank."""

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


class Loss(NamedTuple):
    """The loss of one optimizer step, or one validation loss after it; ``step`` None: the step was skipped."""

    step: int | None
    value: float


class Watched(NamedTuple):
    """One loss that has arrived, with its running average."""

    step: int
    loss: float
    smoothed: float


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


def device_of(optimizer: Optimizer) -> torch.device:
    """Return where the parameters are: a mean over ranks is taken on the device that they communicate on."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])  # one may be empty
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over all ranks; not finite if it is not finite on any of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.to(torch.float64, copy=True)  # bfloat16 losses would be added up in bfloat16
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


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


class LossWatch:
    """Takes in the losses of a training and says when they have diverged.

    A loss goes one way: mean over the micro-batches of a step and over ranks, from the device to the host, smoothed,
    stop rule. Nothing waits for the device: on an accelerator a loss, and a verdict, come :data:`LAG` steps late.

    Args:
        smoothing: weight of the past in the smoothed loss, per optimizer step.
        factor: fraction of the fall so far that the smoothed loss may climb back.
        by_validation: whether the losses are validation losses.

    Attributes:
        verdict: ``DIVERGED`` or ``NON_FINITE`` once the losses have; None until then.
    """

    def __init__(self, smoothing: float, factor: float, *, by_validation: bool = False) -> None:
        self.verdict: StopReason | None = None
        self._reader = LossReader()
        self._smoothed = SmoothedLoss(smoothing)
        self._divergence = Divergence(factor, VALIDATION_RISE if by_validation else 0.0)

    @property
    def has_losses(self) -> bool:
        """Whether any loss has come in."""
        return self._reader.count > 0

    def add(self, loss: Tensor) -> None:
        """Add the loss of one micro-batch."""
        self._reader.add(loss)

    def end_step(self, step: int | None) -> list[Watched]:
        """Note that the losses since the last call belong to ``step``, None: to one that was skipped."""
        self._reader.end_step(step)
        return self.take()

    def send(self, step: int, loss: Tensor) -> list[Watched]:
        """Add a validation loss after optimizer step ``step``."""
        self._reader.send(step, loss)
        return self.take()

    def take(self, *, wait: bool = False) -> list[Watched]:
        """Return the losses that have arrived since the last call, up to the verdict; with ``wait``, all of them."""
        taken: list[Watched] = []
        for step, value in self._reader.arrived(wait=wait):
            if self.verdict is not None:
                break  # what arrives after the verdict does not belong to the record
            finite = math.isfinite(value)
            diverged = not finite
            if step is not None:
                taken.append(Watched(step, value, self._smoothed.update(step, value)))
                diverged = self._divergence.update(step, value, taken[-1].smoothed)
            if diverged:
                self.verdict = StopReason.DIVERGED if finite else StopReason.NON_FINITE
        return taken
