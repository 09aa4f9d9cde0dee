"""1Cycle: the learning rate goes up and down once while momentum goes down and up, then both may decay."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np

from lightning_lrsched.schedules.curves import cycle, linear_growth, reciprocal_decay
from lightning_lrsched.schedules.fields import OWN_LR, Count, Number, OfOther, Steps, declared
from lightning_lrsched.schedules.schedule import Curve, Schedule, Value

MAX_MOMENTUM = 0.999
"""Growing momentum (``decay_mom_rate``) stops here: from 1 on, an optimizer never forgets and its updates explode."""

MinLr = Annotated[Value, Number(at_least=0, auto=OfOther(0.1, "cycle_max_lr"), finding="low", per_group=True)]
MaxLr = Annotated[Value, Number(at_least=0, auto=OWN_LR, finding="high", per_group=True)]
Momentum = Annotated[Value, Number(at_least=0, below=1, per_group=True)]
Rate = Annotated[float, Number(at_least=0)]


@declared
class Cycle(Schedule):
    """Cycles lr and momentum once, in opposite directions (1Cycle), and then lets them decay.

    With ``total = first + second`` (the two step sizes) and ``f(s)`` rising in a straight line from 0 at step 0 to 1 at
    step ``first`` and falling back to 0 at ``total``, within the cycle, ``s <= total``::

        lr(s)       = min_lr + (max_lr - min_lr) * f(s)
        momentum(s) = max_mom - (max_mom - min_mom) * f(s)

    After it, with ``i = (s - total) / decay_step_size``::

        lr(s)       = min_lr / (1 + decay_lr_rate * i)
        momentum(s) = max_mom * (1 + decay_mom_rate * i)

    Momentum stops growing in all groups when the largest reaches 0.999. Stairs replace a straight line by that many
    flat steps.

    Momentum is ``momentum`` of SGD and RMSprop and the first beta of the Adam family; other betas stay untouched.

    Args:
        cycle_min_lr: lr at both ends of the cycle; one float, or one per param group.
        cycle_max_lr: lr at the top of the cycle; one float, or one per param group.
        decay_lr_rate: how fast the lr falls after the cycle, per ``decay_step_size``; 0: not at all.
        cycle_first_step_size: length of the rising half [optimizer steps].
        cycle_second_step_size: length of the falling half [optimizer steps]; None: as long as the first.
        cycle_first_stair_count: number of stairs in the rising half; 0: a straight line.
        cycle_second_stair_count: number of stairs in the falling half; None: as many as in the first.
        decay_step_size: interval of the decay phase [optimizer steps]; 0: no decay.
        cycle_momentum: cycle momentum too; False leaves it alone.
        cycle_min_mom: momentum at the top of the cycle, in [0, 1); one float, or one per param group.
        cycle_max_mom: momentum at both ends of the cycle, in [0, 1); one float, or one per param group.
        decay_mom_rate: how fast momentum grows after the cycle, per ``decay_step_size``; 0: not at all.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.OneCycle``.
    """

    type: ClassVar[str] = "OneCycle"
    low_and_high: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cycle_min_lr", "cycle_max_lr"),
        ("cycle_min_mom", "cycle_max_mom"),
    )
    momentum_switch: ClassVar[tuple[str, str]] = ("cycle_momentum", "set cycle_momentum to false")

    cycle_min_lr: MinLr
    cycle_max_lr: MaxLr
    decay_lr_rate: Rate = 0.0
    cycle_first_step_size: Annotated[int, Steps(at_least=1, auto=0.3)] = 2000
    cycle_second_step_size: Annotated[int | None, Steps(auto=0.6, follows=True, optional=True)] = None
    cycle_first_stair_count: Annotated[int, Count()] = 0
    cycle_second_stair_count: Annotated[int | None, Count(optional=True)] = None
    decay_step_size: Annotated[int, Steps(auto=0.1, follows=True)] = 0
    cycle_momentum: bool = True
    cycle_min_mom: Momentum = 0.8
    cycle_max_mom: Momentum = 0.9
    decay_mom_rate: Rate = 0.0

    def completed(self) -> Cycle:
        """Make the second half like the first where it is not given."""
        like_first: dict[str, object] = {}
        if self.cycle_second_step_size is None and isinstance(self.cycle_first_step_size, int):
            like_first["cycle_second_step_size"] = self.cycle_first_step_size
        if self.cycle_second_stair_count is None:
            like_first["cycle_second_stair_count"] = self.cycle_first_stair_count
        return self.with_leaves(like_first)

    @property
    def sets_momentum(self) -> bool:
        """Whether the momentum is cycled."""
        return self.cycle_momentum

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the cycle; the decay after it has none."""
        keys = ["cycle_first_step_size", "cycle_second_step_size"]
        return keys, sum(getattr(self, key) for key in keys)

    @property
    def highest_at(self) -> list[int]:
        """The end of the first half."""
        return [self.cycle_first_step_size]

    @property
    def ends_low(self) -> bool:
        """Whether no decay follows the cycle."""
        return not (self.decay_step_size and self.decay_lr_rate)

    @property
    def preview_steps(self) -> int:
        """The cycle and two intervals of its decay."""
        return self.length[1] + 2 * self.decay_step_size

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return lr and momentum as functions of the position; the lr alone where momentum is not cycled."""
        min_lr, max_lr, min_mom, max_mom = self.cycle_min_lr, self.cycle_max_lr, self.cycle_min_mom, self.cycle_max_mom
        first, second, decay_size = self.cycle_first_step_size, self.cycle_second_step_size or 0, self.decay_step_size
        first_stairs, second_stairs = self.cycle_first_stair_count, self.cycle_second_stair_count or 0
        lr_rate, mom_rate, total = self.decay_lr_rate, self.decay_mom_rate, first + second
        max_growth = max(1.0, MAX_MOMENTUM / max(float(np.max(max_mom)), sys.float_info.min))

        def lr_alone(s: int) -> dict[str, Value]:
            if s < total:
                f = cycle(s, first, second, first_stairs, second_stairs)
                return {"lr": min_lr * (1.0 - f) + max_lr * f}
            return {"lr": min_lr * reciprocal_decay(s - total, decay_size, lr_rate) if decay_size else min_lr}

        def both(s: int) -> dict[str, Value]:
            if s < total:
                f = cycle(s, first, second, first_stairs, second_stairs)
                low = 1.0 - f
                return {"lr": min_lr * low + max_lr * f, "momentum": max_mom * low + min_mom * f}
            if not decay_size:
                return {"lr": min_lr, "momentum": max_mom}
            growth = min(linear_growth(s - total, decay_size, mom_rate), max_growth)
            return {"lr": min_lr * reciprocal_decay(s - total, decay_size, lr_rate), "momentum": max_mom * growth}

        return both if self.cycle_momentum else lr_alone
