"""WarmupLR, WarmupDecayLR, WarmupCosineLR: the learning rate rises, then stays, falls in a line, or falls in a wave."""

from __future__ import annotations

import math
import warnings

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.checks import choice, count, for_each_group, number, one_or_per_group, ordered
from lightning_lrsched.schedulers.curves import cosine_decay, linear_decay, warmup
from lightning_lrsched.schedulers.param_groups import Range, Weights

WARMUP_TYPES = ("log", "linear")
DEFAULT_WARMUP_MAX_LR = 0.001


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

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_min_lr: float | list[float] = 0.0,
        warmup_max_lr: float | list[float] | None = DEFAULT_WARMUP_MAX_LR,
        warmup_num_steps: int = 1000,
        warmup_type: str = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        self.warmup_min_lr = one_or_per_group("warmup_min_lr", warmup_min_lr, number, at_least=0)
        # By identity: a user who writes 0.001 has decided, one who writes nothing may not know.
        max_lr_by_default = warmup_max_lr is DEFAULT_WARMUP_MAX_LR
        self.warmup_max_lr = (
            None if warmup_max_lr is None else one_or_per_group("warmup_max_lr", warmup_max_lr, number, at_least=0)
        )
        self.warmup_num_steps = count("warmup_num_steps", warmup_num_steps)
        self.warmup_type = choice("warmup_type", warmup_type, WARMUP_TYPES)
        self._warmup_steps = _effective_steps(self.warmup_num_steps)
        super().__init__(optimizer, last_batch_iteration)
        # A float32 tensor holds 0.001 only to seven digits.
        replaced = [lr for lr in self.base_lrs if not math.isclose(lr, DEFAULT_WARMUP_MAX_LR, rel_tol=1e-6)]
        if max_lr_by_default and replaced:
            warnings.warn(
                f"{type(self).__name__}: warmup_max_lr was not given, so its default {DEFAULT_WARMUP_MAX_LR} replaces"
                f" the optimizer's own lr ({replaced[0]!r}); give warmup_max_lr, or None to keep each group's own lr",
                stacklevel=2 if type(self) is WarmupLR else 3,  # a subclass's constructor lies between
            )

    def scales_own_lr(self) -> bool:  # noqa: D102 - inherited
        return self.warmup_max_lr is None

    def _lr_ranges(self) -> list[Range]:
        groups = len(self.optimizer.param_groups)
        lows = for_each_group("warmup_min_lr", self.warmup_min_lr, groups)
        if self.warmup_max_lr is None:
            return ordered("warmup_min_lr", lows, "the optimizer's lr", [float(lr) for lr in self.base_lrs])
        return ordered(
            "warmup_min_lr", lows, "warmup_max_lr", for_each_group("warmup_max_lr", self.warmup_max_lr, groups)
        )

    def _weights(self, step: int) -> Weights:
        up = warmup(step, self._warmup_steps, self.warmup_type)
        return 1.0 - up, up, 0.0, 0.0


class WarmupDecayLR(WarmupLR):
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
        total_num_steps: int,
        warmup_min_lr: float | list[float] = 0.0,
        warmup_max_lr: float | list[float] | None = DEFAULT_WARMUP_MAX_LR,
        warmup_num_steps: int = 1000,
        warmup_type: str = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        self.total_num_steps = count("total_num_steps", total_num_steps, at_least=1)
        super().__init__(optimizer, warmup_min_lr, warmup_max_lr, warmup_num_steps, warmup_type, last_batch_iteration)
        _warn_if_warmup_is_longer(self)

    def _weights(self, step: int) -> Weights:
        if step <= self._warmup_steps:
            up = warmup(step, self._warmup_steps, self.warmup_type)
        else:
            up = linear_decay(step, self._warmup_steps, self.total_num_steps)
        return 1.0 - up, up, 0.0, 0.0


class WarmupCosineLR(ClosedFormLR):
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
        total_num_steps: int,
        warmup_min_ratio: float = 0.0,
        warmup_num_steps: int = 1000,
        cos_min_ratio: float = 0.0001,
        warmup_type: str = "log",
        last_batch_iteration: int = -1,
    ) -> None:
        self.total_num_steps = count("total_num_steps", total_num_steps, at_least=1)
        self.warmup_min_ratio = number("warmup_min_ratio", warmup_min_ratio, at_least=0, at_most=1)
        self.warmup_num_steps = count("warmup_num_steps", warmup_num_steps)
        self.cos_min_ratio = number("cos_min_ratio", cos_min_ratio, at_least=0, at_most=1)
        self.warmup_type = choice("warmup_type", warmup_type, WARMUP_TYPES)
        self._warmup_steps = _effective_steps(self.warmup_num_steps)
        super().__init__(optimizer, last_batch_iteration)
        _warn_if_warmup_is_longer(self)

    def scales_own_lr(self) -> bool:  # noqa: D102 - inherited
        return True

    def _lr_ranges(self) -> list[Range]:
        return [(0.0, float(lr)) for lr in self.base_lrs]

    def _weights(self, step: int) -> Weights:
        if step <= self._warmup_steps:
            low, up = self.warmup_min_ratio, warmup(step, self._warmup_steps, self.warmup_type)
        else:
            low, up = self.cos_min_ratio, cosine_decay(step, self._warmup_steps, self.total_num_steps)
        return 0.0, low * (1.0 - up) + up, 0.0, 0.0


def _effective_steps(warmup_num_steps: int) -> int:
    """DeepSpeed lengthens a warmup of one step to two (the logarithm of 1 is 0); here 0 means none at all."""
    return max(2, warmup_num_steps) if warmup_num_steps else 0


def _warn_if_warmup_is_longer(schedule: WarmupDecayLR | WarmupCosineLR) -> None:
    if schedule.total_num_steps < schedule.warmup_num_steps:
        warnings.warn(
            f"{type(schedule).__name__}: total_num_steps={schedule.total_num_steps} is less than"
            f" warmup_num_steps={schedule.warmup_num_steps}: the lr falls to its low value right after the warmup",
            stacklevel=3,
        )
