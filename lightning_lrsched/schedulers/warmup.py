"""WarmupLR, WarmupDecayLR, WarmupCosineLR: the lr rises, then stays, falls in a line, or falls along a cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.curves import cosine_decay, linear_decay, warmup
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.rules import OWN_LR, ZERO, Number, Steps
from lightning_lrsched.schedulers.schedule import Circumstances, Schedule

DEFAULT_WARMUP_MAX_LR = 0.001

MinLr = Annotated[float | list[float], Number(at_least=0, auto=ZERO, finding="low")]
MaxLr = Annotated[float | list[float] | None, Number(at_least=0, auto=OWN_LR, finding="suggestion")]
WarmupSteps = Annotated[int, Steps(auto=0.1)]
TotalSteps = Annotated[int, Steps(at_least=1, auto=1.0)]
WarmupType = Literal["log", "linear"]
Ratio = Annotated[float, Number(at_least=0, at_most=1)]


class WarmupLR(ClosedFormLR):
    """Raises the learning rate from a low to a high value and keeps it there.

    With ``N = max(2, warmup_num_steps)``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)

        w(s)  = 0                    for s <= 1
        w(s)  = log(s) / log(N)      for 1 < s <= N; linear: (s - 1) / N
        w(s)  = 1                    for s > N

    The first two optimizer steps run at ``min_lr``: that is DeepSpeed's curve. ``warmup_num_steps=0`` means no warmup,
    ``N = 0``: ``w(s) = 1`` from step 0 on.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        warmup_min_lr: lr at the start; one float, or one per param group.
        warmup_max_lr: lr after the warmup; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps].
        warmup_type: ``"log"`` or ``"linear"``.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, the low end lies above the high end, or a list is not as long as the
            optimizer's param groups.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupLR``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = WarmupLR(optimizer, warmup_max_lr=1.0, warmup_num_steps=4, warmup_type="linear")
        >>> [schedule.lr_at(step)[0] for step in range(7)]
        [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    low_and_high: tuple[tuple[str, str], ...] = (("warmup_min_lr", "warmup_max_lr"),)

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_min_lr: MinLr = 0.0,
        warmup_max_lr: MaxLr = DEFAULT_WARMUP_MAX_LR,
        warmup_num_steps: WarmupSteps = 1000,
        warmup_type: WarmupType = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        super().__init__(optimizer, last_batch_iteration, WarmupLR, locals())

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return a sentence about a default lr that replaces the optimizer's."""
        # A float32 tensor holds 0.001 only to seven digits.
        replaced = [lr for lr in about.base_lrs if not math.isclose(lr, DEFAULT_WARMUP_MAX_LR, rel_tol=1e-6)]
        if "warmup_max_lr" not in about.defaulted or not replaced:
            return []
        return [
            f"{cls.__name__}: warmup_max_lr was not given, so its default {DEFAULT_WARMUP_MAX_LR} replaces the"
            f" optimizer's own lr ({replaced[0]!r}); give warmup_max_lr, or None to keep each group's own lr"
        ]

    @classmethod
    def scales_base_lr(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether the lr after the warmup is each group's own."""
        return parameters["warmup_max_lr"] is None

    @classmethod
    def length(cls, parameters: Mapping[str, Any]) -> tuple[list[str], int]:
        """Return the end of the warmup, after which the lr stays high."""
        return ["warmup_num_steps"], parameters["warmup_num_steps"]

    @classmethod
    def preview_steps(cls, parameters: Mapping[str, Any]) -> int:
        """Return twice the warmup."""
        return 2 * parameters["warmup_num_steps"] or 100

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        min_lr, max_lr = p.warmup_min_lr, p.base_lr if p.warmup_max_lr is None else p.warmup_max_lr
        n, shape = effective_steps(p.warmup_num_steps), p.warmup_type

        def values(s: int) -> tuple[Any, None]:
            f = warmup(s, n, shape)
            return min_lr * (1.0 - f) + max_lr * f, None

        return values


class EndsAtTotal(Schedule):
    """What the schedules that warm up and end low at ``total_num_steps`` have in common."""

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return also a sentence about a warmup that is too long."""
        total, warmup_steps = about.parameters["total_num_steps"], about.parameters["warmup_num_steps"]
        remarks = super().remarks(about)
        # One of them may still depend on the run.
        if isinstance(total, int) and isinstance(warmup_steps, int) and total < warmup_steps:
            remarks.append(
                f"{cls.__name__}: total_num_steps={total} is less than warmup_num_steps={warmup_steps}: the lr falls to"
                " its low value right after the warmup"
            )
        return remarks

    @classmethod
    def length(cls, parameters: Mapping[str, Any]) -> tuple[list[str], int]:
        """Return the end of the decay."""
        # A warmup that is longer than the total still runs to its end.
        key = max(("total_num_steps", "warmup_num_steps"), key=lambda key: parameters[key])
        return [key], parameters[key]

    @classmethod
    def ends_low(cls, parameters: Mapping[str, Any]) -> bool:
        """Return True."""
        return True

    @classmethod
    def preview_steps(cls, parameters: Mapping[str, Any]) -> int:
        """Return the end of the decay."""
        return cls.length(parameters)[1]


class WarmupDecayLR(EndsAtTotal, WarmupLR):
    """Raises the learning rate as WarmupLR does and then lowers it in a straight line back to its low value.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR` and ``T = total_num_steps``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)                       for s <= N
        lr(s) = min_lr + (max_lr - min_lr) * (T - (s - 1)) / (T - N)    for N < s <= T
        lr(s) = min_lr                                                  for s > N and s > T

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        total_num_steps: length of warmup and decay together [optimizer steps].
        warmup_min_lr: lr at both ends; one float, or one per param group.
        warmup_max_lr: lr after the warmup; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        warmup_type: ``"log"`` or ``"linear"``.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, the low end lies above the high end, or a list is not as long as the
            optimizer's param groups.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupDecayLR``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = WarmupDecayLR(optimizer, 6, warmup_max_lr=1.0, warmup_num_steps=2, warmup_type="linear")
        >>> [schedule.lr_at(step)[0] for step in range(9)]
        [0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: TotalSteps,
        warmup_min_lr: MinLr = 0.0,
        warmup_max_lr: MaxLr = DEFAULT_WARMUP_MAX_LR,
        warmup_num_steps: WarmupSteps = 1000,
        warmup_type: WarmupType = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        # Not WarmupLR's own constructor: it has fewer parameters.
        ClosedFormLR.__init__(self, optimizer, last_batch_iteration, WarmupDecayLR, locals())

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        min_lr, max_lr = p.warmup_min_lr, p.base_lr if p.warmup_max_lr is None else p.warmup_max_lr
        n, total, shape = effective_steps(p.warmup_num_steps), p.total_num_steps, p.warmup_type

        def values(s: int) -> tuple[Any, None]:
            f = warmup(s, n, shape) if s <= n else linear_decay(s, n, total)
            return min_lr * (1.0 - f) + max_lr * f, None

        return values


class WarmupCosineLR(EndsAtTotal, ClosedFormLR):
    """Multiplies each group's own learning rate by a ratio that rises to 1 and then falls along half a cosine wave.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR`, ``T = total_num_steps`` and, after the warmup,
    ``p(s) = min(1, (s - N) / max(1, T - N))``::

        lr(s)    = ratio(s) * lr of the optimizer

        ratio(s) = warmup_min_ratio + (1 - warmup_min_ratio) * w(s)                 for s <= N
        ratio(s) = cos_min_ratio + (1 - cos_min_ratio) * (1 + cos(pi * p(s))) / 2   for s > N

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        total_num_steps: length of warmup and decay together [optimizer steps].
        warmup_min_ratio: ratio at the start, in [0, 1].
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        cos_min_ratio: ratio at the end, in [0, 1].
        warmup_type: ``"log"`` or ``"linear"``.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupCosineLR``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupCosineLR(optimizer, 6, warmup_num_steps=2, warmup_type="linear", cos_min_ratio=0.0)
        >>> [round(schedule.lr_at(step)[0], 6) for step in range(8)]
        [0.0, 0.0, 0.5, 0.853553, 0.5, 0.146447, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: TotalSteps,
        warmup_min_ratio: Ratio = 0.0,
        warmup_num_steps: WarmupSteps = 1000,
        cos_min_ratio: Ratio = 0.0001,
        warmup_type: WarmupType = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        super().__init__(optimizer, last_batch_iteration, WarmupCosineLR, locals())

    @classmethod
    def scales_base_lr(cls, parameters: Mapping[str, Any]) -> bool:
        """Return True: the values are multiples of each group's own lr."""
        return True

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        base_lr, min_ratio, end_ratio = p.base_lr, p.warmup_min_ratio, p.cos_min_ratio
        n, total, shape = effective_steps(p.warmup_num_steps), p.total_num_steps, p.warmup_type

        def values(s: int) -> tuple[Any, None]:
            low, f = (min_ratio, warmup(s, n, shape)) if s <= n else (end_ratio, cosine_decay(s, n, total))
            return base_lr * (low * (1.0 - f) + f), None

        return values


def effective_steps(warmup_num_steps: int) -> int:
    """DeepSpeed lengthens a warmup of one step to two (the logarithm of 1 is 0); here 0 means none at all."""
    return max(2, warmup_num_steps) if warmup_num_steps else 0
