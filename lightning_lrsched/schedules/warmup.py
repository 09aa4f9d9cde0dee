"""Schedules that warm up: then the lr stays, falls in a line or along a cosine, or stays and falls at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from lightning_lrsched.schedules.curves import Shape, cosine_decay, falling, linear_decay, warmup
from lightning_lrsched.schedules.fields import OWN_LR, ZERO, Number, Steps, declared
from lightning_lrsched.schedules.schedule import Curve, Schedule, Value

DEFAULT_MAX_LR = 0.001
DECAY_FRACTION = 0.2
"""Length of the decay where none is given, as a fraction of the whole: it trains as well as a cosine over the whole."""

MinLr = Annotated[Value, Number(at_least=0, auto=ZERO, finding="low", per_group=True)]
MaxLr = Annotated[
    Value,
    Number(at_least=0, auto=OWN_LR, finding="suggestion", optional=True, none_is_auto=True, per_group=True),
]
WarmupSteps = Annotated[int, Steps(auto=0.1)]
TotalSteps = Annotated[int, Steps(at_least=1, auto=1.0)]
WarmupType = Literal["log", "linear"]
Ratio = Annotated[float, Number(at_least=0, at_most=1)]


def effective_steps(warmup_num_steps: int) -> int:
    """DeepSpeed lengthens a warmup of one step to two (the logarithm of 1 is 0); here 0 means none at all."""
    return max(2, warmup_num_steps) if warmup_num_steps else 0


class _WarmsUp(Schedule):
    """What the schedules that begin with a warmup have in common."""

    warmup_num_steps: int

    @property
    def highest_at(self) -> list[int]:
        """The end of the warmup; a linear one ends a step later."""
        rise = effective_steps(self.warmup_num_steps)
        return [rise, rise + 1]


class _ToMaxLr(_WarmsUp):
    """What the schedules that rise to ``warmup_max_lr`` have in common."""

    low_and_high: ClassVar[tuple[tuple[str, str], ...]] = (("warmup_min_lr", "warmup_max_lr"),)

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return also a sentence about a default lr that replaces the optimizer's."""
        remarks = super().remarks(own_lrs, without_momentum)
        if "warmup_max_lr" in self.given:
            return remarks
        # A float32 tensor holds 0.001 only to seven digits.
        replaced = [lr for lr in own_lrs if not math.isclose(lr, DEFAULT_MAX_LR, rel_tol=1e-6)]
        if replaced:
            remarks.append(
                f"{self.type}: warmup_max_lr was not given, so its default {DEFAULT_MAX_LR} replaces the optimizer's"
                f" own lr ({replaced[0]!r}); give warmup_max_lr, or None to keep each group's own lr"
            )
        return remarks


class _EndsAtTotal(_WarmsUp):
    """What the schedules that warm up and end low at ``total_num_steps`` have in common."""

    total_num_steps: int

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return also a sentence about a warmup that is too long."""
        total, rise = self.total_num_steps, self.warmup_num_steps
        remarks = super().remarks(own_lrs, without_momentum)
        if isinstance(total, int) and isinstance(rise, int) and total < rise:  # one may still depend on the run
            remarks.append(
                f"{self.type}: total_num_steps={total} is less than warmup_num_steps={rise}: the lr falls to its low"
                " value right after the warmup"
            )
        return remarks

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the decay; a warmup that is longer than the total still runs to its end."""
        key = max(("total_num_steps", "warmup_num_steps"), key=lambda key: getattr(self, key))
        return [key], getattr(self, key)

    @property
    def ends_low(self) -> bool:
        """True."""
        return True


