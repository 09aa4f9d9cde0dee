"""OneCycle: the learning rate goes up and down once while momentum goes down and up, then both may decay."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.curves import cycle, linear_growth, reciprocal_decay
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.rules import OWN_LR, AutoLr, Count, Number, Steps
from lightning_lrsched.schedulers.schedule import Circumstances, no_momentum

MAX_MOMENTUM = 0.999
"""Growing momentum (``decay_mom_rate``) stops here: from 1 on, an optimizer never forgets and its updates explode."""


class OneCycle(ClosedFormLR):
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
        optimizer: the optimizer whose lr and momentum are scheduled.
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
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a low end lies above its high end, or a list is not as long as the
            optimizer's param groups.

    Source:
        L. N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (arXiv 1803.09820);
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.OneCycle``.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> schedule = OneCycle(optimizer, 0.0, 1.0, cycle_first_step_size=4)
        >>> [schedule.lr_at(step)[0] for step in (0, 1, 2, 4, 6, 8, 9)]
        [0.0, 0.25, 0.5, 1.0, 0.5, 0.0, 0.0]
        >>> [round(schedule.momentum_at(step)[0], 9) for step in (0, 2, 4, 8)]
        [0.9, 0.85, 0.8, 0.9]
    """

    low_and_high = (("cycle_min_lr", "cycle_max_lr"), ("cycle_min_mom", "cycle_max_mom"))

    def __init__(
        self,
        optimizer: Optimizer,
        cycle_min_lr: Annotated[
            float | list[float], Number(at_least=0, auto=AutoLr(0.1, of="cycle_max_lr"), finding="low")
        ],
        cycle_max_lr: Annotated[float | list[float], Number(at_least=0, auto=OWN_LR, finding="high")],
        decay_lr_rate: Annotated[float, Number(at_least=0)] = 0.0,
        cycle_first_step_size: Annotated[int, Steps(at_least=1, auto=0.3)] = 2000,
        cycle_second_step_size: Annotated[int | None, Steps(auto=0.6, follows=True)] = None,
        cycle_first_stair_count: Annotated[int, Count()] = 0,
        cycle_second_stair_count: Annotated[int | None, Count()] = None,
        decay_step_size: Annotated[int, Steps(auto=0.1, follows=True)] = 0,
        cycle_momentum: bool = True,
        cycle_min_mom: Annotated[float | list[float], Number(at_least=0, below=1)] = 0.8,
        cycle_max_mom: Annotated[float | list[float], Number(at_least=0, below=1)] = 0.9,
        decay_mom_rate: Annotated[float, Number(at_least=0)] = 0.0,
        last_batch_iteration: int = -1,
    ) -> None:
        super().__init__(optimizer, last_batch_iteration, OneCycle, locals())

    @classmethod
    def complete(cls, parameters: dict[str, Any]) -> None:
        """Make the second half like the first where it is not given."""
        if parameters["cycle_second_step_size"] is None:
            parameters["cycle_second_step_size"] = parameters["cycle_first_step_size"]
        if parameters["cycle_second_stair_count"] is None:
            parameters["cycle_second_stair_count"] = parameters["cycle_first_stair_count"]

    @classmethod
    def without_momentum(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters with ``cycle_momentum`` off."""
        return {**parameters, "cycle_momentum": False}

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return a sentence about a momentum that the optimizer does not have."""
        if not about.parameters["cycle_momentum"]:
            return []
        return no_momentum("cycle_momentum", about.without_momentum, "set cycle_momentum to false")

    @classmethod
    def length(cls, parameters: Mapping[str, Any]) -> tuple[list[str], int]:
        """Return the end of the cycle; the decay after it has none."""
        keys = ["cycle_first_step_size", "cycle_second_step_size"]
        return keys, sum(parameters[key] for key in keys)

    @classmethod
    def ends_low(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether no decay follows the cycle."""
        return not (parameters["decay_step_size"] and parameters["decay_lr_rate"])

    @classmethod
    def preview_steps(cls, parameters: Mapping[str, Any]) -> int:
        """Return the cycle and two intervals of its decay."""
        return int(cls.length(parameters)[1] + 2 * parameters["decay_step_size"])

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, momentum) as a function of the position; momentum is None where it is not cycled."""
        min_lr, max_lr, min_mom, max_mom = p.cycle_min_lr, p.cycle_max_lr, p.cycle_min_mom, p.cycle_max_mom
        first, second, decay_size = p.cycle_first_step_size, p.cycle_second_step_size, p.decay_step_size
        first_stairs, second_stairs = p.cycle_first_stair_count, p.cycle_second_stair_count
        momentum, total = p.cycle_momentum, first + second
        max_growth = max(1.0, MAX_MOMENTUM / max(float(np.max(max_mom)), sys.float_info.min))

        def values(s: int) -> tuple[Any, Any]:
            if s <= total:
                f = cycle(s, first, second, first_stairs, second_stairs)
                low = 1.0 - f
                return min_lr * low + max_lr * f, max_mom * low + min_mom * f if momentum else None
            if not decay_size:
                return min_lr, max_mom if momentum else None
            decay = reciprocal_decay(s - total, decay_size, p.decay_lr_rate)
            growth = min(linear_growth(s - total, decay_size, p.decay_mom_rate), max_growth)
            return min_lr * decay, max_mom * growth if momentum else None

        return values