@declared
class Warmup(_ToMaxLr):
    """Raises the learning rate from a low to a high value and keeps it there.

    With ``N = max(2, warmup_num_steps)``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)

        w(s)  = 0                    for s <= 1
        w(s)  = log(s) / log(N)      for 1 < s <= N; linear: (s - 1) / N
        w(s)  = 1                    for s > N

    The first two optimizer steps run at ``min_lr``: that is DeepSpeed's curve. ``warmup_num_steps=0`` means no warmup,
    ``N = 0``: ``w(s) = 1`` from step 0 on.

    Args:
        warmup_min_lr: lr at the start; one float, or one per param group.
        warmup_max_lr: lr after the warmup; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps].
        warmup_type: ``"log"`` or ``"linear"``.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupLR``.
    """

    type: ClassVar[str] = "WarmupLR"

    warmup_min_lr: MinLr = 0.0
    warmup_max_lr: MaxLr = DEFAULT_MAX_LR
    warmup_num_steps: WarmupSteps = 1000
    warmup_type: WarmupType = "log"

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the warmup, after which the lr stays high."""
        return ["warmup_num_steps"], self.warmup_num_steps

    @property
    def preview_steps(self) -> int:
        """Twice the warmup."""
        return 2 * self.warmup_num_steps or 100

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        min_lr, max_lr = self.warmup_min_lr, self.warmup_max_lr
        n, shape = effective_steps(self.warmup_num_steps), self.warmup_type

        def values(s: int) -> dict[str, Value]:
            f = warmup(s, n, shape)
            return {"lr": min_lr * (1.0 - f) + max_lr * f}

        return values


@declared
class WarmupDecay(_EndsAtTotal, _ToMaxLr):
    """Raises the learning rate as WarmupLR does and then lowers it in a straight line back to its low value.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR` and ``T = total_num_steps``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)                       for s <= N
        lr(s) = min_lr + (max_lr - min_lr) * (T - (s - 1)) / (T - N)    for N < s <= T
        lr(s) = min_lr                                                  for s > N and s > T

    Args:
        total_num_steps: length of warmup and decay together [optimizer steps].
        warmup_min_lr: lr at both ends; one float, or one per param group.
        warmup_max_lr: lr after the warmup; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        warmup_type: ``"log"`` or ``"linear"``.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupDecayLR``.
    """

    type: ClassVar[str] = "WarmupDecayLR"

    total_num_steps: TotalSteps
    warmup_min_lr: MinLr = 0.0
    warmup_max_lr: MaxLr = DEFAULT_MAX_LR
    warmup_num_steps: WarmupSteps = 1000
    warmup_type: WarmupType = "log"

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        min_lr, max_lr = self.warmup_min_lr, self.warmup_max_lr
        n, total, shape = effective_steps(self.warmup_num_steps), self.total_num_steps, self.warmup_type

        def values(s: int) -> dict[str, Value]:
            f = warmup(s, n, shape) if s <= n else linear_decay(s, n, total)
            return {"lr": min_lr * (1.0 - f) + max_lr * f}

        return values


@declared
class WarmupCosine(_EndsAtTotal):
    """Multiplies each group's own learning rate by a ratio that rises to 1 and then falls along half a cosine wave.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR`, ``T = total_num_steps`` and, after the warmup,
    ``p(s) = min(1, (s - N) / max(1, T - N))``::

        lr(s)    = ratio(s) * lr of the optimizer

        ratio(s) = warmup_min_ratio + (1 - warmup_min_ratio) * w(s)                 for s <= N
        ratio(s) = cos_min_ratio + (1 - cos_min_ratio) * (1 + cos(pi * p(s))) / 2   for s > N

    Args:
        total_num_steps: length of warmup and decay together [optimizer steps].
        warmup_min_ratio: ratio at the start, in [0, 1].
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        cos_min_ratio: ratio at the end, in [0, 1].
        warmup_type: ``"log"`` or ``"linear"``.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.WarmupCosineLR``.
    """

    type: ClassVar[str] = "WarmupCosineLR"

    total_num_steps: TotalSteps
    warmup_min_ratio: Ratio = 0.0
    warmup_num_steps: WarmupSteps = 1000
    cos_min_ratio: Ratio = 0.0001
    warmup_type: WarmupType = "log"

    @property
    def own_names(self) -> set[str]:
        """The lr, of which all values are multiples."""
        return {"lr"}

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        own_lr, min_ratio, end_ratio = own["lr"], self.warmup_min_ratio, self.cos_min_ratio
        n, total, shape = effective_steps(self.warmup_num_steps), self.total_num_steps, self.warmup_type

        def values(s: int) -> dict[str, Value]:
            low, f = (min_ratio, warmup(s, n, shape)) if s <= n else (end_ratio, cosine_decay(s, n, total))
            return {"lr": own_lr * (low * (1.0 - f) + f)}

        return values


@declared
class WarmupStableDecay(_EndsAtTotal, _ToMaxLr):
    """Raises the learning rate as WarmupLR does, keeps it there, and lowers it in the last part of the training.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR`, ``T = total_num_steps``, ``D = decay_num_steps`` and, from step
    ``T - D`` on, ``p(s) = min(1, (s - (T - D)) / D)``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)                          for s < T - D
        lr(s) = decay_min_lr + (max_lr - decay_min_lr) * f(p(s))           for s >= T - D

        f(p)  = 1 - p                   linear
        f(p)  = (1 + cos(pi * p)) / 2   cosine
        f(p)  = 1 - sqrt(p)             1-sqrt
        f(p)  = 2 * 0.5**p - 1          exponential

    Until ``T - D`` the lr does not depend on ``T`` and ``D``: from any checkpoint of the stable part, a training with
    another ``total_num_steps`` or ``decay_num_steps`` goes on as if it had been planned so.

    Where the warmup ends only after ``T - D``, the decay is shorter: it begins when the warmup has ended.

    Args:
        total_num_steps: length of warmup, stable part and decay together [optimizer steps].
        warmup_min_lr: lr at the start; one float, or one per param group.
        warmup_max_lr: lr of the stable part; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        warmup_type: ``"log"`` or ``"linear"``.
        decay_num_steps: length of the decay [optimizer steps]; 0: no decay; None: a fifth of ``total_num_steps``.
        decay_type: ``"linear"``, ``"cosine"``, ``"1-sqrt"``, ``"exponential"`` or ``"rex"``.
        decay_min_lr: lr at the end, and after it; one float, or one per param group.

    Source:
        A. Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations" (arXiv
        2405.18392); the shapes are those of Hugging Face's ``get_wsd_schedule`` and of Megatron-Core's
        ``OptimizerParamScheduler``. DeepSpeed has no such type.
    """

    type: ClassVar[str] = "WarmupStableDecayLR"
    in_deepspeed: ClassVar[bool] = False
    low_and_high: ClassVar[tuple[tuple[str, str], ...]] = (
        ("warmup_min_lr", "warmup_max_lr"),
        ("decay_min_lr", "warmup_max_lr"),
    )

    total_num_steps: TotalSteps
    warmup_min_lr: MinLr = 0.0
    warmup_max_lr: MaxLr = DEFAULT_MAX_LR
    warmup_num_steps: WarmupSteps = 1000
    warmup_type: WarmupType = "log"
    decay_num_steps: Annotated[int | None, Steps(auto=DECAY_FRACTION, optional=True)] = None
    decay_type: Shape = "linear"
    decay_min_lr: Annotated[Value, Number(at_least=0, auto=ZERO, per_group=True)] = 0.0

    def completed(self) -> WarmupStableDecay:
        """Give the decay its length where none is given."""
        if self.decay_num_steps is not None or not isinstance(self.total_num_steps, int):
            return self
        return self.with_leaves({"decay_num_steps": max(1, round(DECAY_FRACTION * self.total_num_steps))})

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return also a sentence about a decay for which the warmup leaves no room."""
        remarks = super().remarks(own_lrs, without_momentum)
        total, rise, decay = self.total_num_steps, self.warmup_num_steps, self.decay_num_steps
        # Some may still depend on the run; of a warmup that is longer than the whole, there is a sentence already.
        if isinstance(total, int) and isinstance(rise, int) and isinstance(decay, int) and 0 <= total - rise < decay:
            remarks.append(
                f"{self.type}: total_num_steps={total} leaves {total - rise} steps after warmup_num_steps={rise} for"
                f" the decay of decay_num_steps={decay}: the decay takes only these"
            )
        return remarks

    @property
    def ends_low(self) -> bool:
        """Whether there is a decay."""
        return bool(self.decay_num_steps)

    @property
    def turns(self) -> list[int]:
        """The ends of the warmup, of the stable part and of the decay."""
        total, rise, decay = self.total_num_steps, self.warmup_num_steps, self.decay_num_steps
        return [rise, max(rise, total - decay), total] if decay else [rise]

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the lr as a function of the position."""
        min_lr, max_lr, end_lr = self.warmup_min_lr, self.warmup_max_lr, self.decay_min_lr
        n, shape = effective_steps(self.warmup_num_steps), self.warmup_type
        total, decay, decay_shape = self.total_num_steps, self.decay_num_steps or 0, self.decay_type
        start = max(total - decay, n)
        fraction = falling(total - start, decay_shape)

        def values(s: int) -> dict[str, Value]:
            if s < start or not decay:
                low, f = min_lr, warmup(s, n, shape)
            else:
                low, f = end_lr, fraction(s - start)
            return {"lr": low * (1.0 - f) + max_lr * f}

        return values
